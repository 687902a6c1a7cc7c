"""Whose request it is that a reverse proxy or load balancer has passed on.

Each proxy adds the address that it was asked from at the end of a header, so what the trusted
ones have added is read from the right: the last address that is no trusted proxy's is the client.
What stands before it was the client's to write, and is not believed.
"""

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network

Headers = list[tuple[bytes, bytes]]
"""Names in lower case. A front end's are checked by itself: no CR, LF or NUL in any of them."""
Client = tuple[str, int]

_PAIR = re.compile(r'\s*([^\s=;"]+)=("(?:[^"\\]|\\.)*"|[^;"]*)\s*(?:;|$)').match  # RFC 7239, 4
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::(\d{1,5}))?|([^:]*):(\d{1,5})").fullmatch
_MAX_VALUE = 4096
"""Bytes of the header that are looked at, from its end."""


class TrustedProxies:
    """The proxies in ``networks`` (CIDR), which say in ``header`` who asks."""

    def __init__(self, networks: Iterable[str], header: str = "x-forwarded-for") -> None:
        self._networks = [ip_network(network) for network in networks]
        self._header = header.encode("ascii")

    def trusts(self, client: Client | None) -> bool:
        """Is ``client`` one of them?"""
        if client is None or not self._networks:
            return False
        try:
            address = ip_address(client[0].partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)

    def client_of(self, headers: Headers, proxy: Client) -> Client:
        """Who asked ``proxy``, a trusted one, for the request with these ``headers``; ``proxy``
        itself where they do not say. The port is 0 where it is not known."""
        value = b",".join(value for name, value in headers if name == self._header)
        text = value[-_MAX_VALUE:].decode("latin-1")
        named = text.split(",") if self._header != b"forwarded" else None
        client = proxy
        for item in _forwarded_for(text) if named is None else reversed(named):
            found = _address(item.strip())
            if found is None:
                break
            client = found
            if not self.trusts(found):
                break
        return client


def _forwarded_for(text: str) -> Iterator[str]:
    """Whom each element of ``Forwarded`` names, the last element first; "" where it does not say.

    Read from the right, quotes too: what the client wrote, such as a quote without an end, then
    takes nothing from what stands behind it, and a proxy may quote what the client has named.
    """
    end, quoted = len(text), False
    for index in range(len(text) - 1, -1, -1):
        if text[index] == '"':
            start = index
            while start and text[start - 1] == "\\":
                start -= 1
            quoted ^= (index - start) % 2 == 0  # else it is escaped
        elif text[index] == "," and not quoted:
            yield _for(text[index + 1 : end])
            end = index
    yield _for(text[:end])


def _for(element: str) -> str:
    """The node that the parameter ``for`` of an element names, without its quotes."""
    found, place = "", 0
    while (pair := _PAIR(element, place)) is not None:
        if pair[1].lower() == "for":
            found = "" if found else pair[2].strip().strip('"')
        place = pair.end()
    return found if place == len(element) else ""


def _address(text: str) -> Client | None:
    """``192.0.2.1``, ``192.0.2.1:80``, ``2001:db8::1`` or ``[2001:db8::1]:80``."""
    host, port = text, "0"
    match = _WITH_PORT(text)
    if match is not None:
        host, port = match[1] or match[3] or "", match[2] or match[4] or "0"
    try:
        return str(ip_address(host)), int(port)
    except ValueError:
        return None
