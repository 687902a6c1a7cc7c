"""Reaps what plugins leave behind, where that is this process's duty.

A process whose parent has ended is given to the next *reaper* above it: process 1, which in a
container is the proxy, or one that has asked for it (PR_SET_CHILD_SUBREAPER). What the reaper does
not wait for stays in the process table for ever, until no process can be started any more.
"""

import ctypes
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path

import trio

from prism.supervision.process import awaited

log = logging.getLogger("prism.supervision")

PAUSE = 1.0
"""Seconds between two looks. A child that is no plugin and has ended is awaited by its owner
within that."""
_PR_GET_CHILD_SUBREAPER = 37


def is_reaper() -> bool:
    """Are orphans given to this process?"""
    if os.getpid() == 1:
        return True
    answer = ctypes.c_int(0)
    failed = ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return not failed and bool(answer.value)


async def reap_orphans() -> None:
    """Reap them as they end, if they are this process's. Runs until cancelled, or returns."""
    if not is_reaper():
        return
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        seen: set[int] = set()
        while True:
            if not seen:
                await anext(signals)
            await trio.sleep(PAUSE)
            ended = _ended_children() - awaited
            for pid in ended & seen:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it does not block
                    log.debug("reaped process %d, which a plugin had left behind", pid)
            seen = ended - seen


def _ended_children() -> set[int]:
    """The children of this process that have ended and are not reaped.

    Does not block: what is in ``/proc`` the kernel makes as it is read.
    """
    children: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            children.update((task / "children").read_text().split())
    return {int(pid) for pid in children if _has_ended(pid)}


def _has_ended(pid: str) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False
