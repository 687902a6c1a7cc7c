"""The same application and the same client, on stock hypercorn and on Prism's server.

Each test here is marked with ``outcomes``: what becomes of stock hypercorn 0.18 is written
down beside what Prism does, which it does with both of its HTTP/2 codecs. So a finding
stays proved, and a hypercorn that changes it is noticed.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import hypercorn.trio
import pytest
import trio
from hypercorn.config import Config

from prism.server import Address

HYPERCORN = {"keep_alive_timeout": 10.0, "graceful_timeout": 0.5}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test marked ``outcomes(hypercorn=..., prism=...)`` on each."""
    marker = metafunc.definition.get_closest_marker("outcomes")
    if marker is not None:
        expected = {
            "hypercorn": marker.kwargs["hypercorn"],
            "prism-h2": marker.kwargs["prism"],
            "prism-nghttp2": marker.kwargs["prism"],
        }
        metafunc.parametrize(("kind", "expected"), expected.items(), ids=expected)


class Subject:
    """A server under test. ``returned`` is set once it has ended, by itself or as told."""

    def __init__(self, address: Address, shutdown: trio.Event, returned: trio.Event) -> None:
        self.address = address
        self.shutdown = shutdown
        self.returned = returned
        self.failure: BaseException | None = None
        self.connections: list[trio.SocketStream] = []

    async def connect(self) -> trio.SocketStream:
        stream = await trio.open_tcp_stream(self.address.host, self.address.port)
        self.connections.append(stream)
        return stream

    async def fate(self) -> str:
        """``alive``, or what ended the server, once it has handled what it was sent."""
        await trio.testing.wait_all_tasks_blocked(0.05)
        if self.failure is not None:
            return f"ended by {type(self.failure).__name__}"
        stream = await self.connect()
        await stream.send_all(b"GET /alive HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        answer = b""
        async for chunk in stream:
            answer += chunk
        return "alive" if answer.startswith(b"HTTP/1.1 200") else f"answers {answer!r}"


def cause(error: BaseException) -> BaseException:
    """The first exception in the groups that trio's nurseries make."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


StartSubject = Callable[..., Awaitable[Subject]]


@pytest.fixture
async def start(
    kind: str, start_server: Any, request: pytest.FixtureRequest
) -> AsyncIterator[StartSubject]:
    """``await start(app, hypercorn={...}, prism={...})`` with each one's own settings."""
    subjects: list[Subject] = []
    codec = kind.removeprefix("prism-")
    if codec == "nghttp2":
        request.getfixturevalue("nghttp2")
    async with trio.open_nursery() as nursery:

        async def start_hypercorn(app: Any, settings: dict[str, Any]) -> Subject:
            async def with_lifespan(scope: Any, receive: Any, send: Any) -> None:
                if scope["type"] != "lifespan":
                    await app(scope, receive, send)
                    return
                while True:
                    kind = (await receive())["type"]
                    await send({"type": f"{kind}.complete"})
                    if kind == "lifespan.shutdown":
                        return

            config = Config()
            config.bind = ["127.0.0.1:0"]
            config.accesslog = config.errorlog = None
            for name, value in {**HYPERCORN, **settings}.items():
                setattr(config, name, value)
            shutdown, returned = trio.Event(), trio.Event()
            subject: Subject | None = None

            async def run(task_status: trio.TaskStatus[list[str]]) -> None:
                try:
                    await hypercorn.trio.serve(
                        with_lifespan,
                        config,
                        shutdown_trigger=shutdown.wait,
                        task_status=task_status,
                    )
                except* Exception as group:
                    assert subject is not None
                    subject.failure = cause(group)
                returned.set()

            (url,) = await nursery.start(run)
            host, _, port = url.removeprefix("http://").rpartition(":")
            subject = Subject(Address("http", host, int(port)), shutdown, returned)
            subjects.append(subject)
            return subject

        async def start_prism(app: Any, settings: dict[str, Any]) -> Subject:
            server = await start_server(app, **{"http2_codec": codec, **settings})
            subject = Subject(server.address, server.shutdown, server.stopped)
            subjects.append(subject)
            return subject

        async def start_subject(
            app: Any,
            *,
            hypercorn: dict[str, Any] | None = None,
            prism: dict[str, Any] | None = None,
        ) -> Subject:
            if kind == "hypercorn":
                return await start_hypercorn(app, hypercorn or {})
            return await start_prism(app, prism or {})

        yield start_subject
        for subject in subjects:
            for connection in subject.connections:
                connection.socket.close()
        nursery.cancel_scope.cancel()
