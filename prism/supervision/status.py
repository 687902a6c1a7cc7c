"""What the supervision answers: how a plugin stands, and how an operation on it went.

All are frozen Structs, so that an admin API can encode them as they are. Times
called ``time`` or ``since`` are seconds of the wall clock (Unix time); durations
are in seconds.
"""

import math
from collections.abc import Iterator
from typing import Literal

import msgspec
import trio

from prism.isolation.confinement import Isolation
from prism.supervision.generation import Generation
from prism.supervision.instance import Instance
from prism.supervision.lifecycle import State
from prism.supervision.replicas import AnyKeeper, Replicas
from prism.supervision.slot import Slot

Outcome = Literal["swapped", "rolled_back", "partial", "failed", "drained"]


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

    Where there are several replicas, ``replicas`` has a receipt of each whose turn came, with its
    name in ``replica``, and the sums are here. ``partial``: one failed, which stopped the rest;
    ``reason`` says how many run which version.
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
    replica: str = ""
    replicas: list["Receipt"] = []


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


class ReplicaStatus(msgspec.Struct, frozen=True):
    """One of several replicas. ``name`` is the number of its process, or its address.

    ``state``, ``reason``, ``instance``, ``version``, ``pid``, ``health``, ``retry_in`` are as those
    of a namespace. ``share`` (0 to 1) is what it would get of the calls while all are idle: less
    than the others' while it is new, 0 while it is ejected. ``ejected_for`` are the seconds until
    it gets calls again, null where it is not ejected; ``ejections`` counts how often it was.
    """

    name: str
    zone: str
    state: State
    reason: str
    instance: str | None
    version: str | None
    pid: int | None
    in_flight: int
    health: str | None
    retry_in: float | None
    share: float
    ejected_for: float | None
    ejections: int


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
    and is empty where it has not. ``replicas`` has each of several, and is empty where there is
    one; ``instance`` and what goes with it are then those of one that serves. ``isolation`` is what
    holds for its process, and null where the proxy starts none.
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
    replicas: list[ReplicaStatus] = []
    isolation: Isolation | None = None


def status_of(keeper: AnyKeeper, canary: CanaryStatus | None = None) -> NamespaceStatus:
    """The snapshot; nothing in it changes later."""
    spec, slot = keeper.spec, keeper.slot
    shown = keeper.current or keeper.newest
    instance = shown.instance if shown is not None and shown is keeper.current else None
    health = instance.health if instance is not None else None
    return NamespaceStatus(
        namespace=spec.namespace,
        plugin=spec.plugin_name,
        type=spec.plugin.type or "",
        state=shown.lifecycle.state if shown is not None else State.STARTING,
        since=shown.lifecycle.since if shown is not None else keeper.made,
        reason=_reason(keeper, shown, instance),
        instance=instance.id if instance is not None else None,
        version=instance.version if instance is not None else None,
        configured_version=spec.plugin.version,
        pid=shown.pid if shown is not None and instance is not None else None,
        restarts=keeper.journal.restarts,
        last_error=str(keeper.last_failure or ""),
        last_output=list(_last_output(keeper)),
        in_flight=sum(generation.in_flight for generation in keeper.generations),
        waiting=slot.waiting,
        health=health.status.name if health is not None else None,
        health_message=health.message if health is not None else "",
        retry_in=_retry_in(slot),
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
        replicas=list(_replicas(keeper)) if isinstance(keeper, Replicas) else [],
        isolation=shown.isolation if shown is not None else None,
    )


def _reason(keeper: AnyKeeper, shown: Generation | None, instance: Instance | None) -> str:
    if instance is None or shown is None:
        return keeper.slot.absence
    if isinstance(keeper, Replicas) and len(keeper.serving) < len(keeper.members):
        return f"{len(keeper.serving)} of {len(keeper.members)} replicas serve"
    return shown.lifecycle.reason


def _retry_in(slot: Slot) -> float | None:
    if slot.retry_at is None or slot.retry_at == math.inf:
        return None
    return max(0.0, slot.retry_at - trio.current_time())


def _replicas(keeper: Replicas) -> Iterator[ReplicaStatus]:
    now = keeper.balance.now()
    for replica, share in keeper.balance.shares():
        member = keeper.members[replica.name]
        shown = member.current or member.newest
        instance = member.slot.current
        health = instance.health if instance is not None else None
        reason = member.slot.absence if instance is None else ""
        if instance is not None and shown is not None:
            reason = shown.lifecycle.reason
        yield ReplicaStatus(
            name=replica.name,
            zone=replica.zone,
            state=shown.lifecycle.state if shown is not None else State.STARTING,
            reason=reason,
            instance=instance.id if instance is not None else None,
            version=instance.version if instance is not None else None,
            pid=shown.pid if shown is not None and instance is not None else None,
            in_flight=sum(generation.in_flight for generation in member.generations),
            health=health.status.name if health is not None else None,
            retry_in=_retry_in(member.slot),
            share=share,
            ejected_for=replica.ejected_until - now if replica.ejected_until else None,
            ejections=replica.ejections,
        )


def _last_output(keeper: AnyKeeper) -> tuple[str, ...]:
    if keeper.current is None:
        return keeper.slot.output
    return keeper.last_failure.output if keeper.last_failure is not None else ()
