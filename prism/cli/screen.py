"""A terminal that a command keeps for itself: its alternate screen, and keys as they are pressed.

A screen is drawn in one write, line over line, without being cleared before: nothing flickers.
What was on the terminal comes back however the command ends, but for SIGKILL; and while it is
stopped (Ctrl-Z).
"""

import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

ENDED, RESUMED, RESIZED = "ended", "resumed", "resized"
"""What ``Screen.wait`` returns beside keys."""

_ENTER = "\x1b[?1049h\x1b[?25l"  # the alternate screen, and no cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_WAKE = 0
"""The byte of ``wake`` in the pipe in which signals are written by number."""
_SIGNALS = {
    signal.SIGINT: ENDED,
    signal.SIGTERM: ENDED,
    signal.SIGHUP: ENDED,
    signal.SIGWINCH: RESIZED,
    signal.SIGTSTP: RESUMED,
}


class Screen:
    """The terminal of standard output, from ``with`` to its end; keys come from standard input,
    if that is a terminal. For the main thread, but for ``wake``."""

    def __init__(self) -> None:
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._settings: list[Any] = []
        self._reader = self._writer = -1
        self._handlers: dict[signal.Signals, Any] = {}
        self._earlier_wakeup = -1

    def __enter__(self) -> "Screen":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        os.set_blocking(self._reader, False)
        self._earlier_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in _SIGNALS:
            self._handlers[number] = signal.signal(number, lambda *_: None)
        self._occupy()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._vacate()
        signal.set_wakeup_fd(self._earlier_wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _occupy(self) -> None:
        if self._keys is not None:
            self._settings = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        _write(_ENTER)

    def _vacate(self) -> None:
        _write(_LEAVE)
        if self._keys is not None:
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._settings)

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        return shutil.get_terminal_size()

    def draw(self, lines: Sequence[str]) -> None:
        """Show ``lines``, which fit, and nothing else."""
        _write(_HOME + f"{_END_OF_LINE}\n".join(lines) + _END_OF_LINE + _BELOW)

    def wake(self) -> None:
        """Have ``wait`` return; from any thread."""
        with suppress(BlockingIOError):  # it is about to
            os.write(self._writer, bytes([_WAKE]))

    def wait(self) -> list[str]:
        """Wait for keys, ``wake``, or one of ``ENDED``, ``RESUMED``, ``RESIZED``; returns those
        that came."""
        watched = [self._reader] if self._keys is None else [self._reader, self._keys]
        ready, _, _ = select.select(watched, [], [])
        found: list[str] = []
        if self._reader in ready:
            for number in os.read(self._reader, 4096):
                if number == signal.SIGTSTP:
                    self._stop()
                if number != _WAKE:
                    found.append(_SIGNALS[signal.Signals(number)])
        if self._keys in ready:
            keys = os.read(self._keys, 4096)
            found += keys.decode(errors="replace") if keys else [ENDED]
        return found

    def _stop(self) -> None:
        """Be stopped, as by Ctrl-Z; returns when this process goes on."""
        self._vacate()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, lambda *_: None)
        self._occupy()


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
