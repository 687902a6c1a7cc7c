"""Results that come later, on both event loops: in a session, and where they are awaited."""

import socket
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from msgspec import Struct

from prism.contract.messages import ExecuteRequest, InitializeRequest, ShutdownRequest
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.sdk import Plugin, PluginError, operation
from prism.sdk.byte_streams import SocketStream
from prism.sdk.calls import HEAD_START
from prism.sdk.later import Later
from prism.sdk.session import Session
from prism.sdk.testing import run_plugin
from prism.wire.events import Cancel, Close


class Number(Struct):
    n: int = 0


class Backend(Plugin):
    """Its answers come when the test gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Later[Any]] = []
        self.changed = anyio.Event()

    def ask(self, make: Callable[[Any], Any]) -> Any:
        later = Later(make)
        self.asked.append(later)
        self.changed.set()
        return later

    async def wait_asked(self, number: int) -> None:
        while len(self.asked) < number:
            self.changed = anyio.Event()
            await self.changed.wait()

    @operation
    async def add(self, params: Number) -> int:
        answer: int = self.ask(lambda answer: answer + params.n)
        return answer

    @operation
    async def add_after_a_wait(self, params: Number) -> int:
        await anyio.lowlevel.checkpoint()
        return await self.add(params)

    @operation
    async def at_once(self, params: Number) -> int:
        later: Any = Later(lambda answer: answer)
        later.settle(params.n)
        return later  # type: ignore[no-any-return]

    @operation
    async def refused(self, params: Number) -> int:
        def make(_: Any) -> int:
            raise PluginError(StatusCode.NOT_FOUND, "there is none")

        answer: int = self.ask(make)
        return answer

    @operation
    async def bug(self, params: Number) -> int:
        answer: int = self.ask(lambda answer: answer["no such key"])
        return answer


@pytest.mark.parametrize("name", ["add", "add_after_a_wait"])
def test_the_answer_is_sent_when_it_is_there(run, session_of, name):
    async def check() -> None:
        plugin = Backend()
        async with session_of(plugin) as (host, _, _):
            streams = await host.burst(name, name)
            await plugin.wait_asked(2)
            assert plugin.metrics.requests_total == 2
            plugin.asked[1].settle(20)
            close = await host.expect(Close)
            assert (close.stream, close.message.result_json) == (streams[1], "20")
            plugin.asked[0].settle(10)
            close = await host.expect(Close)
            assert (close.stream, close.message.result_json) == (streams[0], "10")

    run(check)


def test_one_that_is_settled_already_is_sent_at_once(run, session_of):
    async def check() -> None:
        async with session_of(Backend()) as (host, _, _):
            close = await host.execute("at_once", '{"n":7}')
            assert close.message.result_json == "7"

    run(check)


def test_what_is_raised_is_the_calls_error(run, session_of, caplog):
    async def check() -> None:
        plugin = Backend()
        async with session_of(plugin) as (host, _, _):
            await host.burst("refused", "bug", "add")
            await plugin.wait_asked(3)
            plugin.asked[0].settle(1)
            close = await host.expect(Close)
            assert (close.status, close.message.error) == (StatusCode.NOT_FOUND, "there is none")
            plugin.asked[1].settle({})
            assert (await host.expect(Close)).status is StatusCode.INTERNAL
            plugin.asked[2].settle(None, PluginError(StatusCode.UNAVAILABLE, "lost"))
            assert (await host.expect(Close)).status is StatusCode.UNAVAILABLE
            assert plugin.metrics.requests_failed == 3

    run(check)
    assert "operation 'bug' failed" in caplog.text


def test_a_deadline_ends_it_and_the_late_answer_is_dropped(run, session_of):
    async def check() -> None:
        plugin = Backend()
        async with session_of(plugin) as (host, _, _):
            (long,) = await host.burst("add", deadline_ms=60_000)
            (short,) = await host.burst("add", deadline_ms=30)
            close = await host.expect(Close)
            assert (close.stream, close.status) == (short, StatusCode.DEADLINE_EXCEEDED)
            assert plugin.asked[1].abandoned
            plugin.asked[1].settle(1)
            plugin.asked[0].settle(2)
            close = await host.expect(Close)
            assert (close.stream, close.message.result_json) == (long, "2")
            (short,) = await host.burst("add", deadline_ms=30)  # after one that was not reached
            close = await host.expect(Close)
            assert (close.stream, close.status) == (short, StatusCode.DEADLINE_EXCEEDED)

    run(check)


def test_a_cancel_ends_it(run, session_of):
    async def check() -> None:
        plugin = Backend()
        async with session_of(plugin) as (host, _, _):
            (stream,) = await host.burst("add")
            await plugin.wait_asked(1)
            await host.send(Cancel(stream, StatusCode.CANCELLED))
            close = await host.expect(Close)
            assert (close.stream, close.status) == (stream, StatusCode.CANCELLED)
            assert plugin.asked[0].abandoned
            plugin.asked[0].settle(1)
            assert (await host.execute("at_once", '{"n":7}')).message.result_json == "7"

    run(check)


def test_shutdown_waits_for_it(run, session_of):
    async def check() -> None:
        plugin = Backend()
        async with session_of(plugin) as (host, _, _):
            (stream,) = await host.burst("add")
            await plugin.wait_asked(1)
            closing = await host.open(Method.SHUTDOWN, ShutdownRequest(timeout_seconds=60))
            await anyio.wait_all_tasks_blocked()
            plugin.asked[0].settle(5)
            close = await host.expect(Close)
            assert (close.stream, close.message.result_json) == (stream, "5")
            close = await host.expect(Close)
            assert (close.stream, close.message.success) == (closing, True)

    run(check)


def test_nobody_wants_it_when_the_host_is_gone(run, session_of):
    async def check() -> None:
        plugin = Backend()
        async with session_of(plugin) as (host, _, ended):
            await host.burst("add", deadline_ms=60_000)
            await plugin.wait_asked(1)
            await host.stream.aclose()
            while not ended:  # noqa: ASYNC110 - a list
                await anyio.sleep(0.001)
            assert plugin.asked[0].abandoned
            plugin.asked[0].settle(1)

    run(check)


@pytest.mark.parametrize("binary", [False, True])
def test_elsewhere_it_is_awaited(run, binary):
    async def check() -> None:
        async with run_plugin(Backend) as backend:
            answers: list[Any] = []

            async def ask() -> None:
                answers.append(await backend.request("add", {"n": 2}, binary=binary))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await backend.plugin.wait_asked(1)
                backend.plugin.asked[0].settle(40)
            assert answers == [42]
            assert await backend.call("at_once", n=3) == 3

    run(check)


def test_who_is_cancelled_while_it_awaits_abandons_it(run):
    async def check() -> None:
        async with run_plugin(Backend) as backend:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(backend.plugin.execute, ExecuteRequest(operation="add"))
                await backend.plugin.wait_asked(1)
                tasks.cancel_scope.cancel()
            assert backend.plugin.asked[0].abandoned
            backend.plugin.asked[0].settle(1)

    run(check)


def test_answers_of_a_burst_leave_while_the_next_are_made(run, host_on):
    async def check() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        plugin = Backend()
        session = Session(SocketStream(theirs), plugin, name="scripted", version="1")
        host = host_on(SocketStream(ours))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.run)
            await host.handshake()
            await host.call(Method.INITIALIZE, InitializeRequest(namespace="ns"))
            streams = await host.burst("add", "add", "add", "add")
            await plugin.wait_asked(4)
            now = 0.0
            session._calls.now = lambda: now
            turn = session._turns
            turn.begin()
            plugin.asked[0].settle(1)
            with pytest.raises(BlockingIOError):
                ours.recv(1)  # it waits for others
            now += HEAD_START
            plugin.asked[1].settle(2)
            for stream in streams[:2]:
                assert (await host.expect(Close)).stream == stream
            plugin.asked[2].settle(3)
            plugin.asked[3].settle(4)
            with pytest.raises(BlockingIOError):
                ours.recv(1)
            turn.end()
            for stream in streams[2:]:
                assert (await host.expect(Close)).stream == stream
            await host.stream.aclose()

    run(check)
