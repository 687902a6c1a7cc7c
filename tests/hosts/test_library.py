"""A library as a plugin in this process: what it may do wrong, and what that costs.

What every channel promises it keeps in tests/channels; crashes and hangs, which need a process that
may end, are in tests/e2e/test_native_plugin.py.
"""

import json
import logging
import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
import trio
import trio.testing

from prism.channels.in_process import InProcessChannel
from prism.contract.errors import ChannelBroken, PluginCrashed
from prism.contract.messages import (
    ExecuteRequest,
    HealthCheckRequest,
    HealthStatus,
    InitializeRequest,
    ShutdownRequest,
    StreamRequest,
)
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.hosts import library as hosted
from prism.hosts import loading
from prism.hosts.library import plugin_class
from prism.hosts.loading import LibraryUnfit, check_library, load_library
from tests.hosts.building import FLAGS, needs_loader, probe_library, tool


def load(*arguments):
    path = str(probe_library(*arguments))
    return load_library(path, "libprobe.so")


def made(*arguments, **options):
    return plugin_class(load(*arguments), **options)()


@asynccontextmanager
async def opened(*arguments, config=None, **options):
    """The channel to a probe, and the probe."""
    plugin = made(*arguments, **options)
    channel = InProcessChannel(plugin, "probe")
    try:
        request = InitializeRequest(namespace="n", config_json=json.dumps(config or {}))
        answer = await channel.initialize(request)
        assert answer.success, answer.error
        yield channel, plugin
    finally:
        await channel.aclose()
        with trio.CancelScope(shield=True):
            await plugin.aclose()


def request(operation, binary=b"", metadata=None, **params):
    if binary:
        return ExecuteRequest(operation=operation, params_raw=binary)
    text = json.dumps(params)
    return ExecuteRequest(operation=operation, params_json=text, metadata=metadata or {})


async def result(channel, operation, **params):
    answer = await channel.execute(request(operation, **params))
    assert answer.success, answer.error
    return json.loads(answer.result_json)


async def until(check):
    with trio.fail_after(60):
        while not check():  # noqa: ASYNC110 - a thread of the library's is at it
            await trio.sleep(0.005)


# -- what is no plugin -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["-DABI=2"], r"its table is of version 2 of the interface \(abi\); .* version 1"),
        (["-DABI=0"], "its table is of version 0"),
        (["-DSIZE=8"], r"its table has 8 bytes \(size\); one of version 1 has \d+"),
        (["-DNULL_OPEN"], "its table has NULL as open"),
        (["-DNO_SYMBOL"], "it does not export the function prism_plugin_v1"),
        (["-DNO_TABLE"], "its prism_plugin_v1 returned NULL instead of a table"),
        (["-DTHREADS=1000"], "it wants 1000 threads; the most is 256"),
        (['-DVERSION=""'], "the version in its table has to have 1 to 100 bytes"),
        (['-DVERSION="\\xff"'], "the version in its table is not UTF-8"),
    ],
)
def test_a_wrong_table_is_refused_before_any_call(arguments, why):
    with pytest.raises(LibraryUnfit, match=f"libprobe.so is no plugin: {why}"):
        load(*arguments)


def test_a_longer_table_of_a_later_release_is_taken():
    assert load("-DSIZE=4096").name == "probe"


def test_a_file_that_is_no_library_is_refused_by_what_it_is(tmp_path):
    needs_loader()
    file = tmp_path / "x"
    header = bytearray(Path("/proc/self/exe").read_bytes()[:64])
    for content, why in [
        (b"", r"it is no shared library \(ELF\)"),
        (b"#!/bin/sh\necho", r"it is no shared library \(ELF\)"),
        (header[:18] + b"\xb7\x00" + header[20:], r"it is built for aarch64 .* and this is"),
        (header[:4] + b"\x01" + header[5:], r"it is built for .*32 bits.* and this is"),
        (header[:16] + b"\x02\x00" + header[18:], "build it with -shared"),
        (header[:16] + b"\x03\x00" + header[18:], None),
    ]:
        file.write_bytes(content)
        if why is None:  # it looks like one; the loader knows better
            check_library(str(file), "x")
            why = "file too short|cannot (open|read)"
        with pytest.raises(LibraryUnfit, match=f"^x cannot be loaded: .*({why})"):
            load_library(str(file), "x")
    with pytest.raises(LibraryUnfit, match="x cannot be read: No such file"):
        load_library(str(tmp_path / "gone"), "x")


def test_a_library_that_needs_another_one_says_which(tmp_path):
    needs_loader()
    needed = tmp_path / "libneeded.so"
    (tmp_path / "needed.c").write_text("int needed(void) { return 1; }\n")
    subprocess.run([tool("gcc"), *FLAGS, "-o", needed, tmp_path / "needed.c"], check=True)
    (tmp_path / "a.c").write_text("int needed(void);\nint a(void) { return needed(); }\n")
    library = tmp_path / "liba.so"
    subprocess.run([tool("gcc"), *FLAGS, "-o", library, tmp_path / "a.c", needed], check=True)
    needed.unlink()
    with pytest.raises(LibraryUnfit, match=r"liba.so cannot be loaded: .*libneeded\.so"):
        load_library(str(library), "liba.so")


def test_a_prism_without_its_part_in_c_says_so(monkeypatch):
    monkeypatch.setattr(loading, "_library", None)
    with pytest.raises(LibraryUnfit, match="a C compiler"):
        load_library("/x", "x")


def test_what_a_library_says_has_the_numbers_of_the_extension():
    needs_loader()
    from prism.hosts import _library

    said = ("COMPLETE", "SEND", "WANT", "LOG", "NOTE", "WRONG", "DROPPED")
    for name in said:
        assert getattr(hosted, name) == getattr(_library, f"SAID_{name}")
    for name in ("END", "NOT_STARTED", "TOO_LARGE", "MSGPACK"):
        assert getattr(hosted, name) == getattr(_library, name)


# -- its life ----------------------------------------------------------------------------


async def test_a_library_that_makes_no_plugin_says_why():
    plugin = made("-DNO_PLUGIN")
    answer = await plugin.initialize(InitializeRequest())
    assert answer.error == "it made no plugin: there is no licence"
    await plugin.aclose()


async def test_an_initialize_that_fails_is_told_in_its_words():
    plugin = made()
    answer = await plugin.initialize(InitializeRequest(config_json='{"fail_start": true}'))
    assert (answer.success, answer.error_code) == (False, StatusCode.INVALID_ARGUMENT)
    assert answer.error == "there is no table 'fail_start'"
    health = await plugin.health_check(HealthCheckRequest())
    assert health.status is HealthStatus.UNHEALTHY


async def test_an_initialize_that_hangs_can_be_given_up():
    plugin = made("-DTHREADS=2")
    with trio.move_on_after(0.2) as scope:
        await plugin.initialize(InitializeRequest(config_json='{"hang_start": true}'))
    assert scope.cancelled_caught
    assert not (await plugin.execute(request("echo"))).success


async def test_what_the_library_tells_of_itself():
    async with opened() as (channel, plugin):
        told = []
        plugin.on_health = told.append
        health = await channel.health_check(HealthCheckRequest())
        assert (health.status, health.details) == (HealthStatus.HEALTHY, {"kind": "probe"})
        await result(channel, "notes")
        assert (told[0].status, told[0].message) == (HealthStatus.DEGRADED, "lags")
        metrics = (await channel.health_check(HealthCheckRequest())).metrics
        assert (metrics.cache_hits, metrics.custom_metrics_json) == (7, '{"x":1.5}')
        assert metrics.requests_total == 1


async def test_log_lines_are_logged_and_a_flood_of_them_is_cut(caplog):
    caplog.set_level(logging.INFO)
    async with opened() as (channel, _):
        await result(channel, "talk")
        await result(channel, "notes")
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("line") == 1000
    assert "2000 log lines or notes were dropped: too many at once" in lines
    assert "noted" in lines
    assert any("sent a note that is none" in line for line in lines)
    assert {record.name for record in caplog.records} == {"prism.plugin.probe"}


@pytest.mark.parametrize("threads", [0, 2])
async def test_what_it_says_after_its_end_goes_nowhere(threads, caplog):
    caplog.set_level(logging.INFO)
    for _ in range(3):
        async with opened(f"-DTHREADS={threads}", config={"talk_after_stop": 1}) as (channel, _):
            assert (await channel.shutdown(ShutdownRequest(timeout_seconds=1))).success
        caplog.clear()
        await trio.sleep(0.15)  # it talks for 0.3 s
        assert not caplog.records


async def test_a_shutdown_that_hangs_can_be_given_up(caplog):
    async with opened(config={"hang_stop": 1}) as (channel, plugin):
        with trio.move_on_after(0.2) as scope:
            await channel.shutdown(ShutdownRequest(timeout_seconds=1))
        assert scope.cancelled_caught
        assert not (await plugin.execute(request("echo"))).success
    assert "has calls open that it was to end" in caplog.text


async def test_no_descriptor_and_no_task_is_left(tmp_path):
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    async with opened():
        pass
    before = descriptors(), trio.lowlevel.current_statistics().tasks_living
    for _ in range(5):
        async with opened("-DTHREADS=2") as (channel, _):
            await result(channel, "echo")
            await channel.shutdown(ShutdownRequest())
    assert (descriptors(), trio.lowlevel.current_statistics().tasks_living) == before


# -- calls -------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, 3])
async def test_a_call_may_be_completed_by_any_thread_at_any_time(threads):
    async with opened(f"-DTHREADS={threads}") as (channel, _):
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for n in range(40):
                    nursery.start_soon(partial(result, channel, "later", n=n % 7))
                    nursery.start_soon(partial(result, channel, "echo", n=n))
        assert channel.open_calls == 0


async def test_params_metadata_and_results_pass_as_they_are():
    async with opened() as (channel, _):
        answer = await channel.execute(ExecuteRequest(operation="echo", params_json='{ "a" :1}'))
        assert answer.result_json == '{ "a" :1}'
        told = await channel.execute(request("metadata", metadata={"prism-request-id": 'a"b'}))
        assert json.loads(told.result_json) == {"prism-request-id": 'a"b'}
        assert (await channel.execute(request("empty"))).result_json == "{}"
        binary = await channel.execute(request("echo", binary=b"\x81\xa1a\xc4\x01\x00"))
        assert binary.result_raw == b"\x81\xa1a\xc4\x01\x00"
        text = await channel.execute(request("fail", binary=b"\x80"))
        assert not text.success


@pytest.mark.parametrize(
    ("operation", "params", "why"),
    [
        ("not_json", {}, "the plugin's result is not JSON"),
        ("not_utf8", {}, "the plugin's result is not JSON"),
        ("big", {"n": 300_000}, "larger than what is taken of it"),
        ("seen", {"binary": b"\x80"}, "answered a MessagePack call in JSON"),
    ],
)
async def test_a_result_that_is_none_fails_its_call_alone(operation, params, why):
    async with opened(max_answer=200_000) as (channel, _):
        answer = await channel.execute(request(operation, **params))
        assert not answer.success
        assert why in answer.error
        assert await result(channel, "echo", a=1) == {"a": 1}


async def test_the_first_completion_of_a_call_counts(caplog):
    async with opened() as (channel, _):
        assert await result(channel, "twice") == {"first": True}
        assert await result(channel, "unknown_call") == {}
        assert channel.open_calls == 0
    assert "which was completed before" in caplog.text
    assert "which was never begun" in caplog.text


async def test_a_call_that_waits_for_a_thread_is_never_begun_if_it_is_cancelled():
    async with opened("-DTHREADS=1") as (channel, plugin):
        with trio.move_on_after(0.05):
            await channel.execute(request("hang"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.execute, request("wait"))
            await until(lambda: plugin._instance.open_calls == 2)
            nursery.cancel_scope.cancel()
        assert plugin._instance.open_calls == 1
        assert [operation for _, operation in plugin._given_up.values()] == ["hang"]
        # One thread is for what is no operation.
        assert (await channel.health_check(HealthCheckRequest())).status is HealthStatus.HEALTHY


@pytest.mark.parametrize("threads", [0, 2])
async def test_a_call_that_is_never_completed_is_taken_for_stuck(threads):
    async with opened(f"-DTHREADS={threads}", cancel_grace=0.05) as (channel, plugin):
        plugin.on_stuck = channel.break_off
        with trio.move_on_after(0.02):
            await channel.execute(request("never"))
        with trio.fail_after(60):
            broken = await channel.wait_broken()
        assert isinstance(broken, ChannelBroken)
        assert "plugin 'probe' is stuck: never was cancelled, and was not completed" in str(broken)
        assert channel.ended is broken


async def test_a_call_that_hangs_in_a_thread_costs_that_thread():
    async with opened("-DTHREADS=2") as (channel, _):
        with trio.move_on_after(0.05):
            await channel.execute(request("hang"))
        for n in range(5):
            assert await result(channel, "echo", n=n) == {"n": n}


async def test_a_call_that_is_completed_as_it_is_given_up_is_no_sign_of_a_stuck_library():
    async with opened(cancel_grace=0.01) as (channel, plugin):
        told = []
        plugin.on_stuck = told.append
        with trio.move_on_after(0.05):
            await channel.execute(request("wait"))
        waiting = await plugin.begin_execution(request("later", n=1))
        await until(lambda: not plugin._pending)  # it is there, and nobody has taken it
        waiting.abandon()
        first = StreamRequest(operation="count", params_json='{"n": 2}')
        async with channel.execute_stream(first) as call:
            await call.receive()  # and leaves with the end in sight
        await trio.sleep(0.1)  # more than the grace
        assert not told
        assert not plugin._given_up


async def test_the_loop_sleeps_while_a_call_is_given_up(monkeypatch):
    async with opened(cancel_grace=60) as (channel, plugin):
        with trio.move_on_after(0.05):
            await channel.execute(request("never"))
        taken = []
        dispatch = plugin._dispatch
        monkeypatch.setattr(plugin, "_dispatch", lambda said: (taken.append(said), dispatch(said)))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(taken) <= 1


async def test_breaking_off_fails_the_calls_that_are_open():
    async with opened() as (channel, _):
        failures = []

        async def call():
            with pytest.raises(PluginCrashed) as caught:
                await channel.execute(request("wait"))
            failures.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.01)
            channel.break_off("it is stuck")
            channel.break_off("and once more")
        assert len(failures) == 1
        assert str(await channel.wait_broken()) == "probe: it is stuck"


# -- streams -----------------------------------------------------------------------------


async def test_a_stream_tells_its_positions():
    async with opened() as (channel, _):
        first = StreamRequest(operation="break_off", params_json='{"n": 3}')
        async with channel.execute_stream(first) as call:
            message = await call.receive()
        assert (message.result_json, message.position) == ("3", "here")


@pytest.mark.parametrize("how", ["completed", "cancelled"])
def test_the_library_hears_nothing_of_a_stream_that_is_over_nor_after_its_end(how):
    descriptor = os.eventfd(0, os.EFD_NONBLOCK)
    instance = load().make(descriptor, 1 << 20)
    instance.open(1, Method.INITIALIZE, 0, 0, "", b"{}", b"")
    instance.open(2, Method.EXECUTE_STREAM, 0, 0, "chat", b'{"text":"a"}', b"{}")
    assert instance.data(2, 0, b'{"text":"b"}')
    said = instance.data(2, hosted.END, b"") if how == "completed" else instance.cancel(2, 1)
    assert said[-1][:2] == (hosted.COMPLETE, 2)
    assert instance.data(2, 0, b'{"text":"c"}') is None
    instance.open(3, Method.SHUTDOWN, 0, 0, "", b"{}", b"")
    instance.close()
    os.close(descriptor)
    assert instance.destroy(60.0)
    assert instance.data(2, 0, b'{"text":"d"}') is None
    assert instance.give_room(2, 1) is None
    assert instance.cancel(2, 1) is None


@pytest.mark.parametrize("threads", [0, 2])
async def test_streams_of_large_messages_flow_through_their_window(threads):
    async with opened(f"-DTHREADS={threads}") as (channel, _):
        first = StreamRequest(operation="flood", params_json='{"n": 100000}')
        with trio.fail_after(60):
            async with channel.execute_stream(first) as call:
                for _ in range(50):
                    assert len((await call.receive()).result_json) == 100_002
            await until(lambda: channel.open_calls == 0)
        assert (await result(channel, "seen"))["sent"] < 60


async def test_the_event_loop_may_be_asyncio():
    needs_loader()

    async def run():
        plugin = made("-DTHREADS=2")
        assert (await plugin.initialize(InitializeRequest())).success
        assert (await plugin.execute(request("later", n=3))).result_json == '{"late":true}'
        stream = plugin.execute_stream(
            as_requests(StreamRequest(operation="count", params_json='{"n":3}'))
        )
        assert [one.result_json async for one in stream] == ["0", "1", "2", ""]
        assert (await plugin.shutdown(ShutdownRequest(timeout_seconds=1))).success

    await trio.to_thread.run_sync(partial(anyio.run, run, backend="asyncio"))


async def as_requests(*requests):
    for each in requests:
        yield each


# -- several in one process --------------------------------------------------------------


def test_one_content_is_loaded_once_and_another_beside_it(tmp_path):
    """The loader would take a descriptor's path for the library that it had at the time."""
    first = probe_library()
    second = probe_library('-DVERSION="2.0"')
    found = []
    for place in (first, second, first):
        descriptor = os.open(place, os.O_RDONLY)
        source = f"/proc/self/fd/{descriptor}"
        found.append(loading.shared_library(source, str(place), f"test:{place}"))
        os.close(descriptor)  # the next one has the same number
    assert [each.version for each in found] == ["1.2", "2.0", "1.2"]
    assert found[0] is found[2]
    loading.forget_library(found[0])
    copy = shutil.copy(first, tmp_path / "copy.so")
    assert loading.shared_library(str(copy), "copy", f"test:{first}") is not found[0]
