"""TCP to remote plugins, with TLS or mutual TLS. Plain text only where it was asked for."""

import os
import socket
from collections.abc import Sequence

import trio

from prism.streams.addresses import is_loopback
from prism.streams.errors import LaunchError, TLSFilesError, innermost
from prism.streams.tls import TLSFiles, client_context, shake_hands

KEEP_ALIVE_IDLE = 15
KEEP_ALIVE_INTERVAL = 5
KEEP_ALIVE_PROBES = 3
"""A silent peer is probed after 15 s, and given up after three probes 5 s apart."""
UNACKNOWLEDGED_MS = 30_000
"""What was sent and not acknowledged for so long ends the connection."""


async def dial(
    host: str, port: int, tls: TLSFiles | None, *, protocols: Sequence[str] = (), address: str = ""
) -> trio.abc.Stream:
    """Connect to a plugin; with ``tls``, verify its name before anything is sent.

    ``protocols`` are offered by ALPN, and then one of them must be agreed on. ``address`` is
    dialled, where the name of ``host`` has several. Without
    ``tls`` only loopback addresses are dialled: the contract carries credentials. The
    caller sets the deadline.

    Raises:
        LaunchError: nobody listens there, or the peer is not who it should be.
    """
    where = f"{host}:{port} ({address})" if address else f"{host}:{port}"
    if tls is None and not (is_loopback(host) and is_loopback(address or host)):
        raise LaunchError(f"refusing plain text to {where}: configure tls")
    try:
        context = await client_context(tls, protocols) if tls is not None else None
    except TLSFilesError as error:
        raise LaunchError(str(error)) from None
    try:
        stream = await trio.open_tcp_stream(address or host, port)
    except (OSError, UnicodeError) as error:
        raise LaunchError(f"cannot connect to {where}: {_reason(error)}") from None
    _keep_alive(stream.socket)
    if tls is None or context is None:
        return stream
    secure = await shake_hands(stream, context, tls.server_name or host, where)
    # A server that knows no ALPN speaks HTTP/1.1.
    if protocols and (secure.selected_alpn_protocol() or "http/1.1") not in protocols:
        await trio.aclose_forcefully(secure)
        raise LaunchError(f"{where} does not speak {' or '.join(protocols)} (ALPN)")
    return secure


def _keep_alive(sock: trio.socket.SocketType) -> None:
    """Have the kernel notice a peer that is gone without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_ALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_ALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_ALIVE_PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)


def _reason(error: Exception) -> str:
    cause = innermost(error)
    number = getattr(cause, "errno", None) or 0
    # trio's strerror repeats the address; numbers below 0 are the resolver's own.
    return os.strerror(number) if number > 0 else getattr(cause, "strerror", None) or str(cause)
