"""TCP to remote plugins, with TLS or mutual TLS. Plain text only where it was asked for."""

import ipaddress
import os
import ssl
from dataclasses import dataclass

import trio

from prism.contract.exceptions import LaunchError


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


async def dial(host: str, port: int, tls: TLSFiles | None) -> trio.abc.Stream:
    """Connect to a plugin; with ``tls``, verify its name before anything is sent.

    Without ``tls`` only loopback addresses are dialled: the contract carries
    credentials. The caller sets the deadline.

    Raises:
        LaunchError: nobody listens there, or the peer is not who it should be.
    """
    where = f"{host}:{port}"
    if tls is None and not is_loopback(host):
        raise LaunchError(f"refusing plain text to {where}: configure tls")
    context = client_context(tls) if tls is not None else None
    try:
        stream = await trio.open_tcp_stream(host, port)
    except (OSError, UnicodeError) as error:
        raise LaunchError(f"cannot connect to {where}: {_innermost(error)}") from None
    if tls is None or context is None:
        return stream
    # Frames carry their length, so a cut connection shows without TLS's own goodbye.
    secure = trio.SSLStream(
        stream, context, server_hostname=tls.server_name or host, https_compatible=True
    )
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
    return secure


def is_loopback(host: str) -> bool:
    """Does only this machine reach ``host``?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _innermost(error: Exception) -> str:
    cause: BaseException = error
    while isinstance(cause.__cause__, BaseException):
        cause = cause.__cause__
    if isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    number = getattr(cause, "errno", None) or 0
    # trio's strerror repeats the address; numbers below 0 are the resolver's own.
    return os.strerror(number) if number > 0 else getattr(cause, "strerror", None) or str(cause)
