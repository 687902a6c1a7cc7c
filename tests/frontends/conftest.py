"""Front ends without a server: one request in, one response out."""

import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any

import pytest
import trio

from prism.calls.namespace import Namespace
from prism.calls.router import Router
from prism.config.types import NamespaceLimits
from prism.frontends.answering import Observer
from prism.frontends.asgi import asgi
from prism.frontends.rest import RestApp
from prism.frontends.web_pages import WebPages
from prism.observability.access_log import AccessLog
from prism.observability.metrics import Metrics
from prism.server.exchange import Cancelled, FrontEnd, Headers, Phase
from prism.server.problems import BadRequest, refuse
from prism.server.rules import check_request
from prism.streams.tasks import TaskPool

sys.path.append(str(Path(__file__).parent))

from endings import House
from probe_exchange import ProbeExchange

Chunk = bytes | None | EllipsisType


class Answer:
    """A response."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        names = [name for name, _ in headers]
        assert len(names) == len(set(names)), "a header twice"
        self.status = status
        self.headers = {name.decode(): value.decode() for name, value in headers}
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def begin(front: FrontEnd, exchange: ProbeExchange) -> None:
    """As the connections do it: what is malformed reaches no front end."""
    try:
        check_request(exchange.method, exchange.target, exchange.headers)
    except BadRequest as error:
        refuse(exchange, error)
    else:
        front.begin(exchange)


class Client:
    """Asks a front end: as an ASGI server would, or, with ``direct``, as Prism's own connections.

    ``body`` is the list of chunks that arrive; None for one means that the client goes away
    there, ``...`` that nothing more comes. After the last chunk the client waits; it leaves when
    ``gone`` is set.
    """

    def __init__(self, front: FrontEnd) -> None:
        self.front = front
        self.app = asgi(front)
        self.gone = trio.Event()

    async def request(
        self,
        method: str,
        target: str | bytes,
        body: Sequence[Chunk] | bytes = b"",
        headers: dict[str, str | bytes] | None = None,
        *,
        direct: bool = False,
    ) -> Answer | None:
        """The answer; None if the client left before."""
        chunks = [body] if isinstance(body, bytes) else list(body)
        given = [
            (name.lower().encode(), value if isinstance(value, bytes) else value.encode())
            for name, value in (headers or {}).items()
        ]
        raw = target if isinstance(target, bytes) else target.encode()
        ask = self._ask if direct else self._ask_over_asgi
        return await ask(method, raw, chunks, given)

    async def _ask(
        self, method: str, target: bytes, chunks: list[Chunk], headers: Headers
    ) -> Answer | None:
        async with trio.open_nursery() as nursery:
            exchange = ProbeExchange(TaskPool(nursery), method, target, headers)
            begin(self.front, exchange)
            for number, chunk in enumerate(chunks, 1):
                await trio.lowlevel.checkpoint()
                if chunk is None:
                    self.gone.set()
                elif chunk is ...:
                    break
                elif exchange.phase is Phase.WAITING:
                    exchange.feed(chunk, ended=number == len(chunks))

            async def leave() -> None:
                await self.gone.wait()
                exchange.cancel(Cancelled.CLIENT_LEFT)

            nursery.start_soon(leave)
            try:
                await exchange.over.wait()
            except trio.Cancelled:
                exchange.cancel(Cancelled.STOPPED)
                raise
            nursery.cancel_scope.cancel()
        if exchange.is_gone:
            return None
        return Answer(exchange.status, exchange.response_headers, b"".join(exchange.written))

    async def _ask_over_asgi(
        self, method: str, target: bytes, chunks: list[Chunk], headers: Headers
    ) -> Answer | None:
        raw_path, _, query = target.partition(b"?")
        pending = iter(chunks)
        left = len(chunks)
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            nonlocal left
            await trio.lowlevel.checkpoint()
            while left:
                left -= 1
                chunk = next(pending)
                if chunk is None:
                    left = 0
                    self.gone.set()
                    return {"type": "http.disconnect"}
                if chunk is ...:
                    left = 0
                    break
                return {"type": "http.request", "body": chunk, "more_body": left > 0}
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            await trio.lowlevel.checkpoint()
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": raw_path.decode("latin-1"),
            "raw_path": raw_path,
            "query_string": query,
            "headers": headers,
        }
        await self.app(scope, receive, send)
        if not sent:
            return None
        start, body = sent
        assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
        return Answer(start["status"], start["headers"], body["body"])


@pytest.fixture
def client_of() -> type[Client]:
    return Client


@pytest.fixture
def make_client(nursery) -> Callable[..., Client]:
    """A client of a ``RestApp`` before these namespaces, whose deadlines are watched."""

    def make(*namespaces: Namespace, pages: WebPages | None = None) -> Client:
        router = Router(namespaces)
        nursery.start_soon(router.deadlines.run)
        return Client(RestApp(router, Observer(Metrics(router), AccessLog()), pages))

    return make


@pytest.fixture
def make_exchange(nursery) -> Callable[..., ProbeExchange]:
    """A ``ProbeExchange``, with the same arguments, whose tasks run."""
    tasks = TaskPool(nursery)
    return lambda *arguments, **options: ProbeExchange(tasks, *arguments, **options)


@pytest.fixture
def access_lines() -> Iterator[list[dict[str, Any]]]:
    """The fields of every line of the access log, as they come."""
    lines: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.fields)  # type: ignore[attr-defined]

    logger = logging.getLogger("prism.access")
    handler = Keep()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.fixture
async def make_house(
    nursery: trio.Nursery,
) -> AsyncIterator[Callable[[NamespaceLimits], Awaitable[House]]]:
    """Makes data ports over one namespace with a plugin."""
    houses: list[House] = []

    async def make(limits: NamespaceLimits) -> House:
        house = House(nursery, limits)
        houses.append(house)
        await house.start_plugin()
        return house

    yield make
    for house in houses:
        house.close()
