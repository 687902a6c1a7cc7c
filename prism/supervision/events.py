"""What the supervision has to tell as it happens: events, plugins' lines, counters, the log.

Everything is published once, in a bounded feed (``feeds``).
"""

import itertools
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Literal, NamedTuple

import msgspec
import trio

from prism.channels.frames.channel import FramedChannel
from prism.channels.in_process import speaker
from prism.contract.redaction import Redaction
from prism.supervision.feeds import Feed
from prism.supervision.frame_traces import FrameTraces
from prism.supervision.lifecycle import State
from prism.wire.events import Fault, LogRecord

OutputStream = Literal["stdout", "stderr"]
LineSource = Literal["stdout", "stderr", "note"]
EventKind = Literal[
    "state",
    "reload",
    "canary",
    "replica",
    "breaker",
    "shedding",
    "limits",
    "shadow",
    "isolation",
    "egress",
    "added",
    "removed",
]

EVENTS_KEPT = 1000
LINES_KEPT = 500
"""Lines of output and log records kept of one namespace's plugin, for ``logs``."""
MAX_TEXT = 1024
"""Characters kept of a line: with the number of lines, half a megabyte a namespace."""
MAX_LOGGED = 8 * 1024
"""Characters of a line of output, or of a log record, that are logged."""
PER_SECOND = {"stdout": 200, "stderr": 200, "note": 500}
"""Lines of a plugin's that are logged a second, by where they come from."""
NEWEST_KEPT = 50
"""Of those over the limit, so many of the newest are logged when the second has passed."""
LAST_LINES = 20
"""Lines of output kept to say how a plugin has failed."""

log = logging.getLogger("prism.supervision")

_STATE_LEVELS = {State.FAILED: logging.WARNING, State.DEGRADED: logging.WARNING}
_RECORD_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}


# -- what is told -----------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened to a namespace's plugin. ``time`` is Unix time, in seconds.

    ``number`` counts up without a gap, so a reader sees what it missed. ``kind``
    is ``state`` (a transition: ``previous`` and ``state``), ``reload`` (a step of a
    reload, in ``reason``), ``canary``, ``replica`` (one of several is ejected, or has come back,
    in ``reason``), ``breaker`` (its circuit breaker changed), ``shedding`` (the proxy
    refuses more, or fewer, calls: of no namespace), ``limits`` (the store of rate limits went down,
    or came back: of none, too), ``shadow`` (its answers differ), ``added`` or ``removed`` (a
    namespace).
    """

    number: int
    time: float
    kind: EventKind
    namespace: str
    instance: str = ""
    version: str = ""
    previous: State | None = None
    state: State | None = None
    reason: str = ""


class LogLine(msgspec.Struct, frozen=True):
    """A line that a plugin wrote (``stdout``, ``stderr``) or sent as a log record (``note``).

    ``time`` is Unix time, in seconds. ``pid`` is the plugin's process, where it is known.
    """

    time: float
    instance: str
    source: LineSource
    level: str
    text: str
    pid: int | None = None


# -- who publishes ----------------------------------------------------------------------


class EventFeed(Feed[Event]):
    """The events of all namespaces, numbered.

    ``lines_dropped`` counts the lines of all plugins that neither the log nor a journal has.
    ``on_denied`` is called with the namespace, the instance and what a plugin's process may not
    connect to; it must not block.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__(EVENTS_KEPT)
        self.clock = clock
        self.lines_dropped = 0
        self.on_denied: Callable[[str, str, str], None] = lambda _namespace, _instance, _what: None
        self._numbers = itertools.count(1)

    def lines_were_dropped(self, number: int) -> None:
        """Count further lines."""
        self.lines_dropped += number

    def record(
        self,
        kind: EventKind,
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

    ``transitions`` counts by the state that was entered, ``reloads`` by outcome, and of these
    the ``rotations``, for secrets that had changed; ``egress`` the connections of its
    processes that were allowed and denied, ``forgiven`` the plugin's mistakes by the
    rule that it broke. ``frames`` has its connections, for who looks at their frames.
    ``highest`` is the highest number of a generation so far.
    """

    def __init__(self, namespace: str, events: EventFeed | None = None) -> None:
        self.namespace = namespace
        self.events = events or EventFeed()
        self.lines: Feed[LogLine] = Feed(LINES_KEPT)
        self.frames = FrameTraces(self.events.clock)
        self.transitions: Counter[State] = Counter()
        self.reloads: Counter[str] = Counter()
        self.rotations: Counter[str] = Counter()
        self.forgiven: Counter[str] = Counter()
        self.egress: Counter[str] = Counter()
        self.restarts = 0
        self.highest = 0

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

    def step(
        self,
        kind: Literal["reload", "canary", "replica", "breaker", "isolation", "egress"],
        instance: str,
        reason: str,
        *,
        level: int = logging.INFO,
    ) -> None:
        """A reload came a step further, a breaker changed, or a process is confined anew."""
        log.log(level, "%s of namespace %s: %s", kind, self.namespace, reason)
        self.events.record(kind, self.namespace, instance=instance, reason=reason)

    def differs(self, instance: str, what: str) -> None:
        """A shadow's answers differ from those of its namespace."""
        log.warning("shadow %s: %s", instance, what)
        self.events.record("shadow", self.namespace, instance=instance, reason=what)

    def line(
        self, instance: str, pid: int | None, source: LineSource, level: str, text: str
    ) -> None:
        """The plugin wrote a line."""
        now = self.events.clock()
        self.lines.publish(LogLine(now, instance, source, level, text[:MAX_TEXT], pid))


# -- what a plugin writes ---------------------------------------------------------------


class Line(NamedTuple):
    """A line of a plugin's, redacted. ``logger`` is the plugin's own name for who says it."""

    level: str
    text: str
    logger: str = ""


class _Source:
    """Lines of one source: so many a second as they come; of the others, the newest, later.

    A plugin that dies talks most just before, and its last lines say why.
    """

    def __init__(
        self,
        name: LineSource,
        publish: Callable[[LineSource, Line], None],
        on_dropped: Callable[[int], None],
    ) -> None:
        self.ends = -math.inf
        self._name = name
        self._limit = PER_SECOND[name]
        self._publish = publish
        self._on_dropped = on_dropped
        self._seen = 0
        self._held: deque[Line] = deque(maxlen=NEWEST_KEPT)
        self._dropped = 0

    def add(self, line: Line) -> bool:
        """Publish ``line`` now, or hold it; returns whether any are held."""
        now = trio.current_time()
        if now >= self.ends:
            self.flush()
            self._seen, self.ends = 0, now + 1
        self._seen += 1
        if self._seen <= self._limit:
            self._publish(self._name, line)
            return False
        self._dropped += len(self._held) == NEWEST_KEPT
        self._held.append(line)
        return True

    def flush(self) -> None:
        """Publish what is held, after the number of lines that were dropped."""
        held, dropped = list(self._held), self._dropped
        self._held.clear()
        self._dropped = 0
        if dropped:
            what = "log records" if self._name == "note" else f"lines of {self._name}"
            said = f"{dropped} {what} were dropped: too many at once"
            self._publish(self._name, Line("WARNING", said))
            self._on_dropped(dropped)
        for line in held:
            self._publish(self._name, line)


class PluginLog:
    """What the plugin of one generation says, into its namespace's journal and the log.

    Nothing of a plugin's gets to either but through ``redaction``. Called from readers:
    nothing here blocks, but ``run``. ``instance`` is the generation's id. ``pid`` and
    ``redaction`` are set as they become known.

    What comes from standard error is logged as a WARNING: so a panic can be seen where the
    log's level is ``warning``. Who has less to say uses standard output, or log records.
    """

    def __init__(self, journal: Journal, plugin: str, instance: str) -> None:
        self.pid: int | None = None
        self.redaction = Redaction()
        self._journal = journal
        self._instance = instance
        self._log = logging.getLogger(f"prism.plugin.{plugin}")
        self._last: dict[LineSource, deque[str]] = {
            "stderr": deque(maxlen=LAST_LINES),
            "stdout": deque(maxlen=LAST_LINES),
        }
        # In this order what is held comes out at the end.
        names: tuple[LineSource, ...] = ("stderr", "note", "stdout")
        dropped = journal.events.lines_were_dropped
        self._sources = {name: _Source(name, self._publish, dropped) for name in names}
        self._held = trio.Event()
        self._trio = trio.lowlevel.current_trio_token() if trio.lowlevel.in_trio_run() else None

    @property
    def fields(self) -> dict[str, object]:
        """Whose line it is, for lines of the log."""
        namespace = self._journal.namespace
        return {"namespace": namespace, "instance": self._instance, "pid": self.pid}

    def traced(self, channel: FramedChannel) -> AbstractContextManager[None]:
        """Within the block, the frames of ``channel`` can be watched."""
        return self._journal.frames.traced(channel, self._instance, lambda: self.redaction)

    @property
    def last_lines(self) -> list[str]:
        """The end of its output: of standard error first, and where there is room of the other."""
        errors, others = self._last["stderr"], self._last["stdout"]
        room = LAST_LINES - len(errors)
        return [*list(others)[max(0, len(others) - room) :], *errors]

    def isolation(self, said: str) -> None:
        """Its process is to be confined, as ``said``."""
        self._journal.step("isolation", self._instance, said)

    @property
    def egress(self) -> Counter[str]:
        """How many of its connections were allowed, and denied."""
        return self._journal.egress

    def denied(self, what: str) -> None:
        """Its process wanted a connection that it may not have, as ``what`` says."""
        journal = self._journal
        journal.step("egress", self._instance, what, level=logging.WARNING)
        journal.events.on_denied(journal.namespace, self._instance, what)

    def line(self, stream: OutputStream, text: str) -> None:
        """Its process wrote a line."""
        text = self.redaction.start_of(text, MAX_LOGGED)
        self._last[stream].append(text)
        self._add(stream, Line("WARNING" if stream == "stderr" else "INFO", text))

    def records(self, records: Iterable[LogRecord]) -> None:
        """It sent log records."""
        for record in records:
            level = record.level if record.level in _RECORD_LEVELS else "INFO"
            text = self.redaction.start_of(record.message, MAX_LOGGED)
            self._add("note", Line(level, text, self.redaction.text(record.logger[:MAX_TEXT])))

    def fault(self, fault: Fault) -> None:
        """It made a mistake that was forgiven."""
        self._journal.forgiven[fault.rule] += 1
        self._add("note", Line("WARNING", f"forgiven: {fault.what}", "prism.channel"))

    def _add(self, source: LineSource, line: Line) -> None:
        if self._sources[source].add(line):
            self._held.set()

    def _publish(self, source: LineSource, line: Line) -> None:
        self._journal.line(self._instance, self.pid, source, line.level, line.text)
        level = _RECORD_LEVELS[line.level]
        if self._log.isEnabledFor(level):
            fields = {**self.fields, "stream": source}
            if line.logger:
                fields["source"] = line.logger
            self._log.log(level, "%s", line.text, extra={"fields": fields})

    def adopt(self, record: logging.LogRecord) -> None:
        """Its code, which runs in this process, has logged ``record``: say whose it is, without
        any credential. From any thread."""
        try:
            text = record.getMessage()
        except Exception as error:  # a mistake in a line of its log is not to cost it its call
            text = f"{record.msg} (its arguments do not fit: {type(error).__name__})"
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        text = self.redaction.text(text)
        record.msg, record.args, record.exc_info, record.exc_text = text, (), None, None
        record.fields = {**getattr(record, "fields", {}), **self.fields}
        level = record.levelname if record.levelname in _RECORD_LEVELS else "INFO"
        keep = partial(self._journal.line, self._instance, self.pid, "note", level, text)
        if self._trio is None or trio.lowlevel.in_trio_run():
            keep()
        else:
            self._trio.run_sync_soon(keep)

    async def run(self) -> None:
        """Log what is held when its second has passed. Runs until cancelled."""
        while True:
            await self._held.wait()
            self._held = trio.Event()
            await trio.sleep_until(max(source.ends for source in self._sources.values()))
            self.flush()

    def flush(self) -> None:
        """Log what is held, now: nothing more comes, or its second has passed."""
        for source in self._sources.values():
            source.flush()


def attribute(record: logging.LogRecord) -> bool:
    """A filter for handlers: what the code of a plugin in this process logs is said to be its.

    The proxy's own lines are not, though a plugin's answer may have led to them.
    """
    who = speaker.get()
    if isinstance(who, PluginLog) and not _is_own(record.name):
        who.adopt(record)
    return True


def _is_own(logger: str) -> bool:
    return logger.split(".", 1)[0] == "prism" and not logger.startswith("prism.plugin.")
