"""What the supervision tells: events, log lines, states and receipts, as plain values.

All are frozen Structs, so that an admin API can encode them as they are. Times
called ``time`` or ``since`` are seconds of the wall clock (Unix time); durations
are in seconds.
"""

from typing import Literal

import msgspec

from prism.supervision.lifecycle import State

Outcome = Literal["swapped", "rolled_back", "drained"]


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened to a namespace's plugin.

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
    """A line that a plugin wrote (``output``) or sent as a log record (``note``)."""

    time: float
    instance: str
    source: Literal["output", "note"]
    level: str
    text: str


class Phases(msgspec.Struct, frozen=True, omit_defaults=True):
    """How long each part of a reload took, in seconds; None where it did not come to it.

    ``absent`` is how long the namespace had no instance: 0 unless the two may not overlap.
    """

    start: float | None = None
    initialize: float | None = None
    canary: float | None = None
    drain: float | None = None
    shutdown: float | None = None
    absent: float = 0.0
    total: float = 0.0


class CallCounts(msgspec.Struct, frozen=True):
    """What became of the calls between a reload's begin and its receipt.

    ``retried`` calls had not begun on the old instance, or were idempotent, and were
    given to the next. ``cancelled``: by their client, their deadline, or the drain's
    limit. ``failed``: the old instance broke under them. ``lost`` are leases that
    were opened on the old instance and never closed: anything but 0 is a bug.
    """

    finished_on_old: int = 0
    finished_on_new: int = 0
    retried: int = 0
    cancelled: int = 0
    failed: int = 0
    lost: int = 0


class InstanceName(msgspec.Struct, frozen=True):
    """Which instance: ``id`` is unique for ever, ``version`` what it says of itself,
    ``configured_version`` the catalogue's name for it."""

    id: str
    plugin: str
    configured_version: str | None
    version: str
    pid: int | None = None


class Receipt(msgspec.Struct, frozen=True):
    """How a reload, restart or drain went.

    ``swapped``: ``new`` serves. ``rolled_back``: ``old`` serves as before (or, if the two
    could not overlap, was started again), and ``reason`` says why. ``drained``: there
    is no instance until a restart. ``killed``: ``old`` did not end when it was asked to.
    """

    namespace: str
    outcome: Outcome
    reason: str
    time: float
    old: InstanceName | None
    new: InstanceName | None
    calls: CallCounts
    phases: Phases
    killed: bool = False


class GenerationStatus(msgspec.Struct, frozen=True):
    """One generation that has not ended: the serving one, a candidate, one on its way out."""

    id: str
    state: State
    since: float
    reason: str
    version: str
    pid: int | None
    in_flight: int


class NamespaceStatus(msgspec.Struct, frozen=True):
    """A namespace's plugin at one moment.

    ``state``, ``since`` and ``reason`` are of the serving generation, or else of the
    newest. ``version`` is what the instance says of itself, ``configured_version`` the
    catalogue's name for it. ``restarts`` counts replacements that nobody asked for.
    ``retry_in`` is set while the next start is awaited. ``operation`` is what runs on
    the namespace: ``reload``, ``canary``, ``restart`` or ``drain``.
    """

    namespace: str
    plugin: str
    type: str
    state: State
    since: float
    reason: str
    instance: str | None
    version: str | None
    configured_version: str | None
    pid: int | None
    restarts: int
    last_error: str
    last_output: list[str]
    in_flight: int
    waiting: int
    health: str | None
    health_message: str
    retry_in: float | None
    operation: str | None
    generations: list[GenerationStatus]
