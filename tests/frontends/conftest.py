"""A driver for ASGI applications: one request in, one response out."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import trio

from prism.calls.namespace import Namespace
from prism.calls.router import Router
from prism.frontends.rest import RestApp
from prism.frontends.web_pages import WebPages
from prism.observability.metrics import Metrics


class Answer:
    """What the application sent."""

    def __init__(self, sent: list[dict[str, Any]]) -> None:
        start, *rest = sent
        assert start["type"] == "http.response.start"
        assert [message["type"] for message in rest] == ["http.response.body"]
        names = [name for name, _ in start["headers"]]
        assert len(names) == len(set(names)), "a header twice"
        self.status = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        self.body = rest[0]["body"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Calls an ASGI application as a server would.

    ``body`` is the list of chunks that arrive; None for one means that the client
    goes away there. After the last chunk the client waits. With ``cancels`` the
    server is one that cancels the application's task by itself.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.gone = trio.Event()

    async def request(
        self,
        method: str,
        target: str | bytes,
        body: Sequence[bytes | None] | bytes = b"",
        headers: dict[str, str | bytes] | None = None,
        *,
        cancels: bool = False,
        state: dict[str, Any] | None = None,
    ) -> Answer | None:
        raw = target if isinstance(target, bytes) else target.encode()
        raw_path, _, query = raw.partition(b"?")
        chunks = [body] if isinstance(body, bytes) else list(body)
        pending = iter(chunks)
        left = len(chunks)
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            nonlocal left
            await trio.lowlevel.checkpoint()
            if left:
                left -= 1
                chunk = next(pending)
                if chunk is None:
                    left = 0
                    self.gone.set()
                    return {"type": "http.disconnect"}
                return {"type": "http.request", "body": chunk, "more_body": left > 0}
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            await trio.lowlevel.checkpoint()
            sent.append(message)

        extensions = {"prism.cancels_on_disconnect": {}} if cancels else {}
        scope = {
            "type": "http",
            "method": method,
            "path": raw_path.decode("latin-1"),
            "raw_path": raw_path,
            "query_string": query,
            "extensions": extensions,
            "state": state or {},
            "headers": [
                (name.lower().encode(), value if isinstance(value, bytes) else value.encode())
                for name, value in (headers or {}).items()
            ],
        }
        await self.app(scope, receive, send)
        return Answer(sent) if sent else None


@pytest.fixture
def make_client() -> Callable[..., Client]:
    def make(*namespaces: Namespace, pages: WebPages | None = None) -> Client:
        router = Router(namespaces)
        return Client(RestApp(router, Metrics(router), pages))

    return make


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
