"""What the supervision answers: how a plugin stands, and how an operation on it went.

All are frozen Structs, so that an admin API can encode them as they are. Times
called ``time`` or ``since`` are seconds of the wall clock (Unix time); durations
are in seconds.
"""

import math
from typing import Literal

import msgspec
import trio

from prism.supervision.keeper import Keeper
from prism.supervision.lifecycle import State

Outcome = Literal["swapped", "rolled_back", "failed", "drained"]


class Phases(msgspec.Struct, frozen=True, omit_defaults=True):
    """How long each part of a reload took, in seconds; None where it did not come to it.

    ``absent`` is how long the namespace had no instance: 0 unless the two may not overlap.
    Where the outcome is ``failed`` it has none still, and this is what has passed so far.
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
    """Which instance: ``id`` is unique for ever, ``version`` what it says of itself (empty
    before it has said so), ``configured_version`` the catalogue's name for it."""

    id: str
    plugin: str
    configured_version: str | None
    version: str
    pid: int | None = None


class Receipt(msgspec.Struct, frozen=True):
    """How a reload, restart or drain went.

    ``swapped``: ``new`` serves. ``rolled_back``: ``old`` serves as before (or, if the two
    could not overlap, was started again), and ``reason`` says why. ``failed``: neither serves,
    for that reason. ``drained``: there is no instance until a restart. ``killed``: ``old`` did
    not end when it was asked to.
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
    """One generation that has not ended: the serving one, a candidate, one on its way out.

    ``pid`` is None once its process is reaped: the number may be another's.
    """

    id: str
    state: State
    since: float
    reason: str
    version: str
    pid: int | None
    in_flight: int


class CanaryStatus(msgspec.Struct, frozen=True):
    """A new version on trial: what it has answered, and what it takes to be judged.

    Promoted or rolled back after ``min_calls`` and ``min_seconds``; rolled back after
    ``max_seconds`` if fewer calls came. The error rates are 0 to 1.
    """

    share: float
    calls: int
    min_calls: int
    error_rate: float
    old_error_rate: float
    seconds: float
    min_seconds: float
    max_seconds: float


class NamespaceStatus(msgspec.Struct, frozen=True):
    """A namespace's plugin at one moment.

    ``state``, ``since`` and ``reason`` are of the serving generation, or else of the
    newest. ``version`` is what the instance says of itself, ``configured_version`` the
    catalogue's name for it. ``restarts`` counts replacements that nobody asked for,
    and new starts after a crash at the start.
    ``last_output`` is what the process wrote last of whose failure ``reason`` tells; where one
    serves, that of ``last_error``.
    ``retry_in`` is set while the next start is awaited. ``operation`` is what runs on
    the namespace: ``reload``, ``canary``, ``restart``, ``drain`` or ``secrets`` (a reload for
    such as have changed); ``canary`` is how a trial
    stands. ``secrets`` says why the instance has other credentials than its secrets say now,
    and is empty where it has not.
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
    canary: CanaryStatus | None
    secrets: str
    generations: list[GenerationStatus]


def status_of(keeper: Keeper, canary: CanaryStatus | None = None) -> NamespaceStatus:
    """The snapshot; nothing in it changes later."""
    spec, slot = keeper.spec, keeper.slot
    shown = keeper.current or keeper.newest
    instance = keeper.current.instance if keeper.current is not None else None
    health = instance.health if instance is not None else None
    retry_in = None
    if slot.retry_at is not None and slot.retry_at != math.inf:
        retry_in = max(0.0, slot.retry_at - trio.current_time())
    return NamespaceStatus(
        namespace=spec.namespace,
        plugin=spec.plugin_name,
        type=spec.plugin.type or "",
        state=shown.lifecycle.state if shown is not None else State.STARTING,
        since=shown.lifecycle.since if shown is not None else keeper.made,
        reason=slot.absence if instance is None else shown.lifecycle.reason if shown else "",
        instance=instance.id if instance is not None else None,
        version=instance.version if instance is not None else None,
        configured_version=spec.plugin.version,
        pid=keeper.current.pid if keeper.current is not None else None,
        restarts=keeper.journal.restarts,
        last_error=str(keeper.last_failure or ""),
        last_output=list(_last_output(keeper)),
        in_flight=sum(generation.in_flight for generation in keeper.generations),
        waiting=slot.waiting,
        health=health.status.name if health is not None else None,
        health_message=health.message if health is not None else "",
        retry_in=retry_in,
        operation=keeper.operation,
        canary=canary,
        secrets=keeper.stale,
        generations=[
            GenerationStatus(
                id=generation.id,
                state=generation.lifecycle.state,
                since=generation.lifecycle.since,
                reason=generation.lifecycle.reason,
                version=generation.version,
                pid=None if generation.ending else generation.pid,
                in_flight=generation.in_flight,
            )
            for generation in keeper.generations
        ],
    )


def _last_output(keeper: Keeper) -> tuple[str, ...]:
    if keeper.current is None:
        return keeper.slot.output
    return keeper.last_failure.output if keeper.last_failure is not None else ()
