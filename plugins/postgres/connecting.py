"""How a connection is made, and what is said where it cannot be."""

import socket

import anyio
from psycopg import pq

from prism.sdk import PluginError, StatusCode

from .config import ConnectionSettings
from .connection import Connection


async def connect(settings: ConnectionSettings, *, cache_size: int, seconds: float) -> Connection:
    """A connection for one caller at a time; see ``open_libpq``."""
    return Connection(await open_libpq(settings, seconds=seconds), cache_size)


async def open_libpq(
    settings: ConnectionSettings, *, seconds: float, options: str = ""
) -> pq.abc.PGconn:
    """Connect, within ``seconds``, in pipeline mode. Cancelling leaves nothing behind.

    Raises:
        PluginError: what is wrong, in the operator's words.
    """
    try:
        with anyio.fail_after(seconds):
            addresses = await _resolve(settings)
            pgconn = pq.PGconn.connect_start(settings.conninfo(addresses, options))
            try:
                await _poll_connection(pgconn)
                _check_connected(pgconn, settings)
                pgconn.nonblocking = 1
                pgconn.enter_pipeline_mode()
                return pgconn
            except BaseException:
                pgconn.finish()
                raise
    except TimeoutError:
        raise PluginError(
            StatusCode.UNAVAILABLE,
            f"PostgreSQL at {settings.place} did not answer within {seconds:g} seconds",
        ) from None


async def _resolve(settings: ConnectionSettings) -> str | None:
    """The hosts' addresses, which libpq would block to ask for; None where there is no need."""
    if "hostaddr" in settings.parameters or "host" not in settings.parameters:
        return None
    found = []
    for host in settings.hosts:
        if host.startswith(("/", "@")):
            return None
        try:
            answers = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            raise PluginError(
                StatusCode.UNAVAILABLE, f"the host {host!r} has no address: {error}"
            ) from None
        found.append(str(answers[0][4][0]))
    return ",".join(found)


async def _poll_connection(pgconn: pq.abc.PGconn) -> None:
    while pgconn.status != pq.ConnStatus.BAD:
        match pgconn.connect_poll():
            case pq.PollingStatus.READING:
                await anyio.wait_readable(pgconn.socket)
            case pq.PollingStatus.WRITING:
                await anyio.wait_writable(pgconn.socket)
            case _:
                return


def _check_connected(pgconn: pq.abc.PGconn, settings: ConnectionSettings) -> None:
    if pgconn.status == pq.ConnStatus.OK:
        return
    said = pgconn.get_error_message().strip()
    if "does not support SSL" in said:
        raise PluginError(
            StatusCode.FAILED_PRECONDITION,
            f"PostgreSQL at {settings.place} does not speak TLS, and sslmode is "
            f"{settings.parameters['sslmode']} (verify-full unless config.connection_string says "
            "otherwise): set up TLS on the server, or add sslmode=disable where nobody else is on "
            "the way",
        )
    if "unsupported startup parameter" in said:
        raise PluginError(
            StatusCode.FAILED_PRECONDITION,
            f"a pooler answers at {settings.place}: {said}; set statement_cache_size: 0",
        )
    if "certificate" in said or "root.crt" in said or "SSL error" in said:
        raise PluginError(
            StatusCode.FAILED_PRECONDITION,
            f"PostgreSQL at {settings.place} cannot be verified (sslmode="
            f"{settings.parameters['sslmode']}): {said}; name the authority's file as "
            "sslrootcert in config.connection_string",
        )
    for sentence in ("authentication failed", "no password supplied"):
        if sentence in said:
            raise PluginError(
                StatusCode.FAILED_PRECONDITION,
                f"PostgreSQL at {settings.place} refuses credentials.username and "
                f"credentials.password: {said}",
            )
    if "too many clients" in said or "remaining connection slots" in said:
        raise PluginError(
            StatusCode.RESOURCE_EXHAUSTED,
            f"PostgreSQL at {settings.place} has no connection left: {said}; lower pool_size, or "
            "raise the server's max_connections",
        )
    permanent = ("does not exist", "no pg_hba.conf entry", "permission denied")
    status = StatusCode.UNAVAILABLE
    if any(words in said for words in permanent):
        status = StatusCode.FAILED_PRECONDITION
    raise PluginError(status, f"cannot connect to PostgreSQL at {settings.place}: {said}")
