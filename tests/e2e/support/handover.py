"""A proxy that hands over to a successor, which is then held to the same rules."""

import os
import re
import signal
import time
from contextlib import suppress

import pytest
from prism_process import STOP_LIMIT, Proxy, eventually, readable


class Adopted:
    """A process that is not our child, with the face of ``subprocess.Popen``."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._handle = os.pidfd_open(pid)
        self.stdout = None

    def poll(self) -> int | None:
        """0 once it has ended; how, only its parent is told."""
        if self.returncode is None and readable(self._handle, 0):
            self._ended()
        return self.returncode

    def wait(self, timeout: float = STOP_LIMIT) -> int:
        if self.returncode is None:
            if not readable(self._handle, timeout):
                pytest.fail(f"the successor, pid {self.pid}, did not end")
            self._ended()
        return 0

    def _ended(self) -> None:
        self.returncode = 0
        os.close(self._handle)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def successors(proxy: Proxy) -> list[int]:
    """The pids of all successors that were ever started."""
    return [int(pid) for pid in re.findall(r"pid (\d+) starts as the successor", proxy.log)]


def begin_handover(proxy: Proxy) -> int:
    """Send SIGUSR2; returns the successor's pid as soon as it has been started."""
    before = len(successors(proxy))
    proxy.process.send_signal(signal.SIGUSR2)
    eventually(lambda: len(successors(proxy)) > before)
    return successors(proxy)[-1]


def hand_over(proxy: Proxy) -> float:
    """A rolling restart; ``proxy`` is the successor afterwards. Returns its seconds."""
    begun = time.monotonic()
    adopt(proxy, begin_handover(proxy))
    return time.monotonic() - begun


def adopt(proxy: Proxy, pid: int) -> None:
    """Wait until the successor ``pid`` has taken over; ``proxy`` is the successor afterwards."""
    eventually(lambda: f"pid {pid} serves now" in proxy.log)
    follower = Adopted(pid)
    assert proxy.process.wait(STOP_LIMIT) == 0
    if proxy.process.stdout is not None:
        proxy.process.stdout.close()
    proxy.process, proxy.pid = follower, pid
