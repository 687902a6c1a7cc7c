"""What a killed proxy leaves running is ended, by the guardian alone."""

import os
import signal
import subprocess
import sys
import time

import pytest
import trio

from prism.supervision import process
from prism.supervision.guardian import guardian

HOST = """
import sys
import trio
from prism.supervision import process

async def main():
    lines = []
    child, stream = await process.start(
        "small", [sys.executable, "-c", sys.argv[1]], {}, None, lambda _, line: lines.append(line)
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.listen)
        while len(lines) < 1:
            await trio.sleep(0.01)
        print(child.pid, *lines, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""
GRANDCHILD = (
    "import os, signal, subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    " start_new_session=False)\n"
    "print(child.pid, flush=True)\n"
)
ENDS_WITH_ITS_CONNECTION = "os.read(int(os.environ['PRISM_PLUGIN_FD']), 1)"
GOES_ON = "time.sleep(600)"


def wait_gone(pid, is_alive):
    """Wait for the end of a process that is no child of ours."""
    deadline = time.monotonic() + 60
    while is_alive(pid):
        assert time.monotonic() < deadline, f"{pid} goes on"
        time.sleep(0.02)


@pytest.mark.parametrize("then", [ENDS_WITH_ITS_CONNECTION, GOES_ON])
def test_nothing_outlives_a_host_that_was_killed(then, is_alive):
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, GRANDCHILD + then], stdout=subprocess.PIPE, text=True
    )
    plugin, grandchild = map(int, host.stdout.readline().split())
    assert is_alive(plugin)
    assert is_alive(grandchild)
    host.kill()
    host.wait()
    host.stdout.close()
    wait_gone(plugin, is_alive)
    wait_gone(grandchild, is_alive)


async def test_there_is_one_while_there_are_plugins():
    assert guardian().pid is None
    first, stream = await process.start("small", ["sleep", "600"], {}, None)
    pid = guardian().pid
    second, other = await process.start("small", ["sleep", "600"], {}, None)
    assert guardian().pid == pid
    for child, its in ((first, stream), (second, other)):
        await its.aclose()
        os.kill(child.pid, signal.SIGKILL)
        await child.end(1)
        await child._process.stdout.aclose()
        await child._process.stderr.aclose()
    assert guardian().pid is None


async def test_one_that_was_killed_is_replaced_and_knows_everything(is_alive):
    started = [await process.start("small", ["sleep", "600"], {}, None) for _ in range(2)]
    lost = guardian().pid
    os.kill(lost, signal.SIGKILL)
    wait_gone(lost, is_alive)
    started.append(await process.start("small", ["sleep", "600"], {}, None))
    assert guardian().pid not in (None, lost)
    # The pipe ends, as if the host had died: it must end all three.
    await guardian()._process.stdin.aclose()
    for child, stream in started:
        with trio.fail_after(60):
            assert await child.wait_ended(60)
        await stream.aclose()
        assert await child.end(1) == "was ended by SIGTERM"
        await child._process.stdout.aclose()
        await child._process.stderr.aclose()


@pytest.mark.parametrize("stopped", ["plugin", "both"])
def test_a_stopped_plugin_is_killed_with_what_it_started(stopped, is_alive):
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, GRANDCHILD + GOES_ON], stdout=subprocess.PIPE, text=True
    )
    plugin, grandchild = map(int, host.stdout.readline().split())
    for pid in (plugin,) if stopped == "plugin" else (plugin, grandchild):
        os.kill(pid, signal.SIGSTOP)
    host.kill()
    host.wait()
    host.stdout.close()
    wait_gone(plugin, is_alive)
    wait_gone(grandchild, is_alive)


async def test_one_that_was_killed_is_reaped_and_replaced_by_itself(is_alive):
    child, stream = await process.start("small", ["sleep", "600"], {}, None)
    for _ in range(2):
        lost = guardian().pid
        os.kill(lost, signal.SIGKILL)
        with trio.fail_after(60):
            while guardian().pid in (None, lost):  # noqa: ASYNC110 - by another task
                await trio.sleep(0.01)
        with pytest.raises(ProcessLookupError):
            os.kill(lost, 0)
    await stream.aclose()
    os.kill(child.pid, signal.SIGKILL)
    await child.end(1)
    await child._process.stdout.aclose()
    await child._process.stderr.aclose()
    assert guardian().pid is None
