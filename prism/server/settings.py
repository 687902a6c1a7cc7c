"""Every limit of the HTTP server, by name, with the reason for its default.

Two limits of a request are the calls' instead: how large a body may be depends on the
namespace (``calls.policies.read_params``), and how slowly it may arrive on the call's deadline
and ``calls.call.BODY_PAUSE``.
"""

import math
import os
from typing import NamedTuple

import msgspec

CODEC_VARIABLE = "PRISM_HTTP2_CODEC"
PARSER_VARIABLE = "PRISM_HTTP1_PARSER"


class WebSocketLimits(NamedTuple):
    """Times are seconds, sizes bytes; the reasons are in ``ServerSettings``."""

    max_message: int
    ping_interval: float
    ping_timeout: float


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one serving process. Times are seconds, sizes bytes."""

    tls_handshake_timeout: float = 10.0
    """From a client's first bytes, its place in the queue of handshakes included: a
    handshake is two round trips, and who has waited so long has often given up."""

    header_timeout: float = 10.0
    """For a request's header section, and for the first bytes of a new connection.
    Headers are sent in one go, so slower senders only hold connections open."""

    keep_alive_timeout: float = 300.0
    """How long an idle connection is kept: longer than most clients' pools keep
    theirs, so that usually the client closes, and no request is on its way meanwhile."""

    send_stall_timeout: float = 10.0
    """A client must take 64 KiB within this time or is cut off: it then reads
    slower than 6.5 KB/s, or not at all."""

    window_stall_timeout: float = 60.0
    """HTTP/2: a client must let a stream send 64 KiB, or what is left of a chunk, within
    this time, or the stream is reset. Longer than ``send_stall_timeout``, since a reader
    of messages may pause on purpose."""

    linger_timeout: float = 1.0
    """After the last response, wait this long for the client's end of the connection.
    Closing a socket that holds unread bytes sends RST, which can destroy a response
    (a 413, a GOAWAY) before the client has read it. An HTTP/2 request that goes on
    after its response is reset after this time, for the same reason."""

    max_unread_body: int = 64 * 1024
    """HTTP/1.1: when a request was answered before its body was read, this much of it
    is read and dropped, within ``linger_timeout``, so that the connection can go on."""

    half_close_grace: float = 0.1
    """HTTP/1.1: a client that ends its half of the connection after a whole request may
    wait for the response (``nc -N``) or be gone (Ctrl-C); TCP does not tell which. The
    request has this long to be answered before it is cancelled; a WebSocket, for what came
    before the end."""

    goaway_grace: float = 1.0
    """Between the warning GOAWAY and the final one, unless the client's PING answer
    comes first: requests already on their way are still served. In a drain, so long
    is waited for the first bytes of a connection just opened, and for one last request
    on an idle HTTP/1.1 connection."""

    graceful_timeout: float = 35.0
    """After the shutdown event, how long requests in flight may still run: longer than a call
    may take by default."""

    max_connections: int = 1000
    """Per process; an idle one costs 40 KB, with mutual TLS 75 KB. At the limit the
    connection idle for longest is closed and new ones wait in the listen backlog."""

    max_connections_per_peer: int = 256
    """Per client address; further ones are closed at once. A quarter of all, so that
    one address cannot hold the server, yet many clients behind one NAT, and load
    generators on loopback, fit."""

    trusted_proxies: tuple[str, ...] = ()
    """Networks (CIDR) of proxies that say in ``forwarded_header`` who asks; as many connections
    as there may be at all are taken from each."""

    forwarded_header: str = "x-forwarded-for"
    """Of ``trusted_proxies``: ``x-forwarded-for`` or ``forwarded``. One alone, since a proxy passes
    on the other as its client wrote it."""

    proxy_protocol: bool = False
    """``trusted_proxies`` begin each connection with a PROXY header, within
    ``tls_handshake_timeout``, and others do not."""

    max_concurrent_handshakes: int = 32
    """TLS handshakes with a turn; more wait for theirs. One takes about seven milliseconds
    of a core, most of it in two pieces, so that no request waits longer than a tenth of
    a second behind all of them. Clients 0.2 s away, 32 at a time, keep one core busy."""

    max_connection_age: float = math.inf
    """After this time, give or take a tenth, a connection is closed as gracefully as in a
    drain: its client must prove again who it is, and may find another server."""

    websocket_max_message: int = 1024 * 1024
    """Bytes of a message from a client; a larger one closes its WebSocket with 1009."""

    websocket_ping_interval: float = 30.0
    """Of silence before a WebSocket's client is asked whether it is there: middle boxes
    forget silent connections after a minute."""

    websocket_ping_timeout: float = 30.0
    """For its answer; without one the WebSocket is closed."""

    max_concurrent_streams: int = 100
    """Per HTTP/2 connection, the usual value of edge proxies. More are refused with
    REFUSED_STREAM, which clients may retry."""

    max_header_size: int = 32 * 1024
    """Of a request's header section: room for a large token, not for a bomb."""

    max_header_fields: int = 100
    """Of a request, in number: each costs some microseconds, whatever its size."""

    stream_window: int = 64 * 1024 - 1
    """Body bytes one request may have waiting for the front end (HTTP/2's default)."""

    connection_window: int = 1024 * 1024
    """Body bytes one HTTP/2 connection may have waiting: 16 requests whose bodies
    nobody reads do not stop the 17th."""

    flood_budget: int = 800
    """HTTP/2 frames that cost work and bring none (PING, SETTINGS, PRIORITY, empty
    DATA, resets, which count twice, ...) that a client may send in one burst."""

    flood_refill: int = 400
    """... and per second in the long run. Honest clients stay far below: each response
    and each DATA frame sent to them gives back more than they spend."""

    http2_codec: str = msgspec.field(default_factory=lambda: os.environ.get(CODEC_VARIABLE, ""))
    """``h2`` or ``nghttp2``; empty: the faster one that is there."""

    http1_parser: str = msgspec.field(default_factory=lambda: os.environ.get(PARSER_VARIABLE, ""))
    """``httptools`` or ``h11``; empty: the faster one that is there."""

    @property
    def websocket_limits(self) -> WebSocketLimits:
        """What one WebSocket is held to."""
        return WebSocketLimits(
            self.websocket_max_message, self.websocket_ping_interval, self.websocket_ping_timeout
        )
