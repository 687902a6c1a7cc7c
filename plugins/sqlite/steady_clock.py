"""Time for what is due: it goes on when the wall clock is set back, and over restarts.

Queues and times to live need moments that a file can hold, so the wall clock is where they
come from. But that is set back at times (NTP, a machine that resumes, a battery that is
empty); messages would then wait, and expired keys come back. This clock follows the wall clock
forward, and otherwise goes on by the time that has passed. A file remembers about how far it
had come (``remember``), and who opens it goes on from there.
"""

import time
from collections.abc import Callable

from .connection import Connection

REMEMBERED_MS = 10_000
"""How much time passes until it is written down again, if there is a write at all."""

_REMEMBERED = "SELECT value FROM _prism_state WHERE name = 'clock'"
_REMEMBER = """UPDATE _prism_state SET value = :now
    WHERE name = 'clock' AND value < :now - :often"""


def elapsed() -> float:
    """Seconds since the machine started, those in which it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SteadyClock:
    """Seconds since 1970, or later; never less than before. Any thread may call it."""

    def __init__(self, wall: Callable[[], float], elapsed: Callable[[], float]) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._ahead = wall() - elapsed()

    def __call__(self) -> float:
        """Now."""
        wall = self._wall()  # first: if this thread is held up here, it is late, not early
        elapsed = self._elapsed()
        self._ahead = max(self._ahead, wall - elapsed)
        return elapsed + self._ahead

    def recall(self, connection: Connection) -> None:
        """Go on from where the file is."""
        [milliseconds] = connection.execute(_REMEMBERED).fetchone()
        self._ahead = max(self._ahead, milliseconds / 1000 - self._elapsed())

    def remember(self, connection: Connection) -> None:
        """Let the file know, if it has not for a while."""
        connection.execute(_REMEMBER, {"now": int(self() * 1000), "often": REMEMBERED_MS})
