"""``serve`` as whole processes, met over each kind of socket; and what they tell their host."""

import logging
import os
import signal
import sys
import threading

import pytest
import trio
import trio.testing

from prism.channels.frames.channel import FramedChannel
from prism.contract.messages import ExecuteRequest, InitializeRequest, ShutdownRequest
from prism.sdk import Metrics
from prism.sdk.serving import (
    MAX_MESSAGE,
    MAX_PENDING,
    MAX_RECORDS,
    NoteHandler,
    report,
    send_logs,
)
from prism.streams import tcp, unix
from prism.streams.unix import FD_VARIABLE, socket_pair

PROGRAM = """
import asyncio, logging, sys
from msgspec import Struct
from prism.sdk import Plugin, operation, serve

class Nothing(Struct):
    pass

class Small(Plugin):
    name = "small"
    async def stop(self):
        logging.getLogger("mine").warning("stopped cleanly")
    @operation
    async def say(self, params: Nothing) -> str:
        logging.getLogger("mine").warning("said something")
        return "hello"
    @operation
    async def only_asyncio(self, params: Nothing) -> str:
        queue = asyncio.Queue()
        asyncio.get_running_loop().call_later(0.01, queue.put_nowait, "from a queue")
        await asyncio.sleep(0.01)
        return await queue.get()
    @operation
    async def collector(self, params: Nothing) -> list:
        import gc
        return [gc.get_threshold()[0], gc.get_freeze_count() > 10_000]
    @operation
    async def short(self, params: Nothing) -> str:
        import anyio
        await anyio.sleep(0.5)
        return "done"
    @operation
    async def long(self, params: Nothing) -> str:
        import anyio
        await anyio.sleep(60)

serve(Small, sys.argv[2:], backend=sys.argv[1])
"""


class Running:
    """A plugin's process and what it has written."""

    def __init__(self, process):
        self.process = process
        self.output = ""

    async def read(self):
        async for chunk in self.process.stderr:
            self.output += chunk.decode()

    async def until(self, text):
        with trio.fail_after(60):
            while text not in self.output:  # noqa: ASYNC110 - another process writes it
                await trio.sleep(0.01)

    async def ended(self):
        with trio.fail_after(60):
            return await self.process.wait()


@pytest.fixture
async def start(tmp_path, nursery):
    """Starts the program; every process is gone at the end of the test."""
    path = tmp_path / "small.py"
    path.write_text(PROGRAM)
    started = []

    async def start(*arguments, backend="trio", environment=None, descriptors=()):
        process = await trio.lowlevel.open_process(
            [sys.executable, str(path), backend, *arguments],
            stderr=-1,
            pass_fds=descriptors,
            env=os.environ | (environment or {}),
        )
        started.append(process)
        running = Running(process)
        nursery.start_soon(running.read)
        return running

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def serve_on(stream, nursery, **callbacks):
    channel = FramedChannel(stream, name="it", **callbacks)
    await channel.handshake()
    nursery.start_soon(channel.run)
    assert (await channel.initialize(InitializeRequest(namespace="ns"))).success
    return channel


async def execute(channel, operation, results=None):
    answer = await channel.execute(ExecuteRequest(operation=operation))
    if results is not None:
        results.append(answer.result_json)
    return answer.result_json


@pytest.fixture
async def spawn(start, nursery):
    async def spawn(backend="trio", **callbacks):
        ours, theirs = socket_pair()
        with theirs:
            number = theirs.fileno()
            plugin = await start(
                backend=backend, environment={FD_VARIABLE: str(number)}, descriptors=[number]
            )
        return plugin, await serve_on(ours, nursery, **callbacks)

    return spawn


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
async def test_a_spawned_plugin_ends_with_its_connection(spawn, backend):
    plugin, channel = await spawn(backend)
    assert await execute(channel, "say") == '"hello"'
    await channel.aclose()
    assert await plugin.ended() == 0, plugin.output
    await plugin.until("stopped cleanly")


async def test_handlers_may_need_asyncio(spawn):
    _plugin, channel = await spawn("asyncio")
    assert await execute(channel, "only_asyncio") == '"from a queue"'
    await channel.shutdown(ShutdownRequest())
    await channel.aclose()


async def test_logs_reach_the_host_and_the_last_ones_standard_error(spawn):
    records = []
    plugin, channel = await spawn(on_note=lambda note: records.extend(note.logs))
    await execute(channel, "say")
    with trio.fail_after(60):
        while not records:  # noqa: ASYNC110 - another process sends them
            await trio.sleep(0.01)
    assert [(r.level, r.logger, r.message) for r in records] == [
        ("WARNING", "mine", "said something")
    ]
    assert (await channel.shutdown(ShutdownRequest())).success
    await channel.aclose()
    assert await plugin.ended() == 0, plugin.output
    await plugin.until("WARNING mine: stopped cleanly")
    assert "said something" not in plugin.output


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
async def test_sigterm_lets_calls_finish(spawn, nursery, backend):
    said = []
    plugin, channel = await spawn(backend, on_goaway=said.append)
    results = []
    async with trio.open_nursery() as calls:
        calls.start_soon(execute, channel, "short", results)
        await trio.testing.wait_all_tasks_blocked()
        await execute(channel, "say")
        plugin.process.send_signal(signal.SIGTERM)
    assert results == ['"done"']
    assert await plugin.ended() == 0, plugin.output
    assert len(said) == 1
    await channel.aclose()


async def test_a_second_signal_does_not_wait(spawn, nursery):
    said = trio.Event()
    plugin, channel = await spawn(on_goaway=lambda _: said.set())
    async with trio.open_nursery() as calls:
        calls.start_soon(execute, channel, "long")
        await trio.testing.wait_all_tasks_blocked()
        await execute(channel, "say")
        plugin.process.send_signal(signal.SIGTERM)
        await said.wait()
        plugin.process.send_signal(signal.SIGTERM)
    assert await plugin.ended() == 0, plugin.output
    await channel.aclose()


async def test_a_dialling_plugin_waits_for_the_proxy_and_comes_back(start, nursery, tmp_path):
    path = tmp_path / "d" / "s"
    plugin = await start("--connect", f"unix:{path}")
    await plugin.until("waiting for the proxy at unix:")
    for _ in range(2):
        listener = unix.listen(path)
        with trio.fail_after(60):
            stream, _peer = await listener.accept()
        channel = await serve_on(stream, nursery)
        assert await execute(channel, "say") == '"hello"'
        await channel.aclose()
        await listener.aclose()
    plugin.process.terminate()
    assert await plugin.ended() == 0, plugin.output


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
async def test_a_listening_plugin_survives_hosts_and_drains(
    start, nursery, tmp_path, kind, backend
):
    where = f"unix:{tmp_path}/s" if kind == "unix" else "tcp:127.0.0.1:0"
    plugin = await start("--listen", where, "--insecure", backend=backend)
    await plugin.until("listening on ")

    async def dial():
        if kind == "unix":
            return await unix.dial(tmp_path / "s")
        port = plugin.output.partition("listening on tcp:127.0.0.1:")[2].split()[0]
        return await tcp.dial("127.0.0.1", int(port), None)

    stranger = await dial()
    await stranger.send_all(b"GET / HTTP/1.1\r\n\r\n")
    await stranger.receive_some()
    await stranger.aclose()
    channel = await serve_on(await dial(), nursery)
    second = await serve_on(await dial(), nursery)
    await channel.aclose()
    results = []
    async with trio.open_nursery() as calls:
        calls.start_soon(execute, second, "short", results)
        await trio.testing.wait_all_tasks_blocked()
        await execute(second, "say")
        plugin.process.terminate()
    assert results == ['"done"']
    assert await plugin.ended() == 0, plugin.output
    assert "Traceback" not in plugin.output, plugin.output
    await second.aclose()


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "message"),
    [
        ([], {FD_VARIABLE: "999"}, 1, "is not a connected socket (Bad file descriptor)"),
        ([], {FD_VARIABLE: "garbage"}, 2, "is not a file descriptor"),
        ([], {}, 2, "nothing says where the proxy is"),
        (["--listen", "unix:/no/such/directory/s"], {}, 1, "cannot listen on unix:/no/such"),
    ],
)
async def test_what_cannot_be_served(start, arguments, environment, status, message):
    plugin = await start(*arguments, environment=environment)
    assert await plugin.ended() == status
    await plugin.until(message)
    assert "Traceback" not in plugin.output, plugin.output


async def test_a_host_that_refuses_ends_a_spawned_plugin(start):
    ours, theirs = socket_pair()
    with theirs:
        number = theirs.fileno()
        plugin = await start(environment={FD_VARIABLE: str(number)}, descriptors=[number])
    await ours.aclose()
    assert await plugin.ended() == 1
    await plugin.until("closed the connection instead of saying HELLO")


# -- logs and metrics ---------------------------------------------------------


class FakeSession:
    """Keeps the notes it is given."""

    def __init__(self):
        self.takes_notes = True
        self.notes = []
        self.written = 0

    def write_now(self):
        self.written += 1

    def note(self, note):
        self.notes.append(note)


@pytest.fixture
def handler():
    return NoteHandler()


@pytest.fixture
def logger(handler):
    logger = logging.getLogger("tests.serving")
    logger.setLevel("DEBUG")
    logger.addHandler(handler)
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)


def test_records_keep_their_order_and_their_facts(logger, handler):
    logger.info("a %s", "b")
    logger.warning("lone \ud800 surrogate")
    first, second = handler.take()
    assert (first.message, first.level, first.logger) == ("a b", "INFO", "tests.serving")
    assert first.time > 0
    assert (second.message, second.level) == ("lone ? surrogate", "WARNING")
    assert handler.take() == []


def test_a_traceback_is_part_of_the_record(logger, handler):
    try:
        raise ValueError("deep")
    except ValueError:
        logger.exception("it failed")
    assert "ValueError: deep" in handler.take()[0].message


def test_too_many_records_lose_the_oldest_and_are_counted(logger, handler):
    for n in range(MAX_PENDING + 5):
        logger.info("%d", n)
    taken = handler.take()
    assert [taken[0].message, taken[-1].message] == [
        "5",
        "5 log records were dropped: too many at once",
    ]
    assert len(taken) == MAX_RECORDS + 1


def test_a_note_stays_small(logger, handler):
    for _ in range(20):
        logger.info("x" * (2 * MAX_MESSAGE))
    sizes = [sum(len(r.message) for r in batch) for batch in iter(handler.take, [])]
    assert sum(sizes) == 20 * MAX_MESSAGE
    assert max(sizes) <= 3 * MAX_MESSAGE


def test_what_no_host_took_is_printed(logger, handler, capsys):
    logger.error("unheard")
    handler.print_rest()
    assert capsys.readouterr().err == "ERROR tests.serving: unheard\n"


def test_logs_wait_for_a_session_that_is_ready(logger, handler):
    session = FakeSession()
    session.takes_notes = False
    logger.info("early")
    send_logs(session, handler)
    assert session.notes == []
    session.takes_notes = True
    send_logs(session, handler)
    assert [r.message for note in session.notes for r in note.logs] == ["early"]


async def test_metrics_wait_for_a_session_that_takes_them(handler, autojump_clock):
    class Measured:
        metrics = Metrics()

    session = FakeSession()
    session.takes_notes = False
    with trio.move_on_after(35):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(report, session, Measured(), handler)
            await trio.sleep(15)
            session.takes_notes = True
    assert len(session.notes) == 1


async def test_metrics_are_reported_when_they_changed(handler, autojump_clock):
    class Measured:
        metrics = Metrics()

    session, plugin = FakeSession(), Measured()
    with trio.move_on_after(35):
        await report(session, plugin, handler)
    assert len(session.notes) == 1
    plugin.metrics.requests_total += 1
    with trio.move_on_after(15):
        await report(session, plugin, handler)
    assert [note.metrics.requests_total for note in session.notes] == [0, 1]


async def test_errors_leave_at_once_and_what_came_before_them(logger, handler, autojump_clock):
    class Quiet:
        metrics = Metrics()

    session = FakeSession()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report, session, Quiet(), handler)
        await trio.testing.wait_all_tasks_blocked()
        logger.info("before")
        assert session.notes == []
        logger.error("the disk is full, dying")
        said = [record.message for note in session.notes for record in note.logs]
        assert (said, session.written) == (["before", "the disk is full, dying"], 1)
        thread = threading.Thread(target=logger.error, args=["in a thread"])
        thread.start()
        thread.join()  # and the clock does not jump meanwhile
        assert len(session.notes) == 1
        await trio.sleep(1)
        assert len(session.notes) == 2
        nursery.cancel_scope.cancel()
    logger.error("after its end")
    assert session.written == 1


async def test_cycles_are_looked_for_seldom_and_not_among_what_stays(spawn):
    _, channel = await spawn()
    assert await execute(channel, "collector") == "[10000,true]"
