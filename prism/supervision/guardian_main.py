"""The guardian's program: ends what a dead proxy has left running.

Run as ``python -I -S guardian_main.py``, so it imports the standard library
only. Its standard input is a pipe from the proxy, with a line ``+PID`` for each
process group the proxy has started and ``-PID`` for each that it has ended
itself. When the pipe ends, the proxy is gone, however it went.
"""

import os
import select
import signal
import sys
import time
from pathlib import Path

EXIT_TIMEOUT = 1.0
"""Seconds in which a plugin should end by itself: its connection has ended too."""
KILL_TIMEOUT = 5.0
"""Seconds after being asked in which it may still end well."""


def main() -> None:
    """Read until the proxy is gone, then end what is left."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the proxy, which tells by the pipe
    leaders: dict[int, int] = {}
    for line in sys.stdin:
        pid = int(line[1:])
        if line.startswith("+"):
            try:
                leaders[pid] = os.pidfd_open(pid)
            except OSError:
                continue
        elif pid in leaders:
            os.close(leaders.pop(pid))
    end_all(leaders)


def end_all(leaders: dict[int, int]) -> None:
    """Wait for the leaders, ask them, kill them; what they started is killed with them. One
    that is stopped (SIGSTOP, a debugger) hears nothing, and is killed at once.

    A group is killed in the moment in which its leader has ended, when nobody else
    can have got its number yet.
    """
    began = time.monotonic()
    for pid in leaders:
        if is_stopped(pid):
            signal_group(pid, signal.SIGKILL)
    for number, until in (
        (signal.SIGTERM, EXIT_TIMEOUT),
        (signal.SIGKILL, EXIT_TIMEOUT + KILL_TIMEOUT),
        (signal.SIGKILL, EXIT_TIMEOUT + 2 * KILL_TIMEOUT),
    ):
        while leaders and (left := began + until - time.monotonic()) > 0:
            ended, _, _ = select.select(list(leaders.values()), [], [], left)
            for pid in [pid for pid, descriptor in leaders.items() if descriptor in ended]:
                os.close(leaders.pop(pid))
                signal_group(pid, signal.SIGKILL)
        for pid in leaders:
            signal_group(pid, number)


def is_stopped(pid: int) -> bool:
    """Is this process stopped?"""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state in "Tt"


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process group, if there is still somebody in it."""
    try:
        os.killpg(pid, number)
    except OSError:
        return


if __name__ == "__main__":
    main()
