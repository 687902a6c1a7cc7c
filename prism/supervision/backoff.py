"""How long to wait before starting a plugin again."""

import random
from collections.abc import Callable

FIRST_DELAY = 0.1
LAST_DELAY = 30.0
"""Seconds; each delay doubles the one before, up to the last."""
JITTER = 0.2
"""Share by which a delay varies, so that many plugins do not restart in step."""
GOOD_RUN = 60.0
"""Seconds of service after which a failure counts as the first again."""


class Backoff:
    """The delays between the starts of one plugin."""

    def __init__(self, rand: Callable[[], float] = random.random) -> None:
        self._rand = rand
        self._next = FIRST_DELAY

    def delay(self, served: float) -> float:
        """Seconds to wait now, after a run that served for ``served`` seconds."""
        if served >= GOOD_RUN:
            self._next = FIRST_DELAY
        delay, self._next = self._next, min(self._next * 2, LAST_DELAY)
        return delay * (1 + JITTER * (2 * self._rand() - 1))
