"""HTTP for guests, to the origins that are granted and no further.

Where a name leads is decided here and once: it is looked up, each address is checked, and the
connection goes to the one that was checked, so that no second answer of DNS can lead elsewhere.
A name may lead to public addresses, and to ``networks`` of its grant. Redirects are given to the
guest, never followed. The proxies of the environment are not used.

``connect`` is the one place that opens a connection.
"""

import base64
import binascii
import http.client
import re
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from time import monotonic
from urllib.parse import urlsplit

import msgspec

MAX_BODY = 8 * 1024 * 1024
"""Bytes of an answer's body, after decoding of what chunked means; more is an error."""
MAX_SECONDS = 30.0
"""For one request, whatever time the call has."""
MAX_URL = 8192

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OURS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"}
)
"""Header fields that say where a message ends and who is asked: they are not the guest's."""
_is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_is_value = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch
_is_target = re.compile(r"[\x21-\x7e]*").fullmatch
_is_host = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?").fullmatch

Address = IPv4Address | IPv6Address


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A granted origin, ``https://host[:port]``, and the networks that its name may lead to beside
    public addresses."""

    origin: str
    networks: list[str] = []


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str
    method: str = "GET"
    headers: dict[str, str] = {}
    body: str | None = None
    body_base64: str | None = None


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    status: int = 0
    headers: dict[str, str] = {}
    body: str | None = None
    body_base64: str | None = None
    error: str = ""


class _Refused(Exception):
    """What is not done, and why; the guest is told."""


class Outgoing:
    """Makes the requests of guests; each blocks its thread."""

    def __init__(self, origins: list[Origin]) -> None:
        self._granted = {_key(*_parsed(each.origin)): each for each in origins}

    def fetch(
        self, request: bytes, deadline: float, on_stop: Callable[[Callable[[], None]], None]
    ) -> bytes:
        """The answer to a request, both JSON; never raises.

        ``deadline`` is on the monotonic clock. ``on_stop`` is given what ends the request early.
        """
        try:
            answer = self._fetch(request, min(deadline, monotonic() + MAX_SECONDS), on_stop)
        except _Refused as error:
            answer = _Answer(error=str(error))
        except (OSError, http.client.HTTPException, ValueError) as error:
            answer = _Answer(error=f"{type(error).__name__}: {error}"[:500])
        return msgspec.json.encode(answer)

    def _fetch(
        self, text: bytes, deadline: float, on_stop: Callable[[Callable[[], None]], None]
    ) -> _Answer:
        try:
            request = msgspec.json.decode(text, type=_Request)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise _Refused(f"the request cannot be used: {error}") from None
        scheme, host, port, target = self._place(request.url)
        body = _body(request)
        headers = _headers(request)
        granted = self._granted[_key(scheme, host, port)]
        stream = connect(host, port, granted.networks, deadline)
        stop = _Stop(stream)
        on_stop(stop)
        timer = threading.Timer(max(0.0, deadline - monotonic()), stop)
        timer.daemon = True
        timer.start()
        try:
            connection = http.client.HTTPConnection(host, port)
            if scheme == "https":
                stream = _context().wrap_socket(stream, server_hostname=host)
                connection = http.client.HTTPSConnection(host, port, context=_context())
            connection.sock = stream
            connection.request(request.method, target, body, headers)
            answer = _read(connection.getresponse())
        finally:
            timer.cancel()
            stop.forget()
            with suppress(OSError):
                stream.close()
        if stop.was_used:  # a body that lasts until the connection ends would look whole
            raise TimeoutError("the answer did not come in time")
        return answer

    def _place(self, url: str) -> tuple[str, str, int, str]:
        """Scheme, host, port and target of a granted URL.

        Raises:
            _Refused: it is none, or not granted.
        """
        if len(url) > MAX_URL or _is_target(url) is None:
            raise _Refused("the URL is too long, or has characters that must be escaped")
        try:
            scheme, host, port = _parsed(url)
            parts = urlsplit(url)
        except ValueError as error:
            raise _Refused(f"the URL cannot be used: {error}") from None
        if _key(scheme, host, port) not in self._granted:
            raise _Refused(f"{scheme}://{host}:{port} is not granted to this plugin")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return scheme, host, port, target


def _parsed(url: str) -> tuple[str, str, int]:
    """Scheme, host and port; raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"its scheme is {parts.scheme!r}, and only http and https are known")
    if "@" in parts.netloc or "\\" in url:
        raise ValueError("it names a user")
    host = (parts.hostname or "").lower().rstrip(".")
    if ":" in host and "%" not in host:  # a zone says which link, which is not the guest's to say
        host = str(IPv6Address(host))
    elif _is_host(host) is None:
        raise ValueError(f"{host!r} is no host")
    port = parts.port if parts.port is not None else {"http": 80, "https": 443}[parts.scheme]
    return parts.scheme, host, port


def _key(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{host}:{port}"


def _body(request: _Request) -> bytes | None:
    if request.method not in _METHODS:
        raise _Refused(f"the method {request.method[:20]!r} is none of {', '.join(_METHODS)}")
    if request.body_base64 is None:
        return None if request.body is None else request.body.encode()
    try:
        return base64.b64decode(request.body_base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _Refused(f"body_base64 cannot be used: {error}") from None


def _headers(request: _Request) -> dict[str, str]:
    headers = {"user-agent": "prism-plugin"}
    for name, value in request.headers.items():
        known = name.lower()
        if _is_token(name) is None or _is_value(value) is None:
            raise _Refused(f"the header {name[:50]!r} cannot be sent")
        if known in _OURS or known.startswith("proxy-"):
            raise _Refused(f"the header {known!r} is not a plugin's to set")
        headers[known] = value
    return headers


def _read(response: http.client.HTTPResponse) -> _Answer:
    body = response.read(MAX_BODY + 1)
    if len(body) > MAX_BODY:
        raise _Refused(f"the answer's body has more than {MAX_BODY} bytes")
    if response.length:  # as Content-Length said; a read with a limit does not look at it
        raise http.client.IncompleteRead(body, response.length)
    headers = {name.lower(): value for name, value in response.getheaders()}
    try:
        return _Answer(status=response.status, headers=headers, body=body.decode())
    except UnicodeDecodeError:
        encoded = base64.b64encode(body).decode()
        return _Answer(status=response.status, headers=headers, body_base64=encoded)


class _Stop:
    """Called from another thread, it ends a connection: its owner's read or write then fails."""

    def __init__(self, stream: socket.socket) -> None:
        self._handle = stream.dup()  # TLS takes the socket's own descriptor over
        self._lock = threading.Lock()
        self.was_used = False

    def __call__(self) -> None:
        with self._lock, suppress(OSError):
            self._handle.shutdown(socket.SHUT_RDWR)
            self.was_used = True

    def forget(self) -> None:
        """The connection has served: nothing ends it any more."""
        with self._lock:
            self._handle.close()


@cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


# -- where it connects to ----------------------------------------------------------------


def connect(host: str, port: int, networks: list[str], deadline: float) -> socket.socket:
    """A connection to ``host``, at an address that it may lead to.

    Raises:
        _Refused: it leads elsewhere.
        OSError: it cannot be reached in time.
    """
    literal = _literal(host)
    error: OSError = OSError(f"{host} has no address")
    for _, kind, _, _, place in _look_up(host, port):
        address = ip_address(str(place[0]).partition("%")[0])
        if literal is None and not may_lead_to(address, networks):
            raise _Refused(
                f"{host} leads to {address}, which is not public; "
                "`networks` of its grant can allow that"
            )
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError(f"{host} was not reached in time")
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        stream = socket.socket(family, kind)
        try:
            stream.settimeout(left)
            stream.connect(place)
        except OSError as problem:
            stream.close()
            error = problem
        else:
            return stream
    raise error


def _look_up(host: str, port: int) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


def _literal(host: str) -> Address | None:
    """``host`` as an address, if it is written as one: then its grant has named it."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def may_lead_to(address: Address, networks: list[str]) -> bool:
    """May a name lead to ``address``? Addresses that carry another one are judged by that, too."""
    inner: list[Address | None] = []
    if isinstance(address, IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, _translated(address)]
        address = address.ipv4_mapped or address
    if any(address in ip_network(network, strict=False) for network in networks):
        return True
    return _is_public(address) and all(_is_public(each) for each in inner if each is not None)


def _is_public(address: Address) -> bool:
    return address.is_global and not address.is_multicast


def _translated(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address in one of NAT64 (RFC 6052)."""
    if address in ip_network("64:ff9b::/96"):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None
