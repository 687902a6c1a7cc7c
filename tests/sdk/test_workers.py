"""The tasks of a session, on trio and on asyncio."""

import asyncio
import math
import sys
import types
from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
import pytest
from msgspec import Struct

from prism.contract.messages import ExecuteRequest, StreamRequest
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.sdk import Plugin, operation
from prism.sdk.workers import MAX_IDLE_WORKERS, await_rest, event_loop
from prism.wire.events import Cancel, Close, Data


class Nothing(Struct):
    pass


class Odd(Plugin):
    """Does what endangers the task that it runs in."""

    def __init__(self):
        super().__init__()
        self.release = anyio.Event()

    @operation
    async def fine(self, params: Nothing) -> str:
        return "fine"

    @operation
    async def wait(self, params: Nothing) -> None:
        await self.release.wait()

    @operation
    async def exit_at_once(self, params: Nothing) -> None:
        raise SystemExit(3)

    @operation
    async def exit_after_a_wait(self, params: Nothing) -> None:
        await anyio.lowlevel.checkpoint()
        raise SystemExit(3)

    @operation
    async def interrupt(self, params: Nothing) -> None:
        raise KeyboardInterrupt

    @operation
    async def exit_in_a_stream(self, params: Nothing) -> AsyncIterator[str]:
        yield "one"
        sys.exit(3)

    @operation
    async def group_at_once(self, params: Nothing) -> None:
        raise BaseExceptionGroup("both", [ValueError("one"), SystemExit(3)])

    @operation
    async def group_after_a_wait(self, params: Nothing) -> None:
        await anyio.lowlevel.checkpoint()
        raise BaseExceptionGroup("both", [ValueError("one"), SystemExit(3)])

    @operation
    async def plain_group(self, params: Nothing) -> None:
        raise BaseExceptionGroup("two", [ValueError("one"), KeyError("two")])

    @operation
    async def fail_when_cancelled(self, params: Nothing) -> None:
        async def fails():
            try:
                await anyio.sleep(math.inf)
            finally:
                raise ValueError("while it was cancelled")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fails)
            tasks.start_soon(anyio.sleep, math.inf)

    @operation
    async def exit_when_cancelled(self, params: Nothing) -> None:
        async def exits():
            try:
                await anyio.sleep(math.inf)
            finally:
                sys.exit(3)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exits)
            tasks.start_soon(anyio.sleep, math.inf)

    @operation
    async def cancels_its_task_at_once(self, params: Nothing) -> str:
        asyncio.current_task().cancel()
        return "cancelled"

    @operation
    async def cancels_its_task(self, params: Nothing) -> None:
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    @operation
    async def says_it_was_cancelled(self, params: Nothing) -> None:
        raise asyncio.CancelledError

    @operation
    async def asyncio_timeout(self, params: Nothing) -> bool:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)
        except TimeoutError:
            return asyncio.current_task().cancelling() == 0
        return False


def request(name):
    return ExecuteRequest(operation=name)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("exit_at_once", "the plugin's handler called sys.exit"),
        ("exit_after_a_wait", "the plugin's handler called sys.exit"),
        ("interrupt", "the plugin's handler raised KeyboardInterrupt"),
        ("group_at_once", "the plugin failed unexpectedly"),
        ("group_after_a_wait", "the plugin failed unexpectedly"),
    ],
)
def test_what_ends_a_process_elsewhere_is_the_error_of_its_call_alone(
    name, what, run, session_of, caplog
):
    async def scenario():
        plugin = Odd()
        async with session_of(plugin) as (host, _session, _ended):
            beside = await host.open(Method.EXECUTE, request("wait"))
            close = await host.execute(name)
            assert close.status is StatusCode.INTERNAL
            assert close.message.error.startswith(f"{what}; its log has the cause under error id ")
            assert (await host.execute("fine")).status is StatusCode.OK
            plugin.release.set()
            close = await host.expect(Close)
            assert (close.stream, close.status) == (beside, StatusCode.OK)

    run(scenario)
    assert f"operation '{name}' failed" in caplog.text


def test_a_stream_whose_handler_exits_ends_alone(run, session_of):
    async def scenario():
        async with session_of(Odd()) as (host, _session, _ended):
            beside = await host.open(Method.EXECUTE, request("wait"))
            await host.open(Method.EXECUTE_STREAM, StreamRequest(operation="exit_in_a_stream"))
            await host.expect(Data)
            close = await host.expect(Close)
            assert close.status is StatusCode.INTERNAL
            assert "the plugin's handler called sys.exit" in close.message.error
            await host.send(Cancel(beside))
            close = await host.expect(Close)
            assert (close.stream, close.status) == (beside, StatusCode.CANCELLED)

    run(scenario)


def test_a_group_of_ordinary_errors_is_a_failed_call(run, session_of, caplog):
    async def scenario():
        async with session_of(Odd()) as (host, _session, _ended):
            close = await host.execute("plain_group")
            assert close.status is StatusCode.INTERNAL
            assert (await host.execute("fine")).status is StatusCode.OK

    run(scenario)
    assert "operation 'plain_group' failed" in caplog.text


def test_a_cancelled_call_that_fails_as_well_harms_no_other(run, session_of, caplog):
    async def scenario():
        async with session_of(Odd()) as (host, _session, _ended):
            stream = await host.open(Method.EXECUTE, request("fail_when_cancelled"))
            await anyio.wait_all_tasks_blocked()
            await host.send(Cancel(stream))
            status = (await host.expect(Close)).status
            assert (await host.execute("fine")).status is StatusCode.OK
            # On trio the group that is raised holds the cancellation beside the error.
            assert status is (
                StatusCode.CANCELLED if run.backend == "trio" else StatusCode.INTERNAL
            )

    run(scenario)
    (record,) = caplog.records
    assert "ValueError: while it was cancelled" in caplog.text
    assert (record.message == "a cancelled call failed as well") is (run.backend == "trio")


async def test_a_cancelled_call_that_exits_as_well_harms_no_other(session_of):
    async with session_of(Odd()) as (host, _session, _ended):
        stream = await host.open(Method.EXECUTE, request("exit_when_cancelled"))
        await anyio.wait_all_tasks_blocked()
        await host.send(Cancel(stream))
        assert (await host.expect(Close)).status is StatusCode.CANCELLED
        assert (await host.execute("fine")).status is StatusCode.OK


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("cancels_its_task_at_once", StatusCode.OK),
        ("cancels_its_task", StatusCode.INTERNAL),
        ("says_it_was_cancelled", StatusCode.INTERNAL),
        ("asyncio_timeout", StatusCode.OK),
    ],
)
def test_on_asyncio_a_handler_can_cancel_its_task_and_no_more(name, status, session_of):
    async def scenario():
        async with session_of(Odd()) as (host, _session, _ended):
            for _ in range(3):
                waiting = await host.open(Method.EXECUTE, request("wait"))
                close = await host.execute(name)
                assert close.status is status
                assert (await host.execute("fine")).status is StatusCode.OK
                await host.send(Cancel(waiting))
                assert (await host.expect(Close)).stream == waiting

    async def in_time():
        with anyio.fail_after(30):
            await scenario()

    anyio.run(in_time, backend="asyncio")


def test_workers_are_kept_and_reused_and_those_beyond_the_limit_end(run, session_of):
    async def scenario():
        plugin = Odd()
        async with session_of(plugin) as (host, session, _ended):
            for _ in range(2):
                plugin.release = anyio.Event()
                streams = await host.burst(*["wait"] * (MAX_IDLE_WORKERS + 20))
                await anyio.wait_all_tasks_blocked()
                plugin.release.set()
                for _ in streams:
                    assert (await host.expect(Close)).status is StatusCode.OK
                await anyio.wait_all_tasks_blocked()
                assert len(session._calls.workers._idle) == MAX_IDLE_WORKERS

    run(scenario)


def test_a_session_that_is_cancelled_ends_whatever_runs(run, session_of):
    async def scenario():
        with anyio.CancelScope() as scope:
            async with session_of(Odd()) as (host, _session, _ended):
                await host.burst(*["wait", "fine"] * 5)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()

    run(scenario)


# -- await_rest ---------------------------------------------------------------


@types.coroutine
def ask(question):
    answer = yield question
    return answer


def begun(coroutine):
    """What an event loop sees of a coroutine that was begun before."""
    return await_rest(coroutine, coroutine.send(None))


def test_questions_and_answers_pass_through():
    async def asks():
        return [await ask(1), await ask(2), await ask(3)]

    rest = begun(asks())
    assert [rest.send(None), rest.send("a"), rest.send("b")] == [1, 2, 3]
    with pytest.raises(StopIteration) as done:
        rest.send("c")
    assert done.value.value == ["a", "b", "c"]


def test_an_error_is_raised_where_the_coroutine_waits():
    async def catches():
        try:
            await ask(1)
        except KeyError as error:
            return await ask(str(error))

    rest = begun(catches())
    assert rest.send(None) == 1
    assert rest.throw(KeyError("thrown")) == "'thrown'"
    with pytest.raises(StopIteration) as done:
        rest.send("last")
    assert done.value.value == "last"


def test_an_error_of_the_coroutine_has_no_other_as_its_context():
    async def fails():
        with suppress(KeyError):
            await ask(1)
        raise ValueError("its own")

    rest = begun(fails())
    rest.send(None)
    with pytest.raises(ValueError, match="its own") as raised:
        rest.throw(KeyError("thrown"))
    assert raised.value.__context__ is None


def test_closing_closes_the_coroutine():
    ended = []

    async def waits():
        try:
            await ask(1)
        finally:
            ended.append(True)

    rest = begun(waits())
    rest.send(None)
    rest.close()
    assert ended == [True]


def test_it_leaves_no_cycle_behind():
    import gc
    import weakref

    class Thing:
        pass

    async def fails(thing):
        await ask(thing)

    thing = Thing()
    gone = weakref.ref(thing)
    rest = begun(fails(thing))
    rest.send(None)
    gc.disable()
    try:
        with pytest.raises(KeyError):
            rest.throw(KeyError())
        del rest, thing
        assert gone() is None
    finally:
        gc.enable()


def test_the_clock_and_the_scopes_are_the_event_loops_own(run):
    async def scenario():
        new_scope, now = event_loop()
        assert now() == pytest.approx(anyio.current_time(), abs=1)
        with new_scope() as scope:
            scope.deadline = now() + 5
            assert anyio.current_effective_deadline() == scope.deadline
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        assert scope.cancel_called

    run(scenario)
