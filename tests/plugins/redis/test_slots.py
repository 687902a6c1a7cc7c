"""Slots: where keys belong, and what servers say of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_plugins.redis.cluster_map import Known
from prism_plugins.redis.slots import (
    ALL,
    SLOTS,
    Address,
    mask_of,
    read_mask,
    read_redirect,
    read_slots,
    slot_of,
    write_mask,
)
from tests.services.redis import ValkeyCluster


@pytest.mark.parametrize(
    ("key", "same"),
    [
        (b"{user1000}.following", b"user1000"),
        (b"foo{}{bar}", None),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{bar}{zap}", b"bar"),
        (b"{}", None),
        (b"{open", None),
        (b"close}", None),
        (b"}{", None),
        (b"", None),
    ],
)
def test_the_text_in_the_first_braces_decides(key: bytes, same: bytes | None) -> None:
    """The examples of the specification."""
    if same is None:
        assert all(slot_of(key + bytes([n])) != slot_of(key) for n in b"abc")
    else:
        assert slot_of(key) == slot_of(same)


def test_the_sum_is_that_of_the_specification() -> None:
    assert slot_of(b"123456789") == 0x31C3 % SLOTS


def test_the_server_puts_keys_where_this_does(shared_server) -> None:
    cluster = shared_server(ValkeyCluster)
    for key in ("", "a", "ns:user:1", "{a}b", "a{}b", "a{b}{c}", "{{a}}", "é", "x" * 300):
        told = cluster.masters[0].ask("CLUSTER", "KEYSLOT", key)
        assert told == b":%d\r\n" % slot_of(key.encode()), key


def test_a_map_as_servers_write_it() -> None:
    reply = [
        [0, 99, [b"10.0.0.1", 7000, b"a" * 40, {}], [b"10.0.0.2", 7000, b"b" * 40, {}]],
        [100, 16383, [b"", 7001, b"c" * 40], [None, 7002, b"d" * 40], [b"?", 1, b"e" * 40]],
        [200, 201, [b"?", 7001, b"f" * 40]],
    ]
    one, two = read_slots(reply, "asked")
    assert one == (0, 99, ("10.0.0.1", 7000), "a" * 40, (("10.0.0.2", 7000),))
    assert two == (100, 16383, ("asked", 7001), "c" * 40, (("asked", 7002),))


@pytest.mark.parametrize(
    "reply", [None, 1, [1], [[0, 99]], [[0, 16384, [b"h", 1, b"i"]]], [[5, 4, [b"h", 1, b"i"]]]]
)
def test_what_is_no_map_is_an_error(reply: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        read_slots(reply, "asked")


def test_redirections() -> None:
    assert read_redirect("MOVED 1 10.0.0.1:7000", "asked") == Address("10.0.0.1", 7000)
    assert read_redirect("ASK 1 ::1:7000", "asked") == Address("::1", 7000)
    assert read_redirect("MOVED 1 :7000", "asked") == Address("asked", 7000)
    for nowhere in ("MOVED 1 ?:7000", "MOVED", "MOVED 1", "ASK 1 host", "ASK 1 host:", "ASK 1 h:x"):
        assert read_redirect(nowhere, "asked") is None


@given(st.integers(min_value=0, max_value=ALL))
def test_a_set_of_slots_is_written_and_read(mask: int) -> None:
    assert read_mask(write_mask(mask)) == mask


def test_how_a_set_of_slots_is_written() -> None:
    assert write_mask(mask_of([(0, 5460), (7000, 7000), (16383, 16383)])) == "0-5460,7000,16383"
    assert write_mask(ALL) == "0-16383"
    assert write_mask(0) == ""
    for wrong in ("-", "1-", "x", "5-4", "16384", "-1", "1,,2", "0-16384", "٣"):
        with pytest.raises(ValueError):
            read_mask(wrong)


@pytest.mark.parametrize(
    "told", [[None, []], [1, []], [b"cluster_current_epoch:x\r\n", []], [b"", None]]
)
def test_what_a_server_says_of_its_cluster_may_be_nothing_of_the_kind(told):
    with pytest.raises(ValueError):
        Known.read(told, "asked")
