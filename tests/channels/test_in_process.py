import asyncio
import math

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from prism.calls.memory import Account, AnswerHold, Hold
from prism.channels import in_process
from prism.channels.in_process import InProcessChannel, speaker
from prism.contract.errors import AnswerDropped, PluginCrashed, PluginError
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    InitializeRequest,
    InitializeResponse,
    StreamRequest,
    StreamResponse,
)
from prism.contract.service import PendingExecution
from prism.contract.status import StatusCode
from prism.sdk import Plugin
from prism.streams.tasks import TaskPool


class StreamsOnly:
    """A plugin that is asked for streams alone."""

    async def execute(self, _request):
        raise AssertionError("no call was meant")


class Faulty:
    """Raises, or answers, what it is given."""

    def __init__(self, outcome):
        self.outcome = outcome

    async def execute(self, _request):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    async def execute_stream(self, _requests):
        yield StreamResponse(result_json="1")
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        yield self.outcome


FAULTS = [
    ValueError("secret"),
    SystemExit(3),
    asyncio.CancelledError(),
    trio.BrokenResourceError(),
    BaseExceptionGroup("", [SystemExit(1)]),
    None,
]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
async def test_a_plugin_that_breaks_the_contract_has_failed(fault, caplog):
    channel = InProcessChannel(Faulty(fault), "it")
    answer = await channel.execute(ExecuteRequest(operation="x"))
    assert (answer.success, answer.error_code) == (False, StatusCode.INTERNAL)
    assert "secret" not in answer.error
    assert caplog.records
    assert channel.open_calls == 0


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
async def test_a_stream_that_breaks_the_contract_has_failed(fault, caplog):
    channel = InProcessChannel(Faulty(fault), "it")
    async with channel.execute_stream(StreamRequest()) as call:
        assert (await call.receive()).result_json == "1"
        with pytest.raises(PluginError) as caught:
            await call.receive()
    assert caught.value.status is StatusCode.INTERNAL
    assert caplog.records


async def test_credentials_come_back_in_no_answer_and_no_log(caplog):
    class Leaks:
        async def initialize(self, request):
            self.password = request.credentials["password"]
            return InitializeResponse(error=f"cannot log in with {self.password}")

        async def execute(self, request):
            if request.operation == "raise":
                raise ValueError(self.password)
            return ExecuteResponse(error=f"wrong password {self.password}")

    channel = InProcessChannel(Leaks(), "it")
    answer = await channel.initialize(InitializeRequest(credentials={"password": "canary"}))
    assert answer.error == "cannot log in with [redacted]"
    assert (await channel.execute(ExecuteRequest())).error == "wrong password [redacted]"
    await channel.execute(ExecuteRequest(operation="raise"))
    assert "ValueError: [redacted]" in caplog.text
    assert "canary" not in caplog.text


class FailsAtBeingCancelled:
    """Waits in a nursery, and raises when that is cancelled: a group of both."""

    async def _fail(self):
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("the clean-up failed")

    async def execute(self, _request):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fail)
            await trio.sleep_forever()

    async def execute_stream(self, _requests):
        yield StreamResponse(result_json="1")
        await self.execute(None)


async def test_what_fails_at_being_cancelled_is_contained(caplog, autojump_clock):
    channel = InProcessChannel(FailsAtBeingCancelled(), "it")
    with trio.move_on_after(2) as scope:
        await channel.execute(ExecuteRequest(operation="x"))
    assert scope.cancelled_caught
    assert "the clean-up failed" in caplog.text
    assert channel.open_calls == 0


async def test_what_fails_at_being_stopped_has_crashed(caplog, autojump_clock):
    channel = InProcessChannel(FailsAtBeingCancelled(), "it")

    async def close():
        await trio.sleep(1)
        await channel.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        with pytest.raises(PluginCrashed):
            await channel.execute(ExecuteRequest(operation="x"))
    assert "the clean-up failed" in caplog.text


async def test_a_stream_that_fails_at_being_cancelled_is_contained(caplog, autojump_clock):
    channel = InProcessChannel(FailsAtBeingCancelled(), "it")
    with trio.move_on_after(2) as scope:
        async with channel.execute_stream(StreamRequest()) as call:
            assert (await call.receive()).result_json == "1"
            await call.receive()
    assert scope.cancelled_caught
    assert "the clean-up failed" in caplog.text


async def test_ctrl_c_is_not_the_plugins_failure():
    channel = InProcessChannel(Faulty(KeyboardInterrupt()), "it")
    with pytest.raises(KeyboardInterrupt):
        await channel.execute(ExecuteRequest())


async def test_a_plugin_may_stop_reading_a_streams_requests():
    class Impatient(StreamsOnly):
        async def execute_stream(self, requests):
            assert await anext(requests) == StreamRequest(operation="x")
            yield StreamResponse(is_final=True, result_json="2")

    async with InProcessChannel(Impatient()).execute_stream(StreamRequest(operation="x")) as call:
        assert (await call.receive()).result_json == "2"
        with pytest.raises(trio.EndOfChannel):
            await call.receive()
        with pytest.raises(PluginError):
            await call.send(StreamRequest())


async def test_a_plugin_may_answer_with_any_iterator():
    class Iterator:
        def __init__(self):
            self.left = 2

        def __aiter__(self):
            return self

        async def __anext__(self):
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return StreamResponse(result_json=str(self.left))

    class Plain(StreamsOnly):
        def execute_stream(self, _requests):
            return Iterator()

    async with InProcessChannel(Plain()).execute_stream(StreamRequest()) as call:
        assert [(await call.receive()).result_json for _ in range(2)] == ["1", "0"]


class Large(StreamsOnly):
    """Yields messages of ``size`` bytes; with ``has_room``, it asks for room for each."""

    def __init__(self, size, *, has_room=False):
        self.size, self.has_room, self.made = size, has_room, 0

    async def execute_stream(self, requests):
        await anext(requests)
        while True:
            if self.has_room:
                await requests.wait_room(2 * self.size)
                requests.resize_room([self.size])
            self.made += 1
            yield StreamResponse(result_json="x" * self.size)
            if self.has_room:
                requests.resize_room([])


async def test_a_handler_runs_no_further_than_it_is_asked():
    plugin = Large(5000)
    async with InProcessChannel(plugin).execute_stream(StreamRequest()) as call:
        for asked in range(1, 5):
            await call.receive()
            await wait_all_tasks_blocked()
            assert plugin.made == asked


async def test_a_handler_makes_a_few_short_messages_ahead():
    plugin = Large(100)
    async with InProcessChannel(plugin).execute_stream(StreamRequest()) as call:
        for _ in range(5):
            received = await call.receive_some()
            made = plugin.made
            await wait_all_tasks_blocked()
            assert len(received) <= 12
            assert plugin.made - made <= 12
        assert plugin.made > 20


@pytest.mark.parametrize("has_room", [False, True])
async def test_what_a_handler_has_made_is_counted_until_more_is_asked_for(has_room):
    account = Account("all", 1_000_000)
    plugin = Large(100_000, has_room=has_room)
    channel = InProcessChannel(plugin)
    async with channel.execute_stream(StreamRequest(), AnswerHold(account)) as call:
        for _ in range(3):
            await call.receive()
            await wait_all_tasks_blocked()
            assert account.used == 300_000  # the handler's, the relay's and the door's
    assert account.used == 0


async def test_a_message_without_room_ends_its_stream():
    account = Account("all", 500_000)
    channel = InProcessChannel(Large(100_000))
    async with channel.execute_stream(StreamRequest(), AnswerHold(account)) as first:
        await first.receive()
        async with channel.execute_stream(StreamRequest(), AnswerHold(account)) as second:
            with pytest.raises(AnswerDropped):
                await second.receive()
        assert account.used == 300_000
    assert account.used == 0


async def test_a_handler_that_asks_for_room_waits_for_it(autojump_clock):
    account = Account("all", 700_000)
    plugin = Large(100_000, has_room=True)
    other = Hold(account)
    other.resize(300_000)
    async with InProcessChannel(plugin).execute_stream(
        StreamRequest(), AnswerHold(account)
    ) as call:
        with trio.move_on_after(1):
            await call.receive()
        assert (plugin.made, account.used) == (0, 300_000)
        other.release()
        assert len((await call.receive()).result_json) == 100_000
        assert account.used == 300_000
    assert account.used == 0


async def test_an_answer_is_passed_on_as_it_is():
    answer = ExecuteResponse(success=True, result_json="[1]")
    assert await InProcessChannel(Faulty(answer)).execute(ExecuteRequest()) is answer


class Settled(PendingExecution):
    """An answer that is there already."""

    def __init__(self, response):
        self._response = response
        self.spoke = "nobody"

    def when_settled(self, tell):
        tell()

    def finish(self):
        self.spoke = speaker.get()
        return self._response

    def abandon(self):
        raise AssertionError("it is wanted")


class OneCall:
    """As much of a call as a channel needs."""

    namespace = operation = principal = request_id = traceparent = tracestate = ""
    params = raw = b""
    metadata = None
    deadline = math.inf
    done = False

    def __init__(self, tasks):
        self.tasks = tasks
        self.response = None

    def plugin_metadata(self):
        return {}

    def answered(self, response):
        self.done = True
        self.response = response
        self.spoke = speaker.get()


async def answer_of(channel):
    async with trio.open_nursery() as nursery:
        call = OneCall(TaskPool(nursery, max_idle=0))
        channel.start(call)
        await wait_all_tasks_blocked()
    assert channel.open_calls == 0
    return call


async def test_what_is_left_for_later_is_answered_when_it_is_settled():
    class Leaves(Plugin):
        async def begin_execution(self, _request):
            return settled

        async def execute(self, _request):
            raise AssertionError("it is left")

    settled = Settled(ExecuteResponse(success=True, result_json="1"))
    call = await answer_of(InProcessChannel(Leaves(), "it", speaks_as="the plugin"))
    assert call.response.result_json == "1"
    assert (settled.spoke, call.spoke) == ("the plugin", None), "the proxy's code is not its"


async def test_a_late_answer_that_is_none_has_failed(caplog):
    class Leaves(Plugin):
        async def begin_execution(self, _request):
            return Settled("no response")

        async def execute(self, _request):
            raise AssertionError("it is left")

    call = await answer_of(InProcessChannel(Leaves(), "it"))
    assert call.response.error_code == StatusCode.INTERNAL
    assert "answered with a str" in caplog.text


async def test_a_flood_of_one_plugin_lets_others_have_their_turn(monkeypatch):
    """Though none of its handlers ever waits; each takes a millisecond here."""

    class Counts(Plugin):
        async def execute(self, _request):
            if not order:
                nursery.start_soon(others)
            order.append(self)
            return ExecuteResponse(success=True)

    async def others():
        order.append("others")

    clock = iter(range(10_000))
    monkeypatch.setattr(in_process, "perf_counter", lambda: next(clock) / 1000)
    order = []
    flood, other = Counts(), Counts()
    channels = InProcessChannel(flood), InProcessChannel(other)
    async with trio.open_nursery() as nursery:
        tasks = TaskPool(nursery, max_idle=0)
        calls = [OneCall(tasks) for _ in range(501)]
        for call in calls[:500]:
            channels[0].start(call)
        channels[1].start(calls[500])
        await wait_all_tasks_blocked()
    assert all(call.done for call in calls)
    assert order.index(other) <= 8
    assert order.index("others") <= 30
    assert order.count(flood) == 500


async def test_who_has_an_execute_of_its_own_is_called_by_that():
    class Own(Plugin):
        async def execute(self, _request):
            return ExecuteResponse(success=True, result_json='"own"')

    call = await answer_of(InProcessChannel(Own(), "it"))
    assert call.response.result_json == '"own"'
