"""The header of the PROXY protocol, with which a load balancer that passes on bytes says, before
any of them, whose connection it is: version 1, a line of text, and version 2, which is binary.

(The PROXY protocol, Willy Tarreau, HAProxy Technologies: sections 2.1 and 2.2.)
"""

import re
import socket
import struct
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from prism.server.forwarded import Client

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
"""How version 2 begins: with what no other protocol does."""
MAX_LINE = 107
"""Bytes of version 1, its CRLF included: the longest that there can be."""
MAX_BINARY = 4096
"""Bytes of version 2. The specification has receivers take 536 at least; beyond them there is
room for what balancers add about a client (its certificate's names, the id of a network)."""

_PREFIX = b"PROXY "
_FIXED = struct.Struct("!12sBBH")  # the signature, version and command, family, length of the rest
_PORT = "(0|[1-9][0-9]{0,4})"
_ADDRESSES = re.compile(
    rf"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) {_PORT} {_PORT}"
).fullmatch
_LOCAL, _PROXIED = 0x20, 0x21
_SIZES = {0: 0, 1: 12, 2: 36, 3: 216}  # of the addresses: not known, IPv4, IPv6, Unix
_IP = {0x11: (socket.AF_INET, 4), 0x21: (socket.AF_INET6, 16)}  # over TCP


class ProxyHeaderError(Exception):
    """What a proxy has sent is no PROXY header; says why, without its bytes."""


class ProxyHeader(NamedTuple):
    """A header of ``size`` bytes. ``client`` is ``None`` where it names nobody: the proxy asks for
    itself (LOCAL), or does not know (UNKNOWN)."""

    size: int
    client: Client | None = None


def parse(data: bytes) -> ProxyHeader | None:
    """The header that ``data`` begins with; ``None``: more of it must come. The result never
    depends on what comes after the header.

    Raises:
        ProxyHeaderError: ``data`` does not begin with a header.
    """
    if data.startswith(SIGNATURE[: len(data)]):
        return _binary(data)
    if data.startswith(_PREFIX[: len(data)]):
        return _line(data)
    raise ProxyHeaderError("it does not begin with one")


def _line(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, MAX_LINE)
    if end < 0:
        if len(data) >= MAX_LINE:
            raise ProxyHeaderError(f"a line longer than {MAX_LINE} bytes")
        return None
    text, size = data[:end].decode("latin-1"), end + 2
    if text == "PROXY UNKNOWN" or text.startswith("PROXY UNKNOWN "):
        return ProxyHeader(size)  # what else it says is not to be looked at
    match = _ADDRESSES(text)
    if match is None:
        raise ProxyHeaderError("a line that is not of version 1")
    version, *ports = int(match[1]), int(match[4]), int(match[5])
    try:
        source, destination = ip_address(match[2]), ip_address(match[3])
    except ValueError:
        raise ProxyHeaderError("no IP address in its place") from None
    if not source.version == destination.version == version:
        raise ProxyHeaderError(f"an address that is not of TCP{version}")
    if max(ports) > 65535:
        raise ProxyHeaderError("no port in its place")
    return ProxyHeader(size, (_written(match[2]), ports[0]))


def _binary(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED.size:
        return None
    _, command, family, length = _FIXED.unpack_from(data)
    size = _FIXED.size + length
    if command not in {_LOCAL, _PROXIED}:
        raise ProxyHeaderError(f"no version and command: {command:#04x}")
    if size > MAX_BINARY:
        raise ProxyHeaderError(f"{size} bytes, the most is {MAX_BINARY}")
    if command == _PROXIED and (family >> 4 not in _SIZES or family & 15 > 2):
        raise ProxyHeaderError(f"no family and transport: {family:#04x}")
    if command == _PROXIED and length < _SIZES[family >> 4]:
        raise ProxyHeaderError(f"{length} bytes are too few for its addresses")
    if len(data) < size:
        return None
    if command == _LOCAL or family not in _IP:
        return ProxyHeader(size)
    kind, width = _IP[family]
    (port,) = struct.unpack_from("!H", data, _FIXED.size + 2 * width)
    host = socket.inet_ntop(kind, data[_FIXED.size : _FIXED.size + width])
    return ProxyHeader(size, (_written(host), port))  # the rest says more of it (TLV)


def _written(host: str) -> str:
    """An address in the one way that the log and the limits know it by."""
    address = ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
