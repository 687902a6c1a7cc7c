"""One request on an HTTP/1.1 connection, and its response as h11 events."""

from http import HTTPStatus
from typing import TYPE_CHECKING

import h11
import trio

from prism.server.asgi import Headers, Scope, date_header
from prism.server.exchange import Exchange

if TYPE_CHECKING:
    from prism.server.http1.connection import HTTP1Connection

_REASONS = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}


def response_head(status: int, headers: Headers) -> h11.Response:
    """A response's head, with ``date``."""
    return h11.Response(
        status_code=status,
        headers=[*headers, date_header()],
        reason=_REASONS.get(status, b""),
    )


class HTTP1Exchange(Exchange):
    """One request on an HTTP/1.1 connection."""

    def __init__(self, connection: "HTTP1Connection", scope: Scope) -> None:
        super().__init__(scope)
        self._connection = connection
        self._room = trio.Event()

    async def wait_for_room(self) -> None:
        """Wait until the application has taken the body received so far."""
        self._room = trio.Event()
        await self._room.wait()

    def body_taken(self, size: int) -> None:
        self._room.set()

    async def body_wanted(self) -> None:
        await self._connection.send_continue()

    async def write_head(self, status: int, headers: Headers, data: bytes, *, end: bool) -> None:
        connection = self._connection
        if connection.must_close(status):
            headers = [item for item in headers if item[0] != b"connection"]
            headers.append((b"connection", b"close"))
        head = response_head(status, headers)
        await connection.write(head, *self._body_events(data, end))

    async def write_body(self, data: bytes, *, end: bool) -> None:
        await self._connection.write(*self._body_events(data, end))

    async def write_trailers(self, headers: Headers) -> None:
        await self._connection.write(h11.EndOfMessage(headers=headers))

    @staticmethod
    def _body_events(data: bytes, end: bool) -> list[h11.Event]:
        events: list[h11.Event] = [h11.Data(data=data)] if data else []
        if end:
            events.append(h11.EndOfMessage())
        return events
