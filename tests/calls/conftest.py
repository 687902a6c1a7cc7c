"""Calls without a front end: each is its own, and remembers how it ended."""

from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import pytest
import trio

from prism.calls.call import BODY_PAUSE, Call
from prism.calls.overload import HIGH
from prism.contract.errors import CallError, PayloadTooLarge
from prism.streams.tasks import TaskPool


class ProbeCall(Call):
    """A call whose ``body`` is there already, or comes with ``deliver``.

    ``result`` or ``error`` say how it ended; ``observed`` counts how often the log was told.
    """

    __slots__ = ("_over", "body", "content_type", "error", "limits", "observed", "result")

    def __init__(self, tasks: TaskPool, body: bytes | None) -> None:
        super().__init__(trio.current_time(), tasks)
        self.body = body
        self.result: bytes | None = None
        self.content_type = b""
        self.error: CallError | None = None
        self.observed = 0
        self.limits: list[int] = []
        self._over = trio.Event()

    def read_params(self, limit: int) -> bool:
        self.limits.append(limit)
        if self.body is None:
            self.reading_until = self.started + BODY_PAUSE
            self.target.deadlines.add(self, min(self.reading_until, self.deadline))
            return True
        if len(self.body) > limit:
            raise PayloadTooLarge(limit)
        self.params = self.body
        return False

    def deliver(self, body: bytes) -> None:
        """The body that was awaited has come."""
        self.reading_until = None
        self.params = body
        self.proceed()

    def send_result(self, result: bytes, content_type: bytes) -> None:
        assert self.result is None
        assert self.error is None
        self.result, self.content_type = result, content_type

    def send_error(self, error: CallError) -> None:
        assert self.result is None
        assert self.error is None
        self.error = error

    def observe(self) -> None:
        self.observed += 1
        self._over.set()

    async def outcome(self) -> bytes:
        """The result; raises the error that the call ended with."""
        await self._over.wait()
        assert self.observed == 1
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


@pytest.fixture
async def running(request) -> AsyncIterator[SimpleNamespace]:
    """``tasks`` is a running pool; ``run(namespace)`` watches the deadlines of a namespace."""
    async with trio.open_nursery() as nursery:

        def run(namespace):
            nursery.start_soon(namespace.deadlines.run)

        yield SimpleNamespace(tasks=TaskPool(nursery), run=run)
        nursery.cancel_scope.cancel()


@pytest.fixture
def make_call(running) -> Callable[..., ProbeCall]:
    """A call that has begun nothing yet."""
    watched: set[int] = set()

    def make(
        namespace, operation="get", body=b"{}", timeout=30.0, client="", stream=None, priority=HIGH
    ) -> ProbeCall:
        if id(namespace.deadlines) not in watched:
            watched.add(id(namespace.deadlines))
            running.run(namespace)
        call = ProbeCall(running.tasks, body)
        call.namespace, call.operation, call.target = namespace.name, operation, namespace
        call.request_id, call.trace_id = "id", "0af7651916cd43dd8448eb211c80319c"
        call.traceparent = f"00-{call.trace_id}-b7ad6b7169203331-00"
        call.is_call = True
        call.client, call.stream, call.priority = client, stream, priority
        call.deadline = call.started + timeout
        return call

    return make


@pytest.fixture
def ask(make_call):
    """Make a call and wait for its end: the result, or the error raised."""

    async def ask(namespace, operation="get", body=b"{}", prepare=None, **more) -> bytes:
        call = make_call(namespace, operation, body, **more)
        if prepare is not None:
            prepare(call)
        call.proceed()
        return await call.outcome()

    return ask
