"""What every kind of channel promises. ``conftest.KINDS`` lists the kinds."""

import json
from contextlib import asynccontextmanager

import pytest
import trio

from prism.contract.errors import (
    AnswerTooLarge,
    ChannelClosed,
    Draining,
    LocalProtocolError,
    PayloadTooLarge,
    PluginCrashed,
    PluginError,
    PluginUnavailable,
)
from prism.contract.messages import (
    ExecuteRequest,
    HealthCheckRequest,
    HealthStatus,
    InitializeRequest,
    ShutdownRequest,
    StreamRequest,
)
from prism.contract.redaction import Redaction
from prism.contract.status import StatusCode

MAX_FRAME = 256 * 1024


def request(operation, **params):
    return ExecuteRequest(operation=operation, params_json=json.dumps(params))


def first(operation, **params):
    return StreamRequest(operation=operation, params_json=json.dumps(params))


def message(**params):
    return StreamRequest(params_json=json.dumps(params))


async def result(channel, operation, **params):
    answer = await channel.execute(request(operation, **params))
    assert answer.success, answer.error
    return json.loads(answer.result_json)


async def until(check):
    """Wait until an async ``check`` returns something true."""
    with trio.fail_after(60):
        while not (found := await check()):  # noqa: ASYNC110 - the plugin may be far away
            await trio.sleep(0.005)
    return found


async def counted(channel, name, number):
    return (await result(channel, "seen"))[name] == number


@asynccontextmanager
async def initialized(open_channel):
    async with open_channel() as channel:
        answer = await channel.initialize(InitializeRequest(namespace="n", config_json="{}"))
        assert answer.success
        yield channel


async def test_initialize_says_what_the_plugin_offers(open_channel):
    async with open_channel() as channel:
        answer = await channel.initialize(InitializeRequest(namespace="n"))
        assert (answer.success, answer.plugin_version) == (True, "1.2")
        assert {"echo", "chat"} <= set(answer.supported_operations)
        again = await channel.initialize(InitializeRequest(namespace="n"))
        assert (again.success, again.error_code) == (False, StatusCode.FAILED_PRECONDITION)


async def test_calls_are_answered_and_counted(open_channel):
    async with initialized(open_channel) as channel:
        assert await result(channel, "echo", text="Grüße ☃") == {"text": "Grüße ☃"}
        assert channel.open_calls == 0


async def test_errors_are_answers(open_channel):
    async with initialized(open_channel) as channel:
        answer = await channel.execute(request("fail", text="not here"))
        assert (answer.success, answer.error_code) == (False, StatusCode.NOT_FOUND)
        assert answer.error == "not here"
        unknown = await channel.execute(request("nonsense"))
        assert unknown.error_code == StatusCode.UNIMPLEMENTED
        assert "nonsense" in unknown.error


async def test_health(open_channel):
    async with open_channel() as channel:
        before = await channel.health_check(HealthCheckRequest())
        assert before.status is HealthStatus.UNHEALTHY
        await channel.initialize(InitializeRequest(namespace="n"))
        after = await channel.health_check(HealthCheckRequest())
        assert after.status is HealthStatus.HEALTHY
        assert after.metrics is not None


async def test_many_calls_at_once_get_their_own_answers(open_channel):
    async with initialized(open_channel) as channel:
        answers = {}

        async def call(n):
            answers[n] = (await result(channel, "echo", text=str(n)))["text"]

        async with trio.open_nursery() as nursery:
            for n in range(300):
                nursery.start_soon(call, n)
        assert answers == {n: str(n) for n in range(300)}
        assert channel.open_calls == 0


async def test_large_messages_pass(open_channel):
    async with initialized(open_channel) as channel:
        text = "x" * (MAX_FRAME - 1000)
        assert (await result(channel, "echo", text=text))["text"] == text


async def test_a_result_over_the_limit_fails_its_call_only(open_framed):
    async with initialized(open_framed) as channel:
        with pytest.raises(AnswerTooLarge, match=rf"{MAX_FRAME} bytes .* \(plugin.max_frame_bytes"):
            await channel.execute(request("big", n=MAX_FRAME))
        assert await result(channel, "echo", text="still here") == {"text": "still here"}


async def test_a_request_over_the_plugins_limit_fails_its_call_only(open_framed):
    async with initialized(open_framed) as channel:
        with pytest.raises(PayloadTooLarge):
            await result(channel, "echo", text="x" * (16 * 1024 * 1024))
        assert channel.open_calls == 0
        assert await result(channel, "echo", text="still here") == {"text": "still here"}


async def test_a_cancelled_call_is_cancelled_in_the_plugin(open_channel):
    async with initialized(open_channel) as channel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.execute, request("wait"))
            await until(lambda: counted(channel, "waiting", 1))
            assert channel.open_calls == 1
            nursery.cancel_scope.cancel()
        await until(lambda: counted(channel, "cancelled", 1))
        assert channel.open_calls == 0


async def test_a_call_in_a_cancelled_scope_is_not_made(open_channel):
    async with initialized(open_channel) as channel:
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.execute(request("wait"))
        assert scope.cancelled_caught
        assert channel.open_calls == 0


async def test_the_deadline_reaches_the_plugin(open_channel):
    async with initialized(open_channel) as channel:
        assert await result(channel, "time_left") == 1e6
        with trio.fail_after(30):
            assert 10 < await result(channel, "time_left") <= 30.01


async def test_a_stream_is_received_to_its_end(open_channel):
    async with initialized(open_channel) as channel:
        async with channel.execute_stream(first("count", n=500)) as call:
            received = [json.loads((await call.receive()).result_json) for _ in range(500)]
            with pytest.raises(trio.EndOfChannel):
                await call.receive()
            with pytest.raises(trio.EndOfChannel):
                await call.receive()
        assert received == list(range(500))
        assert channel.open_calls == 0


async def test_streams_flow_both_ways_until_each_side_ends(open_channel):
    async with (
        initialized(open_channel) as channel,
        channel.execute_stream(first("chat", text="hello")) as call,
    ):
        assert json.loads((await call.receive()).result_json) == "hello"
        for word in ("one", "two"):
            await call.send(message(text=word))
            assert json.loads((await call.receive()).result_json) == word
        await call.end()
        await call.end()
        with pytest.raises(LocalProtocolError):
            await call.send(message(text="late"))
        assert json.loads((await call.receive()).result_json) == "bye"
        with pytest.raises(trio.EndOfChannel):
            await call.receive()


async def test_leaving_a_stream_early_cancels_it(open_channel):
    async with initialized(open_channel) as channel:
        async with channel.execute_stream(first("flood", n=100)) as call:
            await call.receive()

        async def over():
            return channel.open_calls == 0

        await until(over)
        assert await result(channel, "echo", text="a") == {"text": "a"}


async def test_a_stream_that_fails_gives_its_messages_first(open_channel):
    async with (
        initialized(open_channel) as channel,
        channel.execute_stream(first("break_off", n=7)) as call,
    ):
        assert (await call.receive()).result_json == "7"
        with pytest.raises(PluginError, match="broken off") as caught:
            await call.receive()
        assert caught.value.status is StatusCode.DATA_LOSS


async def test_an_error_in_the_block_of_a_stream_is_raised_as_it_is(open_channel):
    async with initialized(open_channel) as channel:
        with pytest.raises(LookupError, match="mine"):
            async with channel.execute_stream(first("flood", n=1)):
                raise LookupError("mine")
        with pytest.raises(trio.EndOfChannel):
            async with channel.execute_stream(first("count", n=0)) as call:
                await call.receive()


async def test_a_message_over_the_limit_fails_its_stream_only(open_framed):
    async with initialized(open_framed) as channel:
        async with channel.execute_stream(first("flood", n=MAX_FRAME)) as call:
            with pytest.raises(AnswerTooLarge):
                await call.receive()
        assert await result(channel, "echo", text="a") == {"text": "a"}


async def test_a_slow_reader_stops_its_own_stream_only(open_channel):
    async with (
        initialized(open_channel) as channel,
        channel.execute_stream(first("flood", n=1000)) as call,
    ):
        await call.receive()
        counts = [-1]

        async def stands_still():
            assert await result(channel, "echo", text="a") == {"text": "a"}
            counts.append((await result(channel, "seen"))["sent"])
            return counts[-1] == counts[-2]

        await until(stands_still)
        assert counts[-1] * 1000 < 512 * 1024
        for _ in range(counts[-1] + 300):
            await call.receive()


async def test_shutdown_is_answered(open_channel):
    async with initialized(open_channel) as channel:
        answer = await channel.shutdown(ShutdownRequest(timeout_seconds=1))
        assert answer.success


async def test_go_away_leaves_the_channel_usable(open_channel):
    async with initialized(open_channel) as channel:
        channel.go_away("a drain")
        assert await result(channel, "echo", text="a") == {"text": "a"}


async def test_closing_ends_open_calls_as_crashed_and_later_ones_as_unavailable(open_channel):
    async with initialized(open_channel) as channel:
        failures = []

        async def call():
            with pytest.raises(PluginCrashed) as caught:
                await channel.execute(request("wait"))
            failures.append(caught.value)

        async def stream():
            async with channel.execute_stream(first("chat", text="a")) as call:
                await call.receive()
                with pytest.raises(PluginCrashed) as caught:
                    await call.receive()
                failures.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            nursery.start_soon(stream)

            async def both_wait():
                await trio.testing.wait_all_tasks_blocked(0.05)
                return channel.open_calls == 2

            await until(both_wait)
            await channel.aclose()
        assert len(failures) == 2
        assert channel.open_calls == 0
        with pytest.raises(PluginUnavailable):
            await channel.execute(request("echo"))
        with pytest.raises(PluginUnavailable):
            async with channel.execute_stream(first("count")):
                pass
        assert isinstance(await channel.wait_broken(), ChannelClosed)
        channel.go_away("again")
        await channel.aclose()


async def test_calls_that_are_given_up_end_with_the_reason_and_are_cancelled(open_channel):
    async with initialized(open_channel) as channel:
        failures = []

        async def call():
            with pytest.raises(Draining, match="no more time") as caught:
                await channel.execute(request("wait"))
            failures.append(caught.value)

        async def stream():
            async with channel.execute_stream(first("chat", text="a")) as call:
                await call.receive()
                with pytest.raises(Draining, match="no more time") as caught:
                    await call.receive()
                failures.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            nursery.start_soon(stream)

            async def both_wait():
                await trio.testing.wait_all_tasks_blocked(0.05)
                return channel.open_calls == 2 and await counted(channel, "waiting", 1)

            await until(both_wait)
            channel.cancel_calls(Draining("no more time"))
        assert len(failures) == 2
        assert await until(lambda: counted(channel, "cancelled", 1))
        assert channel.ended is None
        await channel.aclose()
        assert channel.ended is not None


async def test_a_cancelled_aclose_closes_all_the_same(open_channel):
    async with initialized(open_channel) as channel:
        assert await result(channel, "echo", text="a") == {"text": "a"}
        with trio.CancelScope() as scope:
            scope.cancel()
            channel.go_away("so that there is something to write")
            await channel.aclose()
        with trio.fail_after(60):
            assert isinstance(await channel.wait_broken(), ChannelClosed)
        with pytest.raises(PluginUnavailable):
            await channel.execute(request("echo"))


async def test_credentials_never_come_back(open_channel):
    async with open_channel() as channel:
        credentials = {"password": "not for you"}
        await channel.initialize(InitializeRequest(namespace="n", credentials=credentials))
        assert channel.redaction.text("as not%20for%20you@db") == "as [redacted]@db"
        # One that the plugin does not know as a secret, since the SDK would hide it as well.
        channel.redaction = Redaction({"password": "broken off"})
        answer = await channel.execute(request("fail", text="it is broken off"))
        assert answer.error == "it is [redacted]"
        async with channel.execute_stream(first("break_off", n=1)) as call:
            await call.receive()
            with pytest.raises(PluginError) as caught:
                await call.receive()
        assert caught.value.status is StatusCode.DATA_LOSS
        assert caught.value.detail.startswith("[redacted]")
