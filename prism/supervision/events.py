"""What the supervision has to tell as it happens: events, plugins' lines, counters, the log.

Everything is published once, in a bounded feed: what was published last can be read, and
what is published from now on can be followed. Publishing never blocks and never fails.
A follower that does not keep up loses the oldest items, and is told how many.
"""

import itertools
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import msgspec
import trio

from prism.supervision.lifecycle import State
from prism.wire.events import LogRecord

T = TypeVar("T")

EVENTS_KEPT = 1000
LINES_KEPT = 500
"""Lines of output and log records kept of one namespace's plugin, for ``logs``."""
MAX_TEXT = 1024
"""Characters kept of a line: with the number of lines, half a megabyte a namespace."""
UNREAD = 256
"""Items that wait for one follower; what comes on top pushes the oldest out."""
RECORDS_PER_SECOND = 500
"""Log records taken from one plugin per second; the rest is counted."""

log = logging.getLogger("prism.supervision")

_STATE_LEVELS = {State.FAILED: logging.WARNING, State.DEGRADED: logging.WARNING}
_RECORD_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}


# -- what is told -----------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened to a namespace's plugin. ``time`` is Unix time, in seconds.

    ``number`` counts up without a gap, so a reader sees what it missed. ``kind``
    is ``state`` (a transition: ``previous`` and ``state``), ``reload`` (a step of a
    reload, in ``reason``), ``canary``, ``added`` or ``removed`` (a namespace).
    """

    number: int
    time: float
    kind: Literal["state", "reload", "canary", "added", "removed"]
    namespace: str
    instance: str = ""
    version: str = ""
    previous: State | None = None
    state: State | None = None
    reason: str = ""


class LogLine(msgspec.Struct, frozen=True):
    """A line that a plugin wrote (``output``) or sent as a log record (``note``).

    ``time`` is Unix time, in seconds.
    """

    time: float
    instance: str
    source: Literal["output", "note"]
    level: str
    text: str


# -- feeds --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lost:
    """In the place of ``number`` items that a follower was too slow for."""

    number: int


class Feed(Generic[T]):
    """Keeps the last ``kept`` items, and hands each to everybody who follows."""

    def __init__(self, kept: int) -> None:
        self._recent: deque[T] = deque(maxlen=kept)
        self._followers: set[Follower[T]] = set()

    def publish(self, item: T) -> None:
        """Add ``item``. Never blocks."""
        self._recent.append(item)
        for follower in self._followers:
            follower.take(item)

    def recent(self, number: int | None = None) -> list[T]:
        """The last items, oldest first: all that are kept, or at most ``number``."""
        items = list(self._recent)
        return items if number is None else items[max(0, len(items) - number) :]

    @contextmanager
    def follow(self, *, recent: int = 0, unread: int = UNREAD) -> "Iterator[Follower[T]]":
        """Follow the feed within the block, beginning with its last ``recent`` items."""
        follower = Follower[T](unread)
        for item in self.recent(recent):
            follower.take(item)
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)


class Follower(Generic[T]):
    """What one follower has yet to read: an async iterator that does not end by itself."""

    def __init__(self, unread: int) -> None:
        self._unread: deque[T] = deque(maxlen=unread)
        self._lost = 0
        self._arrived = trio.Event()

    def take(self, item: T) -> None:
        """An item was published."""
        self._lost += len(self._unread) == self._unread.maxlen
        self._unread.append(item)
        self._arrived.set()

    def __aiter__(self) -> "AsyncIterator[T | Lost]":
        return self

    async def __anext__(self) -> T | Lost:
        """The next item, or how many were lost. Cancelling loses nothing."""
        await trio.lowlevel.checkpoint()
        if self._lost:
            lost, self._lost = self._lost, 0
            return Lost(lost)
        while not self._unread:
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self._unread.popleft()


# -- who publishes ----------------------------------------------------------------------


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
            _STATE_LEVELS.get(after, logging.INFO),
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


class RateLimit:
    """Admits so many things a second, and counts the others.

    ``on_dropped`` is told how many went over the limit, once their second has passed.
    """

    def __init__(self, per_second: int, on_dropped: Callable[[int], None]) -> None:
        self._limit = per_second
        self._on_dropped = on_dropped
        self._seen = 0
        self._ends = 0.0

    def admits(self) -> bool:
        """Count one more; is it within the limit?"""
        now = trio.current_time()
        if now >= self._ends:
            self.report()
            self._seen, self._ends = 0, now + 1
        self._seen += 1
        return self._seen <= self._limit

    def report(self) -> None:
        """Tell now what was dropped; call it when nothing more comes."""
        dropped = self._seen - self._limit
        if dropped > 0:
            self._seen = self._limit
            self._on_dropped(dropped)


class PluginLog:
    """What the plugin of one generation writes, into its namespace's journal and the log.

    Called from readers: nothing here blocks. ``instance`` is the generation's id.
    """

    def __init__(self, journal: Journal, plugin: str, instance: str) -> None:
        self._journal = journal
        self._instance = instance
        self._log = logging.getLogger(f"prism.plugin.{plugin}")
        self._rate = RateLimit(RECORDS_PER_SECOND, self._report_dropped)

    def line(self, text: str) -> None:
        """Its process wrote a line, which is in the log already."""
        self._journal.line(self._instance, "output", "INFO", text)

    def records(self, records: Iterable[LogRecord]) -> None:
        """It sent log records; those within the rate are passed on."""
        for record in records:
            if not self._rate.admits():
                continue
            self._journal.line(self._instance, "note", record.level, record.message)
            level = _RECORD_LEVELS.get(record.level, logging.INFO)
            if self._log.isEnabledFor(level):
                source = record.logger or self._log.name
                self._log.log(
                    level,
                    "%s",
                    record.message,
                    extra={"fields": {"namespace": self._journal.namespace, "source": source}},
                )

    def close(self) -> None:
        """Nothing more comes: say what was dropped last."""
        self._rate.report()

    def _report_dropped(self, number: int) -> None:
        self._log.warning("%d log records were dropped: too many at once", number)
