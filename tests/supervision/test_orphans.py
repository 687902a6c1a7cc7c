"""What plugins leave behind, reaped by a process of its own that orphans are given to."""

import subprocess
import sys

from prism.supervision.orphans import is_reaper

HOST = """
import ctypes, os, subprocess, sys
from pathlib import Path
import trio
from prism.supervision import orphans

orphans.PAUSE = 0.05
PR_SET_CHILD_SUBREAPER = 36

def children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()

async def main():
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    assert orphans.is_reaper()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(orphans.reap_orphans)
        for _ in range(2):
            command = ["sh", "-c", "(sleep 0.1; exit 1) & (sleep 0.2) & echo; exit 3"]
            child = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
            assert await child.stdout.receive_some()
            assert await child.wait() == 3  # its owner reaps it, and nobody else
            await child.stdout.aclose()
            with trio.fail_after(60):
                while children():
                    await trio.sleep(0.02)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def test_orphans_are_reaped_and_own_children_left_to_their_owners():
    done = subprocess.run([sys.executable, "-c", HOST], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


OWNED = """
import ctypes, trio
from prism.supervision import orphans
from prism.supervision.guardian import guardian
from prism.supervision.process import start

orphans.PAUSE = 0.05
looks, look = [], orphans._ended_children

def counted():
    looks.append(1)
    return look()

async def slow(group):  # as one that waits for the guardian's own end
    seen = len(looks)
    while len(looks) < seen + 4:
        await trio.run_process(["true"])  # a child that ends has the reaper look

async def main():
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    orphans._ended_children = counted
    guardian().release = slow
    async with trio.open_nursery() as nursery:
        nursery.start_soon(orphans.reap_orphans)
        child, stream = await start("x", ["sh", "-c", "exec 1>&- 2>&-; exit 3"], {}, None)
        nursery.start_soon(child.listen)
        print(await child.end(10))
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def test_a_plugin_is_its_owners_to_reap_however_long_that_takes():
    done = subprocess.run([sys.executable, "-c", OWNED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "exited with status 3\n"), done.stderr


def test_an_ordinary_process_is_no_reaper():
    assert not is_reaper()
