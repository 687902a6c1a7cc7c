"""Everything the supervision has to tell, in one place: log, events, counters, plugin output."""

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

from prism.supervision.feed import Feed
from prism.supervision.lifecycle import State
from prism.supervision.report import Event, LogLine

EVENTS_KEPT = 1000
LINES_KEPT = 500
"""Lines of output and log records kept of one namespace's plugin, for ``logs``."""
MAX_TEXT = 1024
"""Characters kept of a line: with the number of lines, half a megabyte a namespace."""

log = logging.getLogger("prism.supervision")

_LEVELS = {State.FAILED: logging.WARNING, State.DEGRADED: logging.WARNING}


class EventFeed(Feed[Event]):
    """The events of all namespaces, numbered."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__(EVENTS_KEPT)
        self.clock = clock
        self._numbers = itertools.count(1)

    def record(
        self,
        kind: Literal["state", "reload", "canary", "added", "removed"],
        namespace: str,
        *,
        instance: str = "",
        version: str = "",
        previous: State | None = None,
        state: State | None = None,
        reason: str = "",
    ) -> None:
        """Publish an event that happened now."""
        number = next(self._numbers)
        now = self.clock()
        self.publish(
            Event(number, now, kind, namespace, instance, version, previous, state, reason)
        )


class Journal:
    """One namespace's part: its transitions and what its plugin writes.

    ``transitions`` counts by the state that was entered, ``reloads`` by outcome.
    """

    def __init__(self, namespace: str, events: EventFeed | None = None) -> None:
        self.namespace = namespace
        self.events = events or EventFeed()
        self.lines: Feed[LogLine] = Feed(LINES_KEPT)
        self.transitions: Counter[State] = Counter()
        self.reloads: Counter[str] = Counter()
        self.restarts = 0

    def transition(
        self, instance: str, version: str, before: State | None, after: State, reason: str
    ) -> None:
        """A generation entered a state."""
        self.transitions[after] += 1
        log.log(
            _LEVELS.get(after, logging.INFO),
            "instance %s is %s%s",
            instance,
            after.replace("_", " "),
            f": {reason}" if reason else "",
            extra={"fields": {"namespace": self.namespace, "state": str(after)}},
        )
        self.events.record(
            "state",
            self.namespace,
            instance=instance,
            version=version,
            previous=before,
            state=after,
            reason=reason,
        )

    def step(self, kind: Literal["reload", "canary"], instance: str, reason: str) -> None:
        """A reload came a step further."""
        log.info("%s of namespace %s: %s", kind, self.namespace, reason)
        self.events.record(kind, self.namespace, instance=instance, reason=reason)

    def line(self, instance: str, source: Literal["output", "note"], level: str, text: str) -> None:
        """The plugin wrote a line."""
        self.lines.publish(LogLine(self.events.clock(), instance, source, level, text[:MAX_TEXT]))
