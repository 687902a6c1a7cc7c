"""TCP to remote plugins, with TLS or mutual TLS. Plain text only where it was asked for."""

import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from prism.streams.addresses import is_loopback
from prism.streams.errors import LaunchError

KEEP_ALIVE_IDLE = 15
KEEP_ALIVE_INTERVAL = 5
KEEP_ALIVE_PROBES = 3
"""A silent peer is probed after 15 s, and given up after three probes 5 s apart."""
UNACKNOWLEDGED_MS = 30_000
"""What was sent and not acknowledged for so long ends the connection."""


@dataclass(frozen=True)
class TLSFiles:
    """The files of a TLS client, all PEM. Without ``ca_cert`` the system's CAs count."""

    ca_cert: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None


def client_context(files: TLSFiles) -> ssl.SSLContext:
    """A context that verifies the plugin, and shows our certificate where there is one.

    Raises:
        LaunchError: a file is missing or not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=files.ca_cert)
    except (OSError, ssl.SSLError) as error:
        raise LaunchError(_file_error("ca_cert", files.ca_cert, error)) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.cert is not None:
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(files.cert, files.key, password="")
        except (OSError, ssl.SSLError) as error:
            raise LaunchError(_file_error("cert and key", files.cert, error)) from None
    return context


def _file_error(what: str, path: str | None, error: OSError) -> str:
    reason: str | None = error.strerror
    if isinstance(error, ssl.SSLError):
        reason = f"not the PEM it should be ({error.reason or error})"
    return f"tls.{what}: cannot load {path}: {reason}"


async def dial(
    host: str, port: int, tls: TLSFiles | None, *, protocols: Sequence[str] = ()
) -> trio.abc.Stream:
    """Connect to a plugin; with ``tls``, verify its name before anything is sent.

    ``protocols`` are offered by ALPN, and then one of them must be agreed on. Without
    ``tls`` only loopback addresses are dialled: the contract carries credentials. The
    caller sets the deadline.

    Raises:
        LaunchError: nobody listens there, or the peer is not who it should be.
    """
    where = f"{host}:{port}"
    if tls is None and not is_loopback(host):
        raise LaunchError(f"refusing plain text to {where}: configure tls")
    context = client_context(tls) if tls is not None else None
    if context is not None and protocols:
        context.set_alpn_protocols(protocols)
    try:
        stream = await trio.open_tcp_stream(host, port)
    except (OSError, UnicodeError) as error:
        raise LaunchError(f"cannot connect to {where}: {_innermost(error)}") from None
    _keep_alive(stream.socket)
    if tls is None or context is None:
        return stream
    name = tls.server_name or host
    try:
        # Frames carry their length, so a cut connection shows without TLS's own goodbye.
        secure = trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)
    except (ValueError, TypeError) as error:
        await trio.aclose_forcefully(stream)
        raise LaunchError(
            f"TLS with {where}: {name!r} cannot be a server's name: {error}"
        ) from None
    try:
        await secure.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(secure)
        cause = error.__cause__ or error
        detail = getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or cause
        raise LaunchError(f"TLS with {where} failed: {detail}") from None
    except BaseException:
        await trio.aclose_forcefully(secure)
        raise
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


def _innermost(error: Exception) -> str:
    cause: BaseException = error
    while isinstance(cause.__cause__, BaseException):
        cause = cause.__cause__
    if isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    number = getattr(cause, "errno", None) or 0
    # trio's strerror repeats the address; numbers below 0 are the resolver's own.
    return os.strerror(number) if number > 0 else getattr(cause, "strerror", None) or str(cause)
