"""``prism call --stream``: a stream over WebSocket, lines in and lines out."""

import base64
import json
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import click
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from prism.cli.connection import CONNECT_TIMEOUT, say_refused, say_unreachable, tls_context
from prism.cli.output import ReaderGone, end_on_interrupt, explained, print_line

MAX_MESSAGE = 64 * 1024 * 1024


def call_stream(
    target: str, params: str, headers: dict[str, str], ca_cert: str | None, cert: str | None
) -> int:
    """Carry one stream; returns the exit status.

    ``params`` ``-``: the first line of standard input. Its further lines, unless it is a
    terminal, are the client's messages.
    """
    end_on_interrupt()
    return trio.run(_run, target, params, headers, ca_cert, tls_context(ca_cert, cert))


async def _run(
    target: str,
    params: str,
    headers: dict[str, str],
    ca_cert: str | None,
    context: ssl.SSLContext | None,
) -> int:
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    status = 0
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(CONNECT_TIMEOUT):
                socket = await _connect(nursery, target, context, fields)
            nursery.start_soon(_send, socket, params)
            status = await _receive(socket)
            nursery.cancel_scope.cancel()
    except* ConnectionRejected as group:
        _say_rejected(_first(group))
        status = 1
    except* (OSError, HandshakeError, trio.TooSlowError) as group:
        server, error = urlsplit(target), _first(group)
        if isinstance(error, trio.TooSlowError):
            error = TimeoutError(f"no answer within {CONNECT_TIMEOUT:g} seconds")
        say_unreachable(f"{server.scheme}://{server.netloc}", error, ca_cert)
        status = 1
    return status


class _Watched(trio.abc.Stream):
    """A stream that tells when it has broken: trio-websocket would wait on for an answer."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.error: OSError | None = None
        self.broken = trio.CancelScope()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._noting():
            await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        with self._noting():
            data = await self._stream.receive_some(max_bytes)
        if not data:
            self._break(ConnectionError("Server disconnected"))
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            self._break(cause if isinstance(cause, OSError) else ConnectionError(str(error)))
            raise

    def _break(self, error: OSError) -> None:
        self.error = self.error or error
        self.broken.cancel()


async def _connect(
    nursery: trio.Nursery,
    target: str,
    context: ssl.SSLContext | None,
    fields: list[tuple[bytes, bytes]],
) -> WebSocketConnection:
    """Open a WebSocket at ``target``; its task is in ``nursery``.

    Raises:
        OSError: nobody is there, TLS could not be agreed on, or the connection broke.
    """
    server = urlsplit(target)
    host, port = server.hostname or "", server.port
    stream: trio.abc.Stream
    if server.scheme == "https":
        stream = await trio.open_ssl_over_tcp_stream(
            host, port or 443, ssl_context=context, https_compatible=True
        )
    else:
        stream = await trio.open_tcp_stream(host, port or 80)
    watched = _Watched(stream)
    with watched.broken:
        return await wrap_client_stream(
            nursery,
            cast("Any", watched),  # its type is narrower than what is done with it
            server.netloc.rpartition("@")[2],
            server.path,
            extra_headers=fields,
            max_message_size=MAX_MESSAGE,
        )
    raise watched.error or ConnectionError("the connection was lost")


async def _send(socket: WebSocketConnection, params: str) -> None:
    reads_stdin = params == "-" or not sys.stdin.isatty()
    first = (await _line()).strip() if params == "-" else params
    try:
        await socket.send_message(first)
        while reads_stdin and (line := await _line()):
            if line.strip():
                await socket.send_message(line.strip())
        await socket.send_message("")
    except ConnectionClosed:
        pass  # the stream has ended; how, the other task says


async def _line() -> str:
    return await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)


async def _receive(socket: WebSocketConnection) -> int:
    status = 0
    while True:
        try:
            message = await socket.get_message()
        except ConnectionClosed as closed:
            if closed.reason is None or closed.reason.code != 1000:
                if status == 0:
                    click.echo(f"prism: the stream broke off ({_code(closed)})", err=True)
                return 1
            return status
        if isinstance(message, bytes):
            encoded = base64.b64encode(message).decode()
            message = json.dumps({"encoding": "base64", "value": encoded})
        if message.startswith('{"$error":'):
            problem = json.loads(message)["$error"]
            click.echo(explained(problem, message), err=True)
            status = 1
        else:
            try:
                print_line(message)
            except ReaderGone:
                return 0


def _code(closed: ConnectionClosed) -> str:
    if closed.reason is None:
        return "the connection was lost"
    said = f": {closed.reason.reason}" if closed.reason.reason else ""
    return f"code {closed.reason.code}{said}"


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The first of its errors; of trio's "all attempts failed", the first attempt's."""
    found = group.exceptions[0]
    cause = found.__cause__ if isinstance(found, OSError) else None
    for inner in (found, cause):
        if isinstance(inner, ExceptionGroup):
            return _first(inner)
    return cause if isinstance(cause, OSError) else found


def _say_rejected(error: Exception) -> None:
    assert isinstance(error, ConnectionRejected)  # noqa: S101 - the caller's except
    say_refused(error.status_code, (error.body or b"").decode(errors="replace"))
