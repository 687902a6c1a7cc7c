"""A confined process is started, watched, told and ended as any other."""

import os
import signal
import subprocess
import sys

import pytest
import trio

from prism.config.isolation_types import IsolationConfig
from prism.isolation.confinement import Confinement, Isolation, Subject, confine
from prism.isolation.machine import machine
from prism.isolation.policy import IsolationPolicy
from prism.streams.errors import LaunchError
from prism.supervision import process
from prism.supervision.guardian_main import is_stopped
from prism.supervision.supervisor import Supervisor


@pytest.fixture(autouse=True)
def _time_to_read(monkeypatch):
    """All output is read, however busy the machine: it ends with its processes."""
    monkeypatch.setattr(process, "OUTPUT_TIMEOUT", 60.0)


async def start(mechanism, *words, executable=None, **options):
    """The words, confined and started: the process, its stream, and where its lines come."""
    policy = IsolationPolicy(IsolationConfig(mechanism=mechanism))
    subject = Subject("plugin 'small'", executable or words[0], None)
    confinement = await trio.to_thread.run_sync(confine, policy, subject, machine())
    lines = []
    try:
        child, stream = await process.start(
            "small",
            words,
            {},
            None,
            lambda _stream, line: lines.append(line),
            executable=executable,
            confinement=confinement,
            **options,
        )
    finally:
        confinement.close()
    return child, stream, lines


async def run(mechanism, *words, after=None, kill_after=5.0, **options):
    child, stream, lines = await start(mechanism, *words, **options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.listen)
        if after is not None:
            await after(child, lines)
        await stream.aclose()
        how = await child.end(kill_after)
    return how, lines


async def until_said(lines, line):
    with trio.fail_after(60):
        while line not in lines:  # noqa: ASYNC110 - it is another process
            await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("raise SystemExit(7)", "exited with status 7"),
        ("import os; os.kill(os.getpid(), 11)", "was ended by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
    ],
)
async def test_how_it_ended(mechanism, code, how):
    found, _ = await run(mechanism, sys.executable, "-c", code)
    assert found == how


async def test_it_is_asked_to_end_and_may_take_its_time(mechanism):
    code = (
        "import signal, sys, time\n"
        "def end(*_): time.sleep(0.2); print('done', flush=True); sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )

    async def ready(_child, lines):
        await until_said(lines, "ready")

    how, lines = await run(mechanism, sys.executable, "-c", code, after=ready, kill_after=60.0)
    assert (how, lines) == ("exited with status 3", ["ready", "done"])


async def test_one_that_hears_nothing_is_killed(mechanism):
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )

    async def ready(_child, lines):
        await until_said(lines, "ready")

    how, _ = await run(mechanism, sys.executable, "-c", code, after=ready, kill_after=0.1)
    assert how == "was ended by SIGKILL"


async def test_its_number_is_that_of_the_plugin(mechanism):
    async def stop(child, lines):
        await until_said(lines, "ready")
        os.kill(child.pid, signal.SIGSTOP)
        with trio.fail_after(60):
            while not is_stopped(child.pid):  # noqa: ASYNC110 - it is another process
                await trio.sleep(0.01)
        os.kill(child.pid, signal.SIGCONT)
        os.kill(child.pid, signal.SIGTERM)
        assert await child.wait_ended(60)

    code = "import time; print('ready', flush=True); time.sleep(600)"
    how, _ = await run(mechanism, sys.executable, "-c", code, after=stop)
    assert how == "was ended by SIGTERM"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/no/such/program"], "cannot run /no/such/program: No such file or directory; give a"),
        (["no-such-program"], "cannot run no-such-program: No such file"),
        (["/etc/passwd"], r"cannot run /etc/passwd: Permission denied; is it executable\?"),
    ],
)
async def test_a_program_that_cannot_be_run(mechanism, words, message):
    with pytest.raises(LaunchError, match=message):
        await start(mechanism, *words)


async def test_what_was_verified_is_what_runs(mechanism, tmp_path):
    """A sealed copy has no name in any file system: its descriptor is run."""
    number = os.memfd_create("plugin", 0)
    try:
        os.write(number, b"#!/bin/sh\necho from the copy\n")
        place = f"/proc/self/fd/{number}"
        how, lines = await run(mechanism, "plugin", executable=place, descriptors=[number])
    finally:
        os.close(number)
    assert (how, lines) == ("exited with status 0", ["from the copy"])


async def test_a_start_that_is_cancelled_leaves_nothing(mechanism):
    with trio.CancelScope() as scope:
        scope.cancel()
        await start(mechanism, sys.executable, "-c", "import time; time.sleep(600)")
    assert scope.cancelled_caught


async def test_status_and_events_say_what_holds(place, mechanism):
    supervisor = Supervisor([place.spec(mechanism=mechanism)])
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        status = supervisor.status_of("ns")
        assert status.isolation.mechanism == mechanism
        events = [each for each in supervisor.events.recent() if each.kind == "isolation"]
        assert [each.instance for each in events] == ["ns/1"]
        assert events[0].reason == str(status.isolation)
        assert status.pid is not None
        receipt = await supervisor.reload("ns")
        assert receipt.outcome == "swapped"
        assert receipt.new.pid != status.pid
        supervisor.stop()
        await supervisor.wait_stopped()


async def test_one_that_ends_before_it_is_confined_is_one_that_has_ended():
    """Killed for want of memory, say, before it could send the listener for its connections."""
    isolation = Isolation("landlock", {}, {})
    confinement = Confinement(isolation, [sys.executable, "-c", "exit(3)"], egress=())
    child, stream = await process.start("small", ["true"], {}, None, confinement=confinement)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.listen)
        await stream.aclose()
        assert await child.end(60.0) == "exited with status 3"
    assert child.listener is None


def test_temporary_files_are_removed_however_deep_they_are(tmp_path):
    place = tmp_path / "tmp"
    place.mkdir()
    number = os.open(place, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("a", dir_fd=number)
        below = os.open("a", os.O_RDONLY, dir_fd=number)
        os.close(number)
        number = below
    os.close(number)
    try:
        Confinement(Isolation("bubblewrap"), temporary=str(place)).close()
        assert not place.exists()
    finally:  # pytest could not remove it
        subprocess.run(["rm", "-rf", str(place)], check=True)
