import os
import signal
import sys

import pytest
import trio

from prism.streams.errors import LaunchError
from prism.streams.unix import FD_VARIABLE
from prism.supervision import process
from prism.supervision.guardian_main import is_stopped


@pytest.fixture(autouse=True)
def _time_to_read(monkeypatch):
    """All output is read, however busy the machine: it ends with its processes."""
    monkeypatch.setattr(process, "OUTPUT_TIMEOUT", 60.0)


async def run(code, *, listen=True, kill_after=1.0, before_end=None, environment=None):
    """Run a Python program as a plugin; returns its process, and how it ended."""
    argv = [sys.executable, "-c", code]
    lines = []

    def take(name, line):
        lines.append(line)
        streams.append(name)

    streams = []
    child, stream = await process.start("small", argv, environment or {}, None, take)
    child.lines, child.streams = lines, streams
    async with trio.open_nursery() as nursery:
        if listen:
            nursery.start_soon(child.listen)
        if before_end is not None:
            await before_end(child)
        await stream.aclose()
        how = await child.end(kill_after)
    if not listen:
        await close_output(child)
    return child, how


async def close_output(child):
    await child._process.stdout.aclose()
    await child._process.stderr.aclose()


async def until_said(child, line):
    with trio.fail_after(60):
        while line not in child.lines:  # noqa: ASYNC110 - it is another process
            await trio.sleep(0.01)


async def test_it_starts_clean(monkeypatch):
    monkeypatch.setenv("SECRET", "do not tell")
    monkeypatch.setenv("TZ", "UTC")
    code = (
        "import os\n"
        "print(sorted(os.environ))\n"
        f"print(os.environ['{FD_VARIABLE}'], sorted(os.listdir('/proc/self/fd')))\n"
        "print(os.getpid() == os.getsid(0) == os.getpgid(0))\n"
    )
    child, how = await run(code, environment={"MINE": "1"})
    names, descriptors, leads = child.lines
    assert how == "exited with status 0"
    assert leads == "True"
    assert "SECRET" not in names
    for name in ("MINE", "PATH", "TZ", FD_VARIABLE):
        assert repr(name) in names
    number, _, listed = descriptors.partition(" ")
    # listdir's own descriptor is among them.
    assert set(eval(listed)) - {"0", "1", "2", number} <= {"3", "4"}


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("raise SystemExit(7)", "exited with status 7"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ("import os; os.kill(os.getpid(), 40)", "was ended by signal 40"),
    ],
)
async def test_how_it_ended(code, how):
    ended = []

    async def ask(child):
        assert await child.wait_ended(20)
        ended.append(child.ending)

    child, found = await run(code, before_end=ask)
    assert (found, ended) == (how, [how])
    assert await child.wait_ended(0)


async def test_it_ends_when_its_connection_does():
    code = f"import os; os.read(int(os.environ['{FD_VARIABLE}']), 1); raise SystemExit(5)"
    assert (await run(code))[1] == "exited with status 5"


async def test_one_that_goes_on_is_asked_and_then_killed():
    polite = "import signal, time; print('up'); time.sleep(60)"
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, lambda *_: print('no'));"
        "print('up')\nwhile True: time.sleep(60)"
    )

    async def up(child):
        await until_said(child, "up")
        assert child.ending == "is still running"
        assert not await child.wait_ended(0)

    assert (await run(polite, before_end=up))[1] == "was ended by SIGTERM"
    child, how = await run(stubborn, before_end=up, kill_after=0.5)
    assert how == "was ended by SIGKILL"
    assert child.lines[-1] == "no"


async def test_one_that_is_stopped_is_killed_and_not_asked():
    async def stop(child):
        await until_said(child, "up")
        os.kill(child.pid, signal.SIGSTOP)
        while not is_stopped(child.pid):  # noqa: ASYNC110 - it is another process
            await trio.sleep(0.01)

    code = "import time; print('up', flush=True); time.sleep(600)"
    assert (await run(code, before_end=stop, kill_after=6000))[1] == "was ended by SIGKILL"


async def test_what_it_started_dies_with_it(is_alive):
    code = (
        "import subprocess, sys, os\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True); os._exit(0)"
    )
    child, _how = await run(code)
    with trio.fail_after(60):
        while is_alive(int(child.lines[0])):  # noqa: ASYNC110 - not our child
            await trio.sleep(0.01)


async def test_what_it_writes_is_told_line_by_line():
    code = (
        "import sys\n"
        f"print('x' * {3 * process.MAX_LINE}, flush=True)\n"
        "print('next')\n"
        "sys.stderr.write('from stderr\\r\\n')\n"
        "sys.stdout.buffer.write(b'\\xff no newline'); sys.stdout.flush()"
    )
    child, _ = await run(code)
    told = list(zip(child.streams, child.lines, strict=True))
    assert [line for name, line in told if name == "stdout"] == [
        "x" * process.MAX_LINE,
        "next",
        "\ufffd no newline",
    ]
    assert ("stderr", "from stderr") in told


@pytest.mark.parametrize(
    ("argv", "directory", "message"),
    [
        (["no-such-program"], None, "cannot run no-such-program: No such file.*in PATH"),
        (["/etc/passwd"], None, "Permission denied; is it executable"),
        (["true"], "/no/such", "cannot enter working_directory /no/such: No such file"),
        (["true"], "/etc/passwd", "cannot enter working_directory /etc/passwd: Not a dir"),
        (["true", "a\0b"], None, "null byte"),
    ],
)
async def test_a_program_that_cannot_be_run(argv, directory, message):
    with pytest.raises(LaunchError, match=message):
        await process.start("small", argv, {}, directory)


async def test_a_cancelled_owner_still_reaps_it():
    child, stream = await process.start("small", ["sleep", "60"], {}, None)
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.aclose()
    with trio.CancelScope() as scope:
        scope.cancel()
        how = await child.end(5)
    assert how == f"was ended by {signal.SIGTERM.name}"
    await close_output(child)
