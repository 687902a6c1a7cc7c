import logging
from collections.abc import AsyncIterator

import anyio
import msgspec
import pytest
import trio

from prism.contract.messages import (
    ExecuteRequest,
    HealthCheckRequest,
    HealthStatus,
    InitializeRequest,
    ShutdownRequest,
    StreamRequest,
)
from prism.contract.status import StatusCode
from prism.sdk import Plugin, operation


async def initialized(echo: type[Plugin], config: str = "", **credentials: str) -> Plugin:
    plugin = echo()
    request = InitializeRequest(namespace="ns", config_json=config, credentials=credentials)
    response = await plugin.initialize(request)
    assert response.success, response.error
    return plugin


def execute(operation: str, params: str = '{"key": "a"}') -> ExecuteRequest:
    return ExecuteRequest(operation=operation, params_json=params)


class send(AsyncIterator[StreamRequest]):  # noqa: N801
    def __init__(self, *requests: StreamRequest) -> None:
        self.requests = list(requests)

    async def __anext__(self) -> StreamRequest:
        if not self.requests:
            raise StopAsyncIteration
        return self.requests.pop(0)


async def test_initialize_declares_the_operations(echo) -> None:
    response = await echo().initialize(InitializeRequest(namespace="ns"))
    assert response.success
    assert response.plugin_version == "1.2.3"
    declared = {one.name: one for one in response.operations}
    assert response.supported_operations == list(declared)
    assert declared["get"].idempotent
    assert not declared["nothing"].idempotent
    assert declared["count"].streaming
    assert "talk" not in declared
    assert declared["chat"].streaming


async def test_a_class_without_operations_warns_at_its_start(echo, caplog) -> None:
    class Empty(Plugin):
        async def get(self, params: dict[str, int]) -> None: ...

    await initialized(echo)
    assert not caplog.records
    await initialized(Empty)
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "prism.plugin.empty")
    assert "offers no operation" in record.message
    assert "mark its methods with @operation" in record.message


@pytest.mark.parametrize("step", ["start", "health", "stop"])
async def test_a_step_of_its_life_that_exits_has_failed(step) -> None:
    async def exits(self) -> None:
        raise SystemExit(3)

    plugin = type("Exits", (Plugin,), {step: exits})()
    started = await plugin.initialize(InitializeRequest())
    assert started.success is (step != "start")
    health = await plugin.health_check(HealthCheckRequest())
    assert (health.status is HealthStatus.HEALTHY) is (step == "stop")
    stopped = await plugin.shutdown(ShutdownRequest())
    said = {"start": started.error, "health": health.message, "stop": stopped.error}
    assert "failed: SystemExit: 3" in said[step]


async def test_initialize_twice(echo) -> None:
    plugin = await initialized(echo)
    response = await plugin.initialize(InitializeRequest())
    assert (response.success, response.error_code) == (False, StatusCode.FAILED_PRECONDITION)
    assert plugin.started == 1
    assert (await plugin.execute(execute("get"))).success


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('{"greeting": 5}', "Expected text, found an integer - at `$.greeting`"),
        ('{"greting": "x"}', "unknown field `greting`"),
        ("{", "truncated"),
        ("[" * 100_000, "config:"),
        ('{"greeting": "\udc80"}', "config:"),
    ],
)
async def test_wrong_config_names_the_path(echo, config: str, words: str) -> None:
    plugin = echo()
    response = await plugin.initialize(InitializeRequest(config_json=config))
    assert not response.success
    assert response.error_code == StatusCode.INVALID_ARGUMENT
    assert words in response.error
    answer = await plugin.execute(execute("get"))
    assert answer.error_code == StatusCode.FAILED_PRECONDITION


async def test_start_that_raises_tells_the_operator_but_no_secret(echo, caplog) -> None:
    response = await echo().initialize(
        InitializeRequest(
            config_json='{"greeting": "crash"}', credentials={"password": "hunter2/x", "user": ""}
        )
    )
    assert response.error_code == StatusCode.INTERNAL
    assert response.error == "start failed: ValueError: cannot connect with [redacted]"
    assert "Traceback" in caplog.text
    assert "hunter2" not in caplog.text


async def test_start_that_raises_plugin_error_keeps_its_status(echo) -> None:
    response = await echo().initialize(InitializeRequest(config_json='{"greeting": "refuse"}'))
    assert response.error_code == StatusCode.UNAUTHENTICATED
    assert response.error == "the backend said no"


async def test_cancelled_initialize_leaves_a_failed_plugin(echo) -> None:
    class Slow(echo):
        async def start(self) -> None:
            await trio.sleep_forever()

    plugin = Slow()
    with trio.CancelScope() as scope:
        scope.cancel()
        await plugin.initialize(InitializeRequest())
    answer = await plugin.execute(execute("get"))
    assert "start failed" in answer.error


async def test_calls_before_initialize(echo) -> None:
    plugin = echo()
    answer = await plugin.execute(execute("get"))
    assert answer.error_code == StatusCode.FAILED_PRECONDITION
    streamed = [one async for one in plugin.execute_stream(send(StreamRequest(operation="count")))]
    assert [one.error_code for one in streamed] == [StatusCode.FAILED_PRECONDITION]
    health = await plugin.health_check(HealthCheckRequest())
    assert health.status == HealthStatus.UNHEALTHY


async def test_execute(echo) -> None:
    plugin = await initialized(echo, '{"greeting": "hi"}')
    answer = await plugin.execute(execute("get"))
    assert answer.success
    assert answer.result_json == '{"key":"a","greeting":"hi"}'
    assert answer.result_raw == b""


async def test_none_is_an_empty_object_and_raw_stays_as_it_is(echo) -> None:
    plugin = await initialized(echo)
    assert (await plugin.execute(execute("nothing", ""))).result_json == "{}"
    raw = await plugin.execute(execute("raw"))
    assert raw.result_json == '{"n":123456789012345678901234567890}'


async def test_messagepack_is_answered_in_messagepack(echo) -> None:
    plugin = await initialized(echo)
    raw = msgspec.msgpack.encode({"key": "a"})
    answer = await plugin.execute(ExecuteRequest(operation="who", params_raw=raw))
    assert answer.result_json == ""
    assert msgspec.msgpack.decode(answer.result_raw)["binary"] is True
    nothing = await plugin.execute(ExecuteRequest(operation="nothing", params_raw=b"\x80"))
    assert msgspec.msgpack.decode(nothing.result_raw) == {}


async def test_the_call_knows_its_metadata(echo) -> None:
    plugin = await initialized(echo)
    metadata = {"prism-principal": "ada", "prism-request-id": "r1", "traceparent": "00-x"}
    request = ExecuteRequest(operation="who", params_json='{"key":""}', metadata=metadata)
    assert msgspec.json.decode((await plugin.execute(request)).result_json) == {
        "namespace": "ns",
        "principal": "ada",
        "request_id": "r1",
        "traceparent": "00-x",
        "operation": "who",
        "binary": False,
    }


async def test_unknown_operation_names_those_offered(echo) -> None:
    plugin = await initialized(echo)
    answer = await plugin.execute(execute("gte"))
    assert answer.error_code == StatusCode.UNIMPLEMENTED
    assert "'gte'" in answer.error
    assert "get" in answer.error


@pytest.mark.parametrize(("operation", "word"), [("count", "stream"), ("get", "single")])
async def test_wrong_kind_of_call(echo, operation: str, word: str) -> None:
    plugin = await initialized(echo)
    if operation == "count":
        answer = await plugin.execute(execute("count"))
    else:
        stream = plugin.execute_stream(send(StreamRequest(operation="get")))
        [answer] = [one async for one in stream]
    assert answer.error_code == StatusCode.UNIMPLEMENTED
    assert word in answer.error


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ('{"key": 5}', "Expected text, found an integer - at `$.key`"),
        ("", "missing required field `key`"),
        ("{", "truncated"),
        ('{"key":' + "[" * 100_000, "Expected text"),
        ('{"key": "\udc80"}', "UTF-8"),
    ],
)
async def test_wrong_params(echo, params: str, words: str) -> None:
    plugin = await initialized(echo)
    answer = await plugin.execute(execute("get", params))
    assert answer.error_code == StatusCode.INVALID_ARGUMENT
    assert words in answer.error


@pytest.mark.parametrize("raw", [b"\x81\xa3key\xa1\xff", b"\x91" * 100_000, b"\xc1"])
async def test_wrong_messagepack(echo, raw: bytes) -> None:
    plugin = await initialized(echo)
    answer = await plugin.execute(ExecuteRequest(operation="get", params_raw=raw))
    assert answer.error_code == StatusCode.INVALID_ARGUMENT


async def test_nesting_too_deep(echo) -> None:
    class Anything(echo):
        from prism.sdk import operation

        @operation
        async def take(self, params: dict[str, object]) -> None: ...

    plugin = await initialized(Anything)
    answer = await plugin.execute(execute("take", '{"a":' * 100_000))
    assert answer.error_code == StatusCode.INVALID_ARGUMENT
    assert answer.error == "the params are nested too deeply"


async def test_plugin_error_is_the_answer(echo) -> None:
    plugin = await initialized(echo)
    answer = await plugin.execute(execute("fail"))
    assert (answer.error_code, answer.error) == (StatusCode.NOT_FOUND, "no a")
    grouped = await plugin.execute(execute("grouped"))
    assert (grouped.error_code, grouped.error) == (StatusCode.ABORTED, "in a child")


async def test_a_bug_is_internal_and_only_the_log_has_it(echo, caplog) -> None:
    plugin = await initialized(echo, password="p@ss")
    with caplog.at_level(logging.ERROR, logger="prism.plugin.echo"):
        answer = await plugin.execute(execute("bug"))
    assert answer.error_code == StatusCode.INTERNAL
    assert "secret detail" not in answer.error
    error_id = answer.error.split()[-1]
    assert f"error id {error_id}\n" in caplog.text
    assert "secret detail [redacted]" in caplog.text
    assert (await plugin.execute(execute("get"))).success


async def test_the_log_of_a_bug_leads_to_the_request(echo, caplog) -> None:
    plugin = await initialized(echo)
    metadata = {"prism-request-id": "r-1"}
    await plugin.execute(ExecuteRequest("bug", '{"key": "a"}', metadata))
    assert ", request r-1\n" in caplog.text


async def test_a_result_that_cannot_be_encoded_is_internal(echo, caplog) -> None:
    plugin = await initialized(echo)
    assert (await plugin.execute(execute("unencodable"))).error_code == StatusCode.INTERNAL
    assert "unencodable" in caplog.text


async def test_metrics(echo) -> None:
    plugin = await initialized(echo)
    first = await plugin.execute(execute("nothing", '{"a": 1}'))
    assert first.metrics is not None
    assert first.metrics.requests_total == 1
    second = await plugin.execute(execute("fail"))
    assert second.metrics is None
    metrics = (await plugin.health_check(HealthCheckRequest())).metrics
    assert metrics is not None
    assert (metrics.requests_total, metrics.requests_failed) == (2, 1)
    assert metrics.latency_ms > 0
    assert metrics.custom_metrics_json == '{"nothing":1}'


async def test_health(echo) -> None:
    plugin = await initialized(echo)
    health = await plugin.health_check(HealthCheckRequest())
    assert (health.status, health.message) == (HealthStatus.DEGRADED, "slow")
    assert health.details == {"lag": "3 s"}


async def test_health_that_raises_is_unhealthy(echo) -> None:
    plugin = await initialized(echo, '{"greeting": "sick"}')
    health = await plugin.health_check(HealthCheckRequest())
    assert health.status == HealthStatus.UNHEALTHY
    assert "backend gone" in health.message


async def test_stream(echo) -> None:
    plugin = await initialized(echo)
    request = StreamRequest(operation="count", params_json='{"times": 2}')
    answers = [one async for one in plugin.execute_stream(send(request))]
    assert [one.result_json for one in answers] == ['{"n":0}', '{"n":1}', ""]
    assert [one.is_final for one in answers] == [False, False, True]


async def test_stream_that_fails_after_items(echo) -> None:
    plugin = await initialized(echo)
    request = StreamRequest(operation="count", params_raw=msgspec.msgpack.encode({"times": 13}))
    answers = [one async for one in plugin.execute_stream(send(request))]
    assert len(answers) == 14
    assert msgspec.msgpack.decode(answers[0].result_raw) == {"n": 0}
    assert answers[-1].is_final
    assert answers[-1].error_code == StatusCode.OUT_OF_RANGE


async def test_both_directions(echo) -> None:
    plugin = await initialized(echo)
    requests = send(
        StreamRequest(operation="chat", params_json='{"key": "k"}'),
        StreamRequest(params_json='{"times": 7}'),
        StreamRequest(params_json='{"times": "x"}'),
    )
    answers = [one async for one in plugin.execute_stream(requests)]
    assert [one.result_json for one in answers] == ['"first k"', '"times 7"', ""]
    assert answers[-1].error_code == StatusCode.INVALID_ARGUMENT
    assert "`$.times`" in answers[-1].error


async def test_a_stream_without_a_first_message(echo) -> None:
    plugin = await initialized(echo)
    [answer] = [one async for one in plugin.execute_stream(send())]
    assert answer.error_code == StatusCode.UNIMPLEMENTED


async def test_closing_a_stream_closes_its_handler(echo) -> None:
    plugin = await initialized(echo)
    stream = plugin.execute_stream(
        send(StreamRequest(operation="chat", params_json='{"key": "k"}'))
    )
    assert (await anext(stream)).result_json == '"first k"'
    await stream.aclose()
    assert plugin.metrics.custom == {"closed": 1}
    assert (await plugin.shutdown(ShutdownRequest(timeout_seconds=1))).success


async def test_a_cancelled_call_leaves_the_plugin_usable(echo) -> None:
    plugin = await initialized(echo)
    with trio.CancelScope() as scope:
        scope.cancel()
        await plugin.execute(execute("wait"))
    assert scope.cancelled_caught
    assert (await plugin.execute(execute("get"))).success
    assert (await plugin.shutdown(ShutdownRequest())).success


async def test_shutdown_waits_for_running_calls(echo, autojump_clock) -> None:
    plugin = await initialized(echo)
    answers = []

    async def call() -> None:
        answers.append(await plugin.execute(execute("wait")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        shutdown = []

        async def stop() -> None:
            shutdown.append(await plugin.shutdown(ShutdownRequest(timeout_seconds=60)))

        nursery.start_soon(stop)
        await trio.testing.wait_all_tasks_blocked()
        refused = await plugin.execute(execute("get"))
        assert refused.error_code == StatusCode.UNAVAILABLE
        assert plugin.stopped == 0
        plugin.release.set()
    assert answers[0].success
    assert shutdown[0].success
    assert plugin.stopped == 1
    assert (await plugin.shutdown(ShutdownRequest())).success
    assert plugin.stopped == 1


async def test_shutdown_stops_after_its_timeout(echo, autojump_clock) -> None:
    plugin = await initialized(echo)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(plugin.execute, execute("wait"))
        await trio.testing.wait_all_tasks_blocked()
        response = await plugin.shutdown(ShutdownRequest(timeout_seconds=5))
        assert not response.success
        assert response.error == "stopped while 1 calls were still running"
        assert trio.current_time() == pytest.approx(5)
        assert plugin.stopped == 1
        plugin.release.set()


async def test_stop_that_raises_is_answered(echo) -> None:
    class Stubborn(echo):
        async def stop(self) -> None:
            raise RuntimeError("will not")

    plugin = await initialized(Stubborn)
    response = await plugin.shutdown(ShutdownRequest())
    assert response.error == "stop failed: RuntimeError: will not"


def test_the_same_class_runs_under_asyncio(echo) -> None:
    async def scenario() -> None:
        plugin = await initialized(echo)
        assert await plugin.run_blocking(divmod, 7, 2) == (3, 1)
        assert (await plugin.execute(execute("get"))).success
        async with anyio.create_task_group() as group:
            group.start_soon(plugin.execute, execute("wait"))
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        answers = [
            one
            async for one in plugin.execute_stream(
                send(StreamRequest(operation="count", params_json='{"times": 3}'))
            )
        ]
        assert len(answers) == 4
        assert (await plugin.shutdown(ShutdownRequest(timeout_seconds=1))).success

    anyio.run(scenario, backend="asyncio")


async def test_run_blocking_is_limited(echo) -> None:
    class Narrow(echo):
        blocking_threads = 1

    plugin = await initialized(Narrow)
    running = 0
    most = 0

    def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(plugin.run_blocking, work)
    assert most == 1


async def test_an_author_may_use_any_name_of_his_own() -> None:
    class Mine(Plugin):
        def __init__(self) -> None:
            super().__init__()
            self._state = self._running = self._calls = self._limiter = "mine"

        def _refusal(self) -> str:
            return "mine"

        @operation
        async def names(self, params: dict[str, int]) -> list[str]:
            return [self._state, self._running, self._calls, self._limiter, self._refusal()]

    plugin = Mine()
    assert (await plugin.initialize(InitializeRequest())).success
    assert (await plugin.execute(execute("names", "{}"))).result_json.count("mine") == 5
    assert (await plugin.execute(execute("other"))).error_code == StatusCode.UNIMPLEMENTED
    assert (await plugin.shutdown(ShutdownRequest())).success
