"""One accepted connection: handshake, which HTTP it speaks, and the fence around it.

Whatever goes wrong inside ends here: it is logged, the connection is closed, and the
other connections do not notice.

A client speaks HTTP/2 if ALPN says so, or its preface does, else HTTP/1.1. ``Upgrade: h2c``,
which RFC 9113 (3.1) dropped, is ignored.
"""

import math
import random
import re
import socket
from typing import TYPE_CHECKING

import trio

from prism.server import transport
from prism.server.exchange import Peer
from prism.server.http1.connection import HTTP1Connection
from prism.server.http2.connection import HTTP2Connection
from prism.server.log import contained, from_client, logger
from prism.server.proxy_protocol import MAX_BINARY, ProxyHeader, ProxyHeaderError, parse
from prism.streams.unix import peer_credentials

if TYPE_CHECKING:
    from prism.server.serve import Server

PLAIN_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: 34\r\n\r\nthis port speaks TLS: use https:\r\n"
)
"""For a client that spoke plain HTTP to a port with TLS."""

_USE_HTTPS = b"this port speaks TLS: use https:"
PLAIN_HTTP2 = (
    b"\0\0\0\x04\0\0\0\0\0"  # SETTINGS, empty
    + (8 + len(_USE_HTTPS)).to_bytes(3, "big")
    + b"\x07\0\0\0\0\0"  # GOAWAY, of no stream, INADEQUATE_SECURITY (RFC 9113, 6.8 and 7)
    + b"\0\0\0\0\0\0\0\x0c"
    + _USE_HTTPS
)
"""The same, for a client that spoke HTTP/2: its debug data is where clients look."""

NO_TLS = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: 36\r\n\r\nthis port speaks no TLS: use http:\r\n"
)
"""For a client that spoke TLS to a port without: what begins like this many a client explains."""

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""How an HTTP/2 client opens a connection (RFC 9113, 3.4)."""

TLS_RECORD = b"\x16\x03"
"""How a TLS client opens a connection: a record of a handshake, of any version (RFC 8446, 5.1)."""

_is_plain_http = re.compile(rb"[A-Z]{3,16} [/*]").match
_FOREIGN_LINE = re.compile(rb"[^ \r\n]+ [^ \r\n]+ (?!(?i:HTTP/))[^ \r\n]+\r?\n")


def jitter() -> float:
    """Around 1: connections opened together (after a restart) shall not end together."""
    return random.uniform(0.9, 1.1)  # noqa: S311 - it guards nothing


def client_address(stream: Stream) -> tuple[str, int] | None:
    """(host, port) of the client; ``None`` for a Unix socket or a client already gone."""
    try:
        return _host_and_port(_socket(stream).getpeername())
    except OSError:
        return None


class ClientConnection:
    """One connection from accept to close. ``idle_since`` is ``None`` while it is at work.

    ``client`` is who the connection is counted for: whom a PROXY header names, once it is read.
    """

    def __init__(self, server: "Server", stream: Stream, client: tuple[str, int] | None) -> None:
        self._server = server
        self._stream = stream
        self.client = client
        self._memory = server.memory.for_connection()
        self._proxies = server.proxies_of(client)
        self._opening = trio.CancelScope()
        self._http: HTTP1Connection | HTTP2Connection | None = None
        self._silent_since: float | None = trio.current_time()
        self.retires_at = trio.current_time() + server.settings.max_connection_age * jitter()

    @property
    def idle_since(self) -> float | None:
        """Since when nothing is in flight, on trio's clock.

        Who has just connected is about to send a request, unless it takes its time.
        """
        if self._http is not None:
            return self._http.idle_since
        if self._silent_since is None:
            return None
        grace = self._server.settings.goaway_grace
        return self._silent_since if trio.current_time() > self._silent_since + grace else None

    def drain(self, deadline: float) -> None:
        """Finish what is in flight by ``deadline``, then close."""
        if self._http is None:
            # Who has just connected is about to send a request.
            grace = self._server.settings.goaway_grace
            self._opening.deadline = trio.current_time() + grace
        else:
            self._http.drain(deadline)

    def shed(self) -> None:
        """Close gracefully to make room."""
        if self._http is not None:
            self._http.shed()
        else:
            self._opening.cancel()

    def retire(self) -> None:
        """Close as in a drain, because the connection is old."""
        self.retires_at = math.inf
        self.drain(trio.current_time() + self._server.settings.graceful_timeout)

    def cancel_stalled(self, since: float) -> None:
        """Its client's answers are in the way of others': drop those not taken since ``since``."""
        if self._http is not None:
            self._http.cancel_stalled(since)

    async def run(self) -> None:
        """Serve the connection to its end. Raises ``trio.Cancelled`` at most."""
        try:
            with contained("a connection"):
                try:
                    await self._serve()
                except trio.TooSlowError:
                    logger.info(
                        "a client was too slow; its connection is cut",
                        extra=from_client(self.client),
                    )
                except transport.GONE:
                    pass
        finally:
            await trio.aclose_forcefully(self._stream)

    async def _serve(self) -> None:
        front, settings = self._server.front, self._server.settings
        self._drain_if_late()
        with self._opening:
            await self._wait_for_first_bytes()
            if self._proxies is not None and settings.proxy_protocol:
                if not await self._read_proxy_header():
                    return
                await self._wait_for_first_bytes()
            protocol, peer = await self._handshake()
            opening = b""
            if protocol != "h2":
                with trio.fail_after(settings.header_timeout):
                    opening = await _read_opening(self._stream)
                if not opening:
                    return
                if opening.startswith(TLS_RECORD) and isinstance(self._stream, trio.SocketStream):
                    await self._refuse_tls(self._stream)
                    return
        if self._opening.cancelled_caught:
            return
        if _is_foreign(opening):
            logger.info(
                "a client speaks neither HTTP/1.1 nor HTTP/2; its connection is closed",
                extra=from_client(self.client),
            )
            return
        spoken: type[HTTP1Connection | HTTP2Connection] = HTTP1Connection
        if protocol == "h2" or opening.startswith(PREFACE):
            spoken = HTTP2Connection
        self._http = spoken(front, self._stream, peer, settings, self._server.tasks, opening)
        self._drain_if_late()
        await self._http.run()

    async def _refuse_tls(self, stream: trio.SocketStream) -> None:
        logger.info("a client spoke TLS to the plain port", extra=from_client(self.client))
        seconds = self._server.settings.linger_timeout
        with trio.move_on_after(seconds):
            await stream.send_all(NO_TLS)
        await transport.linger(stream, seconds)

    def _drain_if_late(self) -> None:
        if self._server.drain_deadline is not None:
            self.drain(self._server.drain_deadline)

    async def _wait_for_first_bytes(self) -> None:
        with trio.fail_after(self._server.settings.header_timeout):
            await trio.lowlevel.wait_readable(_socket(self._stream))
        self._silent_since = None

    async def _read_proxy_header(self) -> bool:
        """Go by whom the proxy names from here on; false: the connection ends.

        Raises:
            trio.TooSlowError: the header has not come.
        """
        header: ProxyHeader | None = None
        try:
            with trio.fail_after(self._server.settings.tls_handshake_timeout):
                header = await _receive_proxy_header(_socket(self._stream))
        except ProxyHeaderError as error:
            logger.warning(
                "a trusted proxy sent no PROXY header: %s; its connection is closed",
                error,
                extra=from_client(self.client),
            )
        if header is None:
            return False
        if header.client is None:
            self._proxies = None  # what a request says, its client may have written
        else:
            if not self._server.count_in(header.client):
                return False
            self._server.count_out(self.client)
            self.client = header.client
            self._proxies = self._server.proxies_of(self.client)
        self._silent_since = trio.current_time()
        return True

    async def _handshake(self) -> tuple[str | None, Peer]:
        """The protocol agreed on by ALPN, and who the peer is.

        Raises:
            trio.TooSlowError, trio.BrokenResourceError: TLS could not be agreed on.
        """
        server = _host_and_port(_socket(self._stream).getsockname())
        if not isinstance(self._stream, trio.SSLStream):
            unix = self._stream.socket.family == trio.socket.AF_UNIX
            uid = peer_credentials(self._stream).uid if unix else None
            return None, Peer("http", self.client, server, None, uid, self._memory, self._proxies)
        with trio.fail_after(self._server.settings.tls_handshake_timeout):
            first = await _socket(self._stream).recv(len(PREFACE), socket.MSG_PEEK)
            try:
                await self._server.handshakes.perform(self._stream)
            except trio.BrokenResourceError as error:
                plain = _is_plain_http(first) is not None
                why = "the client spoke plain HTTP to the TLS port" if plain else error.__cause__
                logger.info("a TLS handshake failed: %s", why, extra=from_client(self.client))
                answer = PLAIN_HTTP2 if PREFACE.startswith(first) else PLAIN_HTTP
                await transport.send_alert(
                    self._stream, answer if plain else b"", self._server.settings.linger_timeout
                )
                raise
        certificate = self._stream.getpeercert(binary_form=True)
        protocol = self._stream.selected_alpn_protocol()
        return protocol, Peer(
            "https", self.client, server, certificate, None, self._memory, self._proxies
        )


def _socket(stream: Stream) -> trio.socket.SocketType:
    transport_stream = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    return transport_stream.socket


def _host_and_port(address: object) -> tuple[str, int] | None:
    """A socket's name as (host, port); ``None`` for a Unix socket."""
    return (address[0], address[1]) if isinstance(address, tuple) else None


async def _receive_proxy_header(sock: trio.socket.SocketType) -> ProxyHeader | None:
    """Take a PROXY header, and nothing that comes after it, which may be TLS's; ``None``: the
    peer has ended without a byte. If cancelled, part of it is taken.

    Raises:
        ProxyHeaderError: what has come is none.
        OSError: the connection is broken.
    """
    data = b""
    while True:
        more = await sock.recv(MAX_BINARY - len(data), socket.MSG_PEEK)
        if not more:
            if data:
                raise ProxyHeaderError("it ends in the middle")
            return None
        header = parse(data + more)
        taken = len(more) if header is None else header.size - len(data)
        data += await sock.recv(taken)
        if header is not None:
            return header


async def _read_opening(stream: trio.abc.ReceiveStream) -> bytes:
    """Read until it is clear whether the client speaks HTTP/2; empty if it said nothing."""
    opening = b""
    while len(opening) < len(PREFACE) and PREFACE.startswith(opening):
        data = await stream.receive_some(transport.READ_SIZE)
        if not data:
            break
        opening += data
    return opening


def _is_foreign(opening: bytes) -> bool:
    """Whether the client speaks a protocol whose requests only look like HTTP's.

    RTSP, SIP, or HTTP/2 with a broken preface, which ends the connection (RFC 9113,
    3.4): an answer in HTTP/1.1 would be noise to all of them.
    """
    return _FOREIGN_LINE.match(opening) is not None
