"""Where clients' connections come from: sockets opened here or given, with or without TLS."""

import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import trio

from prism.streams.addresses import Address
from prism.streams.errors import ListenError, innermost
from prism.streams.tls import ServerTLS
from prism.streams.unix import bind, lock_socket

BACKLOG = 1024
"""Connections the kernel keeps while none is accepted (a restart, the connection limit)."""

_WAYS_OUT = {
    errno.EADDRINUSE: "stop its user, or choose another port (--port, --admin-port); or a client's "
    "connection holds it (ss -tan): wait, or reserve the port (net.ipv4.ip_local_reserved_ports)",
    errno.EACCES: "choose a port from 1024 up, or give the process CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "choose an address that this machine has, such as 127.0.0.1",
}


class TLSListener(trio.abc.Listener[trio.SSLStream[trio.SocketStream]]):
    """Wraps each connection with the context that ``tls`` holds at that moment."""

    def __init__(self, listener: trio.SocketListener, tls: ServerTLS) -> None:
        self.transport_listener = listener
        self._tls = tls

    async def accept(self) -> trio.SSLStream[trio.SocketStream]:
        """Wait for a connection; its handshake is left to the caller."""
        stream = await self.transport_listener.accept()
        return trio.SSLStream(stream, self._tls.context, server_side=True, https_compatible=True)

    async def aclose(self) -> None:
        await self.transport_listener.aclose()


Listener = trio.SocketListener | TLSListener


async def open_listeners(
    host: str, port: int, *, tls: ServerTLS | None = None, backlog: int = BACKLOG
) -> list[Listener]:
    """Listen on every address that ``host`` stands for (``localhost`` may have two).

    ``port`` 0 takes a free one. Sockets have SO_REUSEADDR and, once accepted,
    TCP_NODELAY, both set by trio.

    Raises:
        ListenError: with the reason and what to do about it.
    """
    place = f"{host}, port {port}"
    if not 0 <= port <= 65535:
        raise ListenError(place, "there is no such port", "choose one from 1 to 65535")
    try:
        opened = await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    except socket.gaierror as error:
        why = "the name cannot be resolved"
        raise ListenError(place, why, "check its spelling, or use an IP address") from error
    except OSError as error:
        number = getattr(innermost(error), "errno", None) or 0
        way_out = _WAYS_OUT.get(number, "see the reason given")
        raise ListenError(place, os.strerror(number).lower(), way_out) from error
    return [TLSListener(item, tls) for item in opened] if tls is not None else list(opened)


def open_unix_listener(path: str, *, backlog: int = BACKLOG) -> trio.SocketListener:
    """Listen at ``path``; the file is for this user alone.

    It is left behind at the end: a successor may be listening on the same socket.

    Raises:
        ListenError: with the reason and what to do about it.
    """
    place = Path(path)
    lock = lock_socket(place)
    try:
        sock = bind(place, backlog=backlog)
    finally:
        os.close(lock)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def listen_on(sockets: Iterable[socket.socket], *, tls: ServerTLS | None = None) -> list[Listener]:
    """Accept from sockets that listen already, and are closed with their listeners."""
    plain = [trio.SocketListener(trio.socket.from_stdlib_socket(item)) for item in sockets]
    return [TLSListener(item, tls) for item in plain] if tls is not None else list(plain)


def descriptor(listener: Listener) -> int:
    """The number of the listener's socket in this process."""
    return _socket(listener).fileno()


def bound_address(listener: Listener) -> Address:
    """The address a listener is bound to; a Unix socket's path is its host, with port 0."""
    secure = isinstance(listener, TLSListener)
    name = _socket(listener).getsockname()
    host, port = (name[0], name[1]) if isinstance(name, tuple) else (str(name), 0)
    return Address("https" if secure else "http", host, port)


def _socket(listener: Listener) -> trio.socket.SocketType:
    plain = listener.transport_listener if isinstance(listener, TLSListener) else listener
    return plain.socket
