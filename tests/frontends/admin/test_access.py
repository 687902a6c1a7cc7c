import os

import pytest

from prism.access.api_keys import APIKeys, create_key, revoke_key
from prism.access.authentication import Authentication
from prism.access.identity import Identity
from prism.config.errors import ConfigError
from prism.config.types import AdminConfig, AdminRule, AdminTokenConfig
from prism.contract.errors import Forbidden, Unauthenticated
from prism.frontends.admin import Access, AdminToken, Right
from prism.frontends.admin.access import Operators
from prism.server.exchange import Peer

TOKEN = "0123456789abcdef-secret"
SHOWN = {b"authorization": b"Bearer " + TOKEN.encode()}
JSON = {b"content-type": b"application/json; charset=utf-8"}
FORM = {b"content-type": b"application/x-www-form-urlencoded"}
LOCAL = {b"host": b"127.0.0.1:50052"}
WRONG = {b"authorization": b"Bearer 0123456789abcdef-wrong"}


@pytest.fixture
def token(tmp_path) -> AdminToken:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    return AdminToken(file)


TCP = Peer("http", ("127.0.0.1", 1234))


def user(uid: int) -> Peer:
    """Who is at the other end of a Unix socket."""
    return Peer("http", uid=uid)


# (what is open without a token, is there a token, peer, headers, right) -> who, or the error
TABLE = [
    ("read", False, TCP, LOCAL, "READ", "anonymous"),
    ("read", False, TCP, LOCAL | JSON, "CHANGE", Forbidden),  # no token would help
    ("probe", False, TCP, LOCAL, "READ", Forbidden),
    ("read", True, TCP, LOCAL | JSON, "CHANGE", Unauthenticated),
    ("change", False, TCP, LOCAL | JSON, "CHANGE", "anonymous"),
    ("change", False, TCP, LOCAL | FORM, "CHANGE", Forbidden),
    ("change", False, TCP, LOCAL, "CHANGE", Forbidden),
    ("probe", True, TCP, LOCAL, "PROBE", "anonymous"),
    ("probe", True, TCP, LOCAL, "READ", Unauthenticated),
    ("probe", True, TCP, SHOWN, "READ", "token"),
    ("probe", True, TCP, SHOWN | FORM, "CHANGE", "token"),
    ("probe", True, TCP, {b"authorization": b"bearer " + TOKEN.encode()}, "READ", "token"),
    ("probe", True, TCP, {b"authorization": b"Basic " + TOKEN.encode()}, "READ", Unauthenticated),
    ("read", True, TCP, WRONG | LOCAL, "READ", Unauthenticated),
    ("probe", True, TCP, {b"authorization": b"Bearer"}, "READ", Unauthenticated),
    # A page in a browser, its name rebound to this machine.
    ("read", False, TCP, {b"host": b"attacker.example"}, "READ", Forbidden),
    ("read", False, TCP, {b"host": b"127.0.0.1.attacker.example:50052"}, "READ", Forbidden),
    ("change", False, TCP, {b"host": b"attacker.example"} | JSON, "CHANGE", Forbidden),
    ("read", False, TCP, {b"host": b"attacker.example"}, "PROBE", "anonymous"),
    ("probe", True, TCP, SHOWN | {b"host": b"prism.example"}, "CHANGE", "token"),
    ("read", False, TCP, {b"host": b"localhost:1"}, "READ", "anonymous"),
    ("read", False, TCP, {b"host": b"LOCALHOST"}, "READ", "anonymous"),
    ("read", False, TCP, {b"host": b"[::1]:50052"}, "READ", "anonymous"),
    ("read", False, TCP, {b"host": b"192.0.2.1"}, "READ", Forbidden),
    ("read", False, TCP, {}, "READ", "anonymous"),  # HTTP/1.0, which no browser speaks
    ("probe", True, user(os.geteuid()), {}, "CHANGE", f"uid {os.geteuid()}"),
    ("probe", False, user(0), {}, "CHANGE", "uid 0"),
    ("change", False, user(65534), LOCAL | JSON, "PROBE", Forbidden),
]


@pytest.mark.parametrize(("without", "has_token", "peer", "headers", "right", "who"), TABLE)
def test_who_may(token, without, has_token, peer, headers, right, who):
    access = Access([token] if has_token else [], Right[without.upper()])
    if isinstance(who, str):
        assert access.admit(peer, headers, Right[right]) == who
    else:
        with pytest.raises(who) as caught:
            access.admit(peer, headers, Right[right])
        assert "secret" not in str(caught.value)
        assert len(str(caught.value)) > 30  # says the way out


@pytest.mark.parametrize(
    ("fields", "without", "has_token"),
    [
        ({}, Right.READ, False),
        ({"without_token": "change"}, Right.CHANGE, False),
        ({"without_token": "probe"}, Right.PROBE, False),
        ({"token_file": "token"}, Right.PROBE, True),
        ({"token_file": "token", "without_token": "read"}, Right.READ, True),
    ],
)
def test_what_the_configuration_says(token, tmp_path, monkeypatch, fields, without, has_token):
    monkeypatch.chdir(tmp_path)
    access = Access.from_config(AdminConfig(**fields))
    assert access.without_token is without
    assert bool(access.tokens) is has_token


BAD_TOKENS = [
    (None, "No such file or directory"),
    ("", "it is empty"),
    ("hunter2", "it is shorter than 16 characters"),
    ("0123456789 abcdef0", "one line of ASCII"),
    ("0123456789abcdef\n0123456789abcdef", "one line of ASCII"),
    ("0123456789abcdéf", "one line of ASCII"),
]


def written(file, text, mode=0o600):
    file.write_text(text)
    file.chmod(mode)
    return str(file)


def test_named_tokens_have_rights_of_their_own(tmp_path):
    ann = AdminTokenConfig(name="ann", file=written(tmp_path / "a", "a" * 32), may="change")
    prometheus = AdminTokenConfig(name="prometheus", file=written(tmp_path / "p", "p" * 32))
    access = Access.from_config(AdminConfig(tokens=[ann, prometheus]))
    assert access.without_token is Right.PROBE

    def admit(text, right):
        return access.admit(TCP, {b"authorization": b"Bearer " + text.encode()}, right)

    assert admit("a" * 32, Right.CHANGE) == "token 'ann'"
    assert admit("p" * 32, Right.READ) == "token 'prometheus'"
    with pytest.raises(Forbidden, match="'prometheus' may read and not change"):
        admit("p" * 32, Right.CHANGE)
    with pytest.raises(Unauthenticated, match=r"admin\.tokens"):
        admit("x" * 32, Right.READ)
    written(tmp_path / "p", "q" * 32)
    access.reload()
    assert admit("q" * 32, Right.READ) == "token 'prometheus'"
    with pytest.raises(Unauthenticated):
        admit("p" * 32, Right.READ)


def test_rights_include_those_before_them(tmp_path):
    tokens = [
        AdminTokenConfig(name=may, file=written(tmp_path / may, may * 16), may=may)
        for may in ("read", "operate", "change")
    ]
    access = Access.from_config(AdminConfig(tokens=tokens))
    for number, token in enumerate(tokens):
        shown = {b"authorization": b"Bearer " + token.may.encode() * 16}
        for right in Right:
            if right <= number + 1:
                assert access.admit(TCP, shown, right) == f"token {token.may!r}"
            else:
                with pytest.raises(Forbidden, match=f"may {token.may} and not "):
                    access.admit(TCP, shown, right)


RULES = [
    AdminRule(who=["ann", "group:platform"], may="change"),
    AdminRule(who=["group:billing"], may="operate"),
    AdminRule(who=["*"]),
]


@pytest.mark.parametrize(
    ("name", "groups", "right"),
    [
        ("ann", [], Right.CHANGE), ("eve", ["platform", "billing"], Right.CHANGE),
        ("eve", ["billing"], Right.OPERATE), ("eve", [], Right.READ),
    ],
)  # fmt: skip
async def test_credentials_of_the_data_port(token, tmp_path, name, groups, right):
    key, entry = create_key(tmp_path / "keys.yaml", name, groups)
    keys = APIKeys(tmp_path / "keys.yaml")
    access = Access([token], Right.PROBE, Operators(Authentication(keys), RULES))
    shown = [(b"authorization", f"Bearer {key}".encode())]
    identity = await access.recognize(TCP, shown)
    assert access.identify(TCP, dict(shown), identity) == f"principal {name!r}"
    for needed in Right:
        if needed <= right:
            assert access.admit(TCP, dict(shown), needed, identity) == f"principal {name!r}"
        else:
            with pytest.raises(Forbidden, match=r"admin\.allow says what each may"):
                access.admit(TCP, dict(shown), needed, identity)
    assert access.may_read(TCP, dict(shown), identity)
    revoke_key(tmp_path / "keys.yaml", entry.id)
    keys.use(keys.read())
    assert not access.may_read(TCP, dict(shown), identity)
    # A token of the port's own is one, too, and no other is.
    assert await access.recognize(TCP, list(SHOWN.items())) is None
    assert access.admit(TCP, SHOWN, Right.CHANGE) == "token"
    with pytest.raises(Unauthenticated, match=r"no token of the admin port .*, nor good otherwise"):
        await access.recognize(TCP, list(WRONG.items()))
    with pytest.raises(Unauthenticated, match=r"or of somebody whom admin\.allow names"):
        access.admit(TCP, {}, Right.READ)
    assert await access.recognize(user(os.geteuid()), shown) is None


async def test_who_is_in_no_rule_may_probe():
    access = Access(operators=Operators(Authentication(certificate_name="spiffe"), RULES[:1]))
    eve = Identity("eve")
    assert access.admit(TCP, {}, Right.PROBE, eve) == "principal 'eve'"
    with pytest.raises(Forbidden, match="'eve' may probe and not read"):
        access.admit(TCP, {}, Right.READ, eve)
    assert not access.may_read(TCP, {}, eve)
    nobody = TCP._replace(certificate=b"no certificate")  # as one without a name of that kind
    assert await access.recognize(nobody, []) is None


def test_what_a_browser_shows_by_itself_lets_no_page_change_anything():
    """A client certificate, unlike a token, goes with what a page of another site sends."""
    access = Access(operators=Operators(Authentication(certificate_name="spiffe"), RULES))
    ann = Identity("ann")
    assert access.admit(TCP, JSON, Right.CHANGE, ann)
    for right in (Right.OPERATE, Right.CHANGE):
        with pytest.raises(Forbidden, match="content-type: application/json"):
            access.admit(TCP, FORM, right, ann)
    assert access.admit(TCP, FORM | SHOWN, Right.CHANGE, ann)


def test_two_files_with_one_token_would_not_say_who_asks(tmp_path):
    first = written(tmp_path / "a", "a" * 32)
    second = AdminTokenConfig(name="ann", file=written(tmp_path / "b", "a" * 32))
    with pytest.raises(ConfigError, match=r"admin.tokens \(ann\): another file has the same"):
        Access.from_config(AdminConfig(token_file=first, tokens=[second]))


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        (0o644, "other users may read it .mode 0644.; chmod it to 0600"),
        (0o604, "other users may read it"),
        (0o620, "other users may change it"),
        (0o602, "other users may change it"),
        (0o640, None),
        (0o400, None),
    ],
)
def test_a_token_is_private(tmp_path, mode, why):
    file = tmp_path / "token"
    written(file, TOKEN, mode)
    if why is None:
        assert AdminToken(file).matches(TOKEN.encode())
        return
    with pytest.raises(ConfigError, match=why):
        AdminToken(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_token_is_the_proxys_own(tmp_path):
    file = tmp_path / "token"
    written(file, TOKEN)
    os.chown(file, 65534, -1)
    with pytest.raises(ConfigError, match="it belongs to uid 65534; it must be root's"):
        AdminToken(file)


@pytest.mark.parametrize(("content", "why"), BAD_TOKENS)
def test_a_token_file_that_cannot_be_used(tmp_path, content, why):
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
        file.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        AdminToken(file)
    assert why in str(caught.value)
    assert str(file) in str(caught.value)
    assert not content or content not in str(caught.value)


def test_a_token_is_replaced_or_kept(token, tmp_path, caplog):
    file = tmp_path / "token"
    file.write_text("another-token-of-operators")
    assert token.reload()
    assert token.matches(b"another-token-of-operators")
    assert not token.matches(TOKEN.encode())
    file.write_text("hunter2")
    assert not token.reload()
    assert token.matches(b"another-token-of-operators")
    assert "shorter than 16" in caplog.text
    assert "another-token" not in caplog.text + repr(token) + repr(vars(token))
