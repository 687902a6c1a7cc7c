"""Where a plugin meets its host: addresses, and the sockets behind them."""

import ipaddress
import logging
import os
import socket
import ssl
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import anyio
from anyio.abc import AnyByteStream, Listener, SocketAttribute, SocketListener, TaskGroup
from anyio.streams.tls import TLSListener, TLSStream

from prism.contract.errors import PrismError
from prism.sdk.byte_streams import SocketStream

if TYPE_CHECKING:
    from prism.sdk.options import Options

log = logging.getLogger("prism.sdk")

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")

FD_VARIABLE = "PRISM_PLUGIN_FD"
"""Environment: the number of the inherited, connected socket."""
SOCKET_VARIABLE = "PLUGIN_SOCKET"
"""Environment: the path of the proxy's Unix socket (RFC-008's name for it)."""
MAX_PATH = 107
"""Bytes of a Unix socket's path that Linux takes."""
BACKLOG = 16
LINGER = 1.0
"""Seconds for a host to take the alert of a TLS handshake that failed, and to leave."""
_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class EndpointError(PrismError):
    """There is no way to meet a host; says why."""


@dataclass(frozen=True)
class Address:
    """``unix:PATH``, ``tcp:HOST:PORT``, or ``ws:HOST:PORT`` for frames in a WebSocket."""

    path: str = ""
    host: str = ""
    port: int = 0
    is_websocket: bool = False

    @classmethod
    def unix(cls, path: str) -> "Address":
        """The address of a Unix socket.

        Raises:
            ValueError: the path is longer than Linux takes.
        """
        size = len(os.fsencode(path))
        if size > MAX_PATH:
            raise ValueError(f"socket path of {size} bytes, the most is {MAX_PATH}: {path}")
        return cls(path=path)

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read one of the forms.

        Raises:
            ValueError: it is none of them.
        """
        kind, _, rest = text.partition(":")
        if kind == "unix" and rest:
            return cls.unix(rest)
        host, _, port = rest.rpartition(":")
        is_port = port.isascii() and port.isdigit() and int(port) < 65536
        if kind in {"tcp", "ws"} and host and is_port:
            return cls(host=host.strip("[]"), port=int(port), is_websocket=kind == "ws")
        raise ValueError(
            f"{text!r} is not an address: write unix:PATH, tcp:HOST:PORT or ws:HOST:PORT"
        )

    @property
    def is_unix(self) -> bool:
        """Is it a Unix socket?"""
        return bool(self.path)

    @property
    def is_loopback(self) -> bool:
        """Is it a host that only this machine reaches?"""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"{'ws' if self.is_websocket else 'tcp'}:{self.host}:{self.port}"


def inherited(descriptor: int) -> SocketStream:
    """The connected socket that the proxy handed down.

    Raises:
        EndpointError: the descriptor is not a socket.
    """
    sock = None
    try:
        sock = socket.socket(fileno=descriptor)
        sock.getpeername()
    except (OSError, OverflowError) as error:
        if sock is not None:
            sock.close()
        reason = getattr(error, "strerror", None) or error
        raise EndpointError(
            f"{FD_VARIABLE}={descriptor} is not a connected socket ({reason}); only "
            "Prism sets this variable, when it starts a plugin"
        ) from None
    sock.set_inheritable(False)
    return SocketStream(sock)


def dial(address: Address) -> SocketStream:
    """Connect to the proxy's Unix socket. Raises OSError; also where its queue is full."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(address.path)
    except OSError:
        sock.close()
        raise
    return SocketStream(sock)


async def listen(options: "Options") -> Listener[Any]:
    """Listen as the options say; Unix sockets are for this user alone.

    Reads files, and looks up the host, on the event loop: nothing is served yet.

    Raises:
        EndpointError: the address cannot be used.
    """
    address = options.listen
    if address is None:
        raise EndpointError("there is no address to listen on")
    context = _server_context(options) if options.tls_cert else None
    try:
        if address.is_unix:
            return await SocketListener.from_socket(_bind_unix(address.path))
        sock = socket.create_server(
            (address.host, address.port),
            family=socket.AF_INET6 if ":" in address.host else socket.AF_INET,
            backlog=BACKLOG,
        )
        listener = await SocketListener.from_socket(sock)
    except OSError as error:
        raise EndpointError(f"cannot listen on {address}: {error.strerror or error}") from None
    if context is None:
        return listener
    # Frames carry their length, so a cut connection shows without TLS's close_notify.
    return _TLSListener(listener, context, standard_compatible=False)


def bound_address(listener: Listener[Any]) -> str:
    """Where ``listener`` really listens, as in ``tcp:127.0.0.1:43211``."""
    inner = listener.listener if isinstance(listener, TLSListener) else listener
    where: Any = inner.extra(SocketAttribute.local_address)  # noqa: S610 - not Django's
    if not isinstance(where, tuple):
        return f"unix:{where}"
    host = f"[{where[0]}]" if ":" in where[0] else where[0]
    return f"tcp:{host}:{where[1]}"


class _TLSStream(TLSStream):
    """Tells the peer why TLS fails (RFC 8446, 6.2), which anyio's leaves unsent."""

    async def _call_sslobject_method(
        self, func: Callable[[*_Args], _Result], *args: *_Args
    ) -> _Result:
        try:
            return await super()._call_sslobject_method(func, *args)
        except ssl.SSLError:
            if self._write_bio.pending:
                await _send_alert(self.transport_stream, self._write_bio.read())
            raise


async def _send_alert(stream: AnyByteStream, alert: bytes) -> None:
    """Send ``alert``, end our half, and wait for the peer's end: closing a socket that holds
    unread bytes would take the alert back. Bounded; cancelling may leave it unsent."""
    with anyio.move_on_after(LINGER), suppress(*_GONE):
        await stream.send(alert)
        await stream.send_eof()
        while True:
            await stream.receive()


class _TLSListener(TLSListener):
    async def serve(
        self, handler: Callable[[TLSStream], Any], task_group: TaskGroup | None = None
    ) -> None:
        """As anyio's, with streams that send their alerts."""

        async def shake_hands(stream: AnyByteStream) -> None:
            try:
                with anyio.fail_after(self.handshake_timeout):
                    secure = await _TLSStream.wrap(
                        stream,
                        ssl_context=self.ssl_context,
                        standard_compatible=self.standard_compatible,
                    )
            except BaseException as error:
                await self.handle_handshake_error(error, stream)
            else:
                await handler(secure)

        await self.listener.serve(shake_hands, task_group)

    @staticmethod
    async def handle_handshake_error(exc: BaseException, stream: AnyByteStream) -> None:
        """One line instead of anyio's traceback: any port scanner breaks a handshake off."""
        await anyio.aclose_forcefully(stream)
        if not isinstance(exc, Exception):
            raise exc
        reason = str(exc.__cause__ or exc) or "the host closed the connection"
        log.warning("a TLS handshake failed: %s", reason)


def _bind_unix(path: str) -> socket.socket:
    """Bind so that the socket is never, not even briefly, open to others."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(sock.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        _remove_stale(path)
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket of ours on which nobody listens any more."""
    try:
        found = Path(path).lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # the process that listens there may not keep up
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except BlockingIOError:
            pass


def _server_context(options: "Options") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    file = options.tls_cert

    def refuse() -> str:  # else OpenSSL would ask for a passphrase on the terminal
        raise EndpointError(
            f"cannot use the TLS files ({options.tls_key}): the key is protected by a "
            "passphrase; use one without (openssl pkey -in FILE -out NEW)"
        )

    try:
        context.load_cert_chain(options.tls_cert, options.tls_key, password=refuse)
        if options.tls_client_ca:
            file = options.tls_client_ca
            context.load_verify_locations(file)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise EndpointError(f"cannot use the TLS files ({file}): {reason}") from None
    return context
