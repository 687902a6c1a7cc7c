"""Where a plugin may connect to: the rules of ``isolation.egress``, and what names stand for.

Pure values and tables: nothing here resolves a name or opens a socket; the clock is passed in.
``broker`` asks and acts.
"""

import ipaddress
import struct
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from prism.streams.destinations import UNIX, Destination
from prism.streams.tls import TLSFiles

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

LOCALHOST = "localhost"
DNS_PORT = 53
MAX_LEARNED = 4096
"""Addresses whose names are remembered, the oldest go first."""
MAX_NAMES = 16
"""Names of one address that are remembered."""
REMEMBERED = 3600.0
"""Seconds for which an address stands for the name it was last an answer to: drivers keep the
addresses of their servers for longer than DNS says."""
MAX_ANSWER = 65535
TTL = 30
"""Seconds that the answers to a plugin say they are good for."""


class SocketAddress(NamedTuple):
    """Where a process wants to connect to: an address and a port, or the path of a Unix socket."""

    address: IPAddress | None = None
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.address is None:
            return f"{UNIX}{self.path}"
        shown = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{shown}:{self.port}"


AF_UNSPEC, AF_UNIX, AF_INET, AF_INET6 = 0, 1, 2, 10


def read_target(sockaddr: bytes) -> SocketAddress | None:
    """What a ``struct sockaddr`` says; None for one that ends a connection (AF_UNSPEC).

    Raises:
        ValueError: it is of a family that is not known, or too short.
    """
    if len(sockaddr) < 2:
        raise ValueError("an address of less than two bytes")
    (family,) = struct.unpack_from("=H", sockaddr)
    if family == AF_UNSPEC:
        return None
    if family == AF_UNIX:
        # An abstract one begins with a zero; a path ends with one, or with the address.
        path = sockaddr[2:]
        if not path.startswith(b"\0"):
            path = path.split(b"\0", 1)[0]
        return SocketAddress(path=path.decode(errors="backslashreplace").replace("\0", "@"))
    if family == AF_INET and len(sockaddr) >= 8:
        (port,) = struct.unpack_from(">H", sockaddr, 2)
        return SocketAddress(ipaddress.IPv4Address(sockaddr[4:8]), port)
    if family == AF_INET6 and len(sockaddr) >= 24:
        (port,) = struct.unpack_from(">H", sockaddr, 2)
        address = ipaddress.IPv6Address(sockaddr[8:24])
        return SocketAddress(address.ipv4_mapped or address, port)
    raise ValueError(f"an address of family {family} and {len(sockaddr)} bytes")


def is_special(address: IPAddress) -> bool:
    """Is it one that no name should stand for: of this machine, of its link, of a cloud's
    metadata, of nobody?"""
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or (address.is_reserved and address.version == 4)
        or address == _METADATA_V6
    )


_METADATA_V6 = ipaddress.ip_address("fd00:ec2::254")


class Permission(NamedTuple):
    """``name`` is the host's, where a name allowed it; ``tls``, what to speak to it in the
    plugin's place."""

    name: str = ""
    tls: TLSFiles | None = None


class EgressRules:
    """What ``entries`` allow, and the addresses that their names have been seen to have. Each is a
    destination, as ``Destination.parse`` reads it, and perhaps what to speak TLS with there."""

    def __init__(self, entries: Iterable[tuple[str, TLSFiles | None]]) -> None:
        self._destinations = [(Destination.parse(text), tls) for text, tls in entries]
        self._learned: OrderedDict[IPAddress, dict[str, float]] = OrderedDict()

    def may_ask_for(self, name: str) -> bool:
        """May the plugin know the addresses of the host ``name``?"""
        return any(each.names(name) for each, _ in self._destinations)

    def names_for(self, port: int) -> list[str]:
        """The hosts, by name, that it may connect to on ``port``."""
        found = [each.name for each, _ in self._destinations if each.name and each.has(port)]
        return list(dict.fromkeys(found))

    def learn(self, name: str, addresses: Iterable[IPAddress], now: float) -> list[IPAddress]:
        """Remember that ``name`` has these addresses; returns those that it may stand for."""
        good = [each for each in addresses if name == LOCALHOST or not is_special(each)]
        for address in good:
            names = self._learned.setdefault(address, {})
            names[name] = now + REMEMBERED
            self._learned.move_to_end(address)
            if len(names) > MAX_NAMES:
                del names[next(iter(names))]
        while len(self._learned) > MAX_LEARNED:
            self._learned.popitem(last=False)
        return good

    def find(self, target: SocketAddress, now: float) -> Permission | None:
        """What allows the plugin to connect there; None: nothing does."""
        if target.address is None:
            paths = (each.path for each, _ in self._destinations)
            return Permission() if target.path and target.path in paths else None
        known = self._learned.get(target.address, {})
        names = [name for name, until in known.items() if until > now]
        for each, tls in self._destinations:
            if each.path or not each.has(target.port):
                continue
            if each.network is not None:
                if target.address in each.network:
                    return Permission("", tls)
            elif name := next((name for name in names if each.names(name)), ""):
                return Permission(name, tls)
        return None


# -- questions to DNS ----------------------------------------------------------------------------


class Question(NamedTuple):
    """What a resolver asks: a host's addresses of one version (4, 6; 0: of neither)."""

    message: dns.message.Message
    name: str
    version: int


_VERSIONS = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 6}


def read_question(data: bytes) -> Question | None:
    """The question in a DNS message; None where it is none that can be answered."""
    try:
        message = dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError):
        return None
    if message.flags & dns.flags.QR or message.opcode() != 0 or len(message.question) != 1:
        return None
    [asked] = message.question
    if asked.rdclass != dns.rdataclass.IN:
        return None
    name = asked.name.to_text(omit_final_dot=True).lower()
    return Question(message, name, _VERSIONS.get(asked.rdtype, 0))


def answer(question: Question, addresses: Sequence[IPAddress] | None) -> bytes:
    """The DNS message that answers ``question`` by ``addresses``; None: there is no such name."""
    response = dns.message.make_response(question.message, recursion_available=True)
    [asked] = question.message.question
    if addresses is None:
        response.set_rcode(dns.rcode.NXDOMAIN)
    else:
        texts = [str(each) for each in addresses if each.version == question.version]
        if texts:
            response.answer.append(
                dns.rrset.from_text_list(asked.name, TTL, asked.rdclass, asked.rdtype, texts)
            )
    return response.to_wire(max_size=MAX_ANSWER)  # over TCP, whatever it can take over UDP
