"""When a plugin that failed is started again, and when no longer."""

import random
from collections.abc import Callable

from prism.config.types import RestartConfig

JITTER = 0.2
"""Share by which a delay varies, so that many plugins do not restart in step."""


class Backoff:
    """The pauses between the starts of one plugin, and the limit of its crashes.

    Only crashes in a row can exhaust it: a backend that is down may come back by
    itself, a program that ends itself at its start seldom mends.
    """

    def __init__(self, config: RestartConfig, rand: Callable[[], float] = random.random) -> None:
        self._config = config
        self._rand = rand
        self.reset()

    def reset(self) -> None:
        """Forget all failures."""
        self._next = self._config.first_delay_seconds
        self.crashes = 0

    def after(self, served: float, *, crashed: bool) -> float | None:
        """Seconds to wait now, after a run that served for ``served`` seconds.

        None: it has crashed too often, and is not to be started again.
        """
        config = self._config
        if served >= config.good_run_seconds:
            self.reset()
        self.crashes = self.crashes + 1 if crashed else 0
        if config.max_crashes and self.crashes >= config.max_crashes:
            return None
        delay, self._next = self._next, min(self._next * 2, config.max_delay_seconds)
        return delay * (1 + JITTER * (2 * self._rand() - 1))
