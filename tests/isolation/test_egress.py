"""What the rules of `egress` allow."""

import ipaddress
import struct

import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.isolation.egress import (
    MAX_LEARNED,
    REMEMBERED,
    EgressRules,
    Permission,
    SocketAddress,
    answer,
    is_special,
    read_question,
    read_target,
)
from prism.streams.destinations import Destination
from prism.streams.tls import TLSFiles

ip = ipaddress.ip_address


def rules(*entries: str) -> EgressRules:
    return EgressRules((text, None) for text in entries)


def target(address: str, port: int) -> SocketAddress:
    return SocketAddress(ip(address), port)


@pytest.mark.parametrize(
    "text",
    [
        "db",
        "db:",
        "db:0",
        "db:65536",
        "db:+1",
        "db:٣",
        ":5432",
        "http://db:80",
        "a b:1",
        "-db:1",
        "1.2.3:1",
        "10.0.0.300:1",
        "fd00::1:443",
        "*:80",
        "*.:80",
        "a.*.b:80",
        "unix:relative",
        "unix:",
        "",
        "x" * 300 + ":1",
    ],
)
def test_what_is_no_destination(text):
    with pytest.raises(ValueError, match=r"is not|begins with|port"):
        Destination.parse(text)


def test_a_network_with_bits_of_a_host_is_named():
    with pytest.raises(ValueError, match=r"'10\.1\.0\.0/8:1': the network is 10\.0\.0\.0/8"):
        Destination.parse("10.1.0.0/8:1")


@pytest.mark.parametrize(
    ("entry", "allowed", "not_allowed"),
    [
        (
            "10.0.0.0/8:6379",
            ["10.1.2.3:6379"],
            ["11.0.0.1:6379", "10.1.2.3:6380", "[fd00::1]:6379"],
        ),
        ("10.0.0.7:*", ["10.0.0.7:1", "10.0.0.7:65535"], ["10.0.0.8:1"]),
        ("[fd00::/8]:443", ["[fd00::9]:443"], ["[fe80::9]:443", "10.0.0.1:443"]),
        ("169.254.169.254:80", ["169.254.169.254:80"], ["169.254.169.253:80"]),
    ],
)
def test_addresses(entry, allowed, not_allowed):
    def read(text: str) -> SocketAddress:
        host, _, port = text.rpartition(":")
        return target(host.strip("[]"), int(port))

    of = rules(entry)
    assert [text for text in allowed if of.find(read(text), 0.0) is None] == []
    assert [text for text in not_allowed if of.find(read(text), 0.0) is not None] == []


def test_nothing_is_allowed_without_entries():
    of = rules()
    assert of.find(target("127.0.0.1", 80), 0.0) is None
    assert of.find(SocketAddress(path="/run/x"), 0.0) is None
    assert not of.may_ask_for("db")


def test_a_name_allows_the_addresses_it_was_seen_to_have_for_a_while():
    of = rules("db:5432")
    assert of.find(target("10.0.0.5", 5432), 0.0) is None
    assert of.learn("db", [ip("10.0.0.5")], 0.0) == [ip("10.0.0.5")]
    assert of.find(target("10.0.0.5", 5432), REMEMBERED - 1) == Permission("db")
    assert of.find(target("10.0.0.5", 5433), 1.0) is None
    assert of.find(target("10.0.0.5", 5432), REMEMBERED) is None


def test_a_wildcard_is_about_what_is_below_it():
    of = rules("*.kafka.internal:9092")
    assert of.may_ask_for("b1.kafka.internal")
    assert of.may_ask_for("a.b1.kafka.internal")
    assert not of.may_ask_for("kafka.internal")
    assert not of.may_ask_for("evilkafka.internal")
    assert of.names_for(9092) == []
    of.learn("b1.kafka.internal", [ip("10.0.0.5")], 0.0)
    assert of.find(target("10.0.0.5", 9092), 1.0) == Permission("b1.kafka.internal")


SPECIAL = [
    "127.0.0.1",
    "127.1.2.3",
    "0.0.0.0",
    "169.254.169.254",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "ff02::1",
    "fd00:ec2::254",
]


@pytest.mark.parametrize("address", SPECIAL)
def test_no_name_stands_for_this_machine_or_for_a_clouds_metadata(address):
    """An answer of DNS, which others may write, leads nowhere that the operator did not name."""
    of = rules("db:5432")
    assert is_special(ip(address))
    assert of.learn("db", [ip(address), ip("10.0.0.5")], 0.0) == [ip("10.0.0.5")]
    assert of.find(target(address, 5432), 1.0) is None


def test_localhost_stands_for_this_machine():
    of = rules("localhost:5432")
    of.learn("localhost", [ip("127.0.0.1"), ip("::1")], 0.0)
    assert of.find(target("::1", 5432), 1.0) is not None


def test_an_entry_with_tls_says_so():
    tls = TLSFiles("ca.pem", None, None, None)
    of = EgressRules([("db:5432", tls), ("10.0.0.0/8:1", None)])
    of.learn("db", [ip("10.0.0.5")], 0.0)
    assert of.find(target("10.0.0.5", 5432), 1.0) == Permission("db", tls)
    assert of.find(target("10.0.0.5", 1), 1.0) == Permission("", None)


def test_what_is_remembered_is_bounded():
    of = rules("*.internal:1")
    for number in range(MAX_LEARNED + 1):
        of.learn(f"a{number}.internal", [ip(0x0B000000 + number)], 0.0)
    assert of.find(SocketAddress(ip(0x0B000000), 1), 1.0) is None
    assert of.find(SocketAddress(ip(0x0B000000 + MAX_LEARNED), 1), 1.0) is not None
    for number in range(100):
        of.learn(f"b{number}.internal", [ip("10.0.0.1")], 0.0)
    assert of.find(target("10.0.0.1", 1), 1.0) == Permission("b84.internal")


# -- addresses in a process's memory ----------------------------------------------------------


def inet(address: str, port: int) -> bytes:
    return struct.pack("=H", 2) + struct.pack(">H4s8x", port, ip(address).packed)


def inet6(address: str, port: int) -> bytes:
    return struct.pack("=H", 10) + struct.pack(">HI16sI", port, 0, ip(address).packed, 0)


@pytest.mark.parametrize(
    ("sockaddr", "said"),
    [
        (inet("10.0.0.5", 5432), "10.0.0.5:5432"),
        (inet6("fd00::5", 5432), "[fd00::5]:5432"),
        (inet6("::ffff:10.0.0.5", 5432), "10.0.0.5:5432"),
        (b"\x01\0/run/x\0junk", "unix:/run/x"),
        (b"\x01\0/run/x", "unix:/run/x"),
        (b"\x01\0\0abstract", "unix:@abstract"),
        (b"\x01\0", "unix:"),
        (b"\x01\0/\xff", r"unix:/\xff"),
    ],
)
def test_addresses_are_read(sockaddr, said):
    assert str(read_target(sockaddr)) == said


def test_an_address_that_ends_a_connection_is_none():
    assert read_target(b"\0\0" + bytes(14)) is None


@given(st.binary(max_size=128))
def test_any_bytes_are_an_address_or_are_refused(sockaddr):
    try:
        read = read_target(sockaddr)
    except ValueError:
        return
    assert read is None or str(read)


# -- questions to DNS -------------------------------------------------------------------------


def ask(name: str, kind: str = "A") -> bytes:
    return dns.message.make_query(name, kind).to_wire()


def test_a_question_is_answered_by_addresses_of_its_kind():
    addresses = [ip("10.0.0.5"), ip("fd00::5")]
    for kind, shown in (("A", "10.0.0.5"), ("AAAA", "fd00::5")):
        question = read_question(ask("DB.Internal", kind))
        assert question.name == "db.internal"
        response = dns.message.from_wire(answer(question, addresses))
        assert [str(each) for rrset in response.answer for each in rrset] == [shown]
    question = read_question(ask("db", "MX"))
    assert not dns.message.from_wire(answer(question, addresses)).answer


def test_what_is_not_known_does_not_exist():
    response = dns.message.from_wire(answer(read_question(ask("db")), None))
    assert response.rcode() == dns.rcode.NXDOMAIN


@given(st.binary(max_size=600))
def test_any_bytes_are_a_question_or_none(data):
    question = read_question(data)
    assert question is None or answer(question, [ip("10.0.0.5")])


def test_an_answer_over_tcp_is_as_long_as_it_is():
    """What a resolver could take over UDP (EDNS) is no limit."""
    message = dns.message.make_query("db.internal", "A", use_edns=0, payload=512)
    question = read_question(message.to_wire())
    assert question is not None
    many = [ipaddress.ip_address(f"10.0.0.{number}") for number in range(1, 101)]
    found = dns.message.from_wire(answer(question, many))
    assert len(found.answer[0]) == len(many)
