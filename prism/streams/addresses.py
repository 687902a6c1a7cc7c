"""How addresses are written and read: of listeners, of plugins, of Unix sockets.

Pure values: nothing here resolves a name or opens a socket.
"""

import ipaddress
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

UNIX = "unix:"
"""What comes before the path where an address may also be a host."""
MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path: ``sun_path`` has 108, and the kernel adds a zero."""
_NO_PORT = "the port must be a number from 1 to 65535"


class Address(NamedTuple):
    """Where a listener can be reached; ``str()`` gives a URL, of a Unix socket ``unix:`` and its
    path, which is its ``host``."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        if self.host.startswith("/"):
            return f"{UNIX}{self.host}"
        return f"{self.scheme}://{bracketed(self.host)}:{self.port}"


class WebSocketURL(NamedTuple):
    """Where a plugin behind a WebSocket is."""

    secure: bool
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> "WebSocketURL":
        """Read ``wss://host[:port]/path`` or ``ws://…``.

        Raises:
            ValueError: anything else; the message is a sentence for the operator.
        """
        parts = _parts_of(url, ("ws", "wss"), "write wss://host/path, or ws:// for loopback")
        if parts.username is not None or parts.fragment:
            raise ValueError("leave user names and fragments out of the URL")
        port = _port_of(parts)
        secure = parts.scheme == "wss"
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(secure, parts.hostname or "", port or (443 if secure else 80), target)

    @property
    def authority(self) -> str:
        """For the Host header: the port only where it is not the scheme's own."""
        host = bracketed(self.host)
        default = 443 if self.secure else 80
        return host if self.port == default else f"{host}:{self.port}"


class StoreURL(NamedTuple):
    """Where a Redis is."""

    secure: bool
    host: str
    port: int
    database: int


def parse_store_url(url: str) -> StoreURL:
    """Read ``rediss://host[:port][/database]`` or ``redis://…``.

    Raises:
        ValueError: anything else; the message is a sentence for the operator, without the URL, as
            that may have a password in it.
    """
    form = "write rediss://host:6379/0, or redis:// for plain text"
    parts = _parts_of(url, ("redis", "rediss"), form)
    if parts.username is not None or parts.password is not None:
        raise ValueError("leave user and password out of the URL: they are keys beside it")
    if parts.query or parts.fragment:
        raise ValueError("the URL ends with the number of a database, as in redis://host:6379/0")
    port = _port_of(parts)
    database = parts.path.removeprefix("/") or "0"
    if not (database.isascii() and database.isdigit() and len(database) < 5):
        raise ValueError("after the host stands the number of a database, as in redis://host/0")
    host = parts.hostname or ""
    return StoreURL(parts.scheme == "rediss", host, port or 6379, int(database))


def _parts_of(url: str, schemes: Sequence[str], form: str) -> SplitResult:
    """The parts of a URL with a host. Raises ValueError: it is none; Python's words for that are
    not passed on, which may quote a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(form) from None
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(form)
    return parts


def _port_of(parts: SplitResult) -> int | None:
    """The port, if the URL has one. Raises ValueError: it is none."""
    with suppress(ValueError):
        if parts.port != 0:
            return parts.port
    raise ValueError(_NO_PORT)


def parse_endpoint(text: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[IPv6]:port``; the brackets are taken off.

    Raises:
        ValueError: anything else; the message is a sentence for the operator.
    """
    if "://" in text or "/" in text:
        raise ValueError("write host:port, without a scheme or a path")
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError("write host:port")
    in_brackets = host.startswith("[") and host.endswith("]")
    if ":" in host and not in_brackets:
        raise ValueError("put an IPv6 address in brackets: [::1]:20100")
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise ValueError(_NO_PORT)
    return (host[1:-1] if in_brackets else host), int(port)


def bracketed(host: str) -> str:
    """``host`` as it stands in URLs: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach, or be reached at, ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def is_address(host: str) -> bool:
    """Whether ``host`` is an IP address, rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def can_be_listened_on(host: str) -> bool:
    """Whether ``host`` is an IP address or ``localhost``, rather than a name to be resolved."""
    return is_address(host) or host == "localhost"


def unix_path(address: str) -> str | None:
    """The path in ``unix:/path``; ``None`` for any other address."""
    return address.removeprefix(UNIX) if address.startswith(UNIX) else None


def check_socket_path(path: str | os.PathLike[str]) -> None:
    """That the kernel takes the path of a Unix socket.

    Raises:
        ValueError: it is too long; the message is a sentence for the operator.
    """
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise ValueError(
            f"the socket's path has {size} bytes; at most {MAX_SOCKET_PATH} are possible"
        )
