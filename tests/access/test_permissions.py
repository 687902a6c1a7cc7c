import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.access.identity import ANONYMOUS, Identity
from prism.access.permissions import (
    ADMIN,
    EVERYTHING,
    MAX_REMEMBERED,
    READ,
    WRITE,
    AccessTable,
    needed,
)
from prism.config.types import NamespaceAccess
from prism.contract.errors import Forbidden
from prism.contract.messages import OperationAccess, OperationDeclaration


def access(*allow, owners=(), mode="enforce"):
    rules = [{"who": list(who), "permissions": list(permissions)} for who, permissions in allow]
    plain = {"owners": list(owners), "allow": rules, "mode": mode}
    return msgspec.convert(plain, NamespaceAccess)


RULES = access(
    (("reports", "group:billing"), ("read",)),
    (("spiffe://prod/web/*",), ("read", "write")),
    (("scope:orders.admin",), ("admin",)),
    owners=["group:platform"],
)


@pytest.mark.parametrize(
    ("identity", "allowed"),
    [
        (Identity("reports"), READ),
        (Identity("reports2"), 0),
        (Identity("Reports"), 0),
        (Identity("ada", frozenset({"billing"})), READ),
        (Identity("billing"), 0),
        (Identity("group:billing"), 0),
        (Identity("ada", scopes=frozenset({"billing"})), 0),
        (Identity("spiffe://prod/web/1"), READ | WRITE),
        (Identity("spiffe://prod/web/"), READ | WRITE),
        (Identity("spiffe://prod/webhook"), 0),
        (Identity("spiffe://prod/web/*"), READ | WRITE),
        (Identity("ada", scopes=frozenset({"orders.admin"})), ADMIN),
        (Identity("ada", frozenset({"platform"})), EVERYTHING),
        (Identity("ada", frozenset({"billing"}), frozenset({"orders.admin"})), READ | ADMIN),
        (ANONYMOUS, 0),
    ],
    ids=repr,
)
def test_who_may_do_what(identity, allowed):
    table = AccessTable("orders", RULES)
    assert table.permissions(identity) == allowed
    assert table.permissions(identity) == allowed  # what is remembered is the same
    assert table.admits(identity) is (allowed != 0)
    for permission in (READ, WRITE, ADMIN):
        row = table.deciding(identity, permission)
        assert (row is not None) is bool(allowed & permission)


def test_without_rules_nobody_may_do_anything():
    assert AccessTable("orders").permissions(Identity("root")) == 0
    assert AccessTable("orders").deciding(Identity("root"), READ) is None


def test_a_star_is_everybody_who_is_authenticated():
    table = AccessTable("orders", access((("*",), ("read",))))
    assert table.permissions(Identity("somebody")) == READ
    assert table.permissions(ANONYMOUS) == 0


def test_what_is_not_declared_is_a_write():
    assert needed(OperationDeclaration(name="x")) == WRITE
    found = [needed(OperationDeclaration(access=kind)) for kind in OperationAccess]
    assert found == [WRITE, READ, WRITE, ADMIN]


def test_a_refusal_names_what_it_takes_but_no_namespace_that_is_closed():
    table = AccessTable("orders", RULES)
    with pytest.raises(Forbidden, match=r"may not call 'set' .* it takes the permission write"):
        table.check(Identity("reports"), "set", WRITE)
    with pytest.raises(Forbidden, match="no namespace 'orders' is open to 'eve'"):
        table.check(Identity("eve"), "get", READ)
    table.check(Identity("reports"), "get", READ)


def test_a_dry_run_refuses_nothing_and_says_so_once(caplog):
    table = AccessTable("orders", access(mode="dry_run"))
    for _ in range(3):
        table.check(Identity("eve"), "get", READ)
    assert table.admits(Identity("eve"))
    assert not table.admits(ANONYMOUS)
    assert table.allows(Identity("eve"), WRITE)
    (record,) = caplog.records
    assert "'eve' would not be allowed to call 'get' in namespace orders" in record.getMessage()


def test_another_table_decides_anew_and_an_identity_remembers_a_bounded_number():
    ada = Identity("ada")
    assert AccessTable("orders", access((("ada",), ("read",)))).permissions(ada) == READ
    assert AccessTable("orders", access((("ada",), ("write",)))).permissions(ada) == WRITE
    for number in range(3 * MAX_REMEMBERED):
        AccessTable(f"n{number}", RULES).permissions(ada)
    assert len(ada.decisions) <= MAX_REMEMBERED


def test_the_deciding_row_is_the_first_one():
    table = AccessTable("orders", RULES)
    row = table.deciding(Identity("x", frozenset({"billing"})), READ)
    assert (row.path, row.who) == (("allow", 0, "who", 1), "group:billing")
    assert row.place == "allow[0].who[1]"
    row = table.deciding(Identity("x", frozenset({"billing", "platform"})), READ)
    assert row.path == ("owners", 0)


_names = st.sampled_from(["a", "ab", "abc", "b", "a/b", "a/c"])
_who = st.one_of(
    _names,
    _names.map("{}*".format),
    st.just("*"),
    _names.map("group:{}".format),
    _names.map("scope:{}".format),
)
_permissions = st.lists(st.sampled_from(["read", "write", "admin"]), min_size=1)
_sets = st.frozensets(_names, max_size=2)


@given(
    st.lists(st.tuples(st.lists(_who, min_size=1, max_size=3), _permissions), max_size=5),
    st.lists(_who, max_size=2),
    st.builds(Identity, _names, _sets, _sets),
)
def test_the_tables_say_what_the_rows_say_one_by_one(allow, owners, identity):
    def fits(who):
        kind, _, name = who.partition(":")
        if kind == "group":
            return name in identity.groups
        if kind == "scope":
            return name in identity.scopes
        return identity.name.startswith(who[:-1]) if who.endswith("*") else identity.name == who

    rules = access(*allow, owners=owners)
    expected = EVERYTHING if any(map(fits, owners)) else 0
    for who, permissions in allow:
        if any(map(fits, who)):
            for permission in permissions:
                expected |= {"read": READ, "write": WRITE, "admin": ADMIN}[permission]
    assert AccessTable("n", rules).permissions(identity) == expected
