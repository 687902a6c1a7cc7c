"""A namespace's state at one moment, read off its keeper."""

import trio

from prism.supervision.generation import Generation
from prism.supervision.keeper import Keeper
from prism.supervision.lifecycle import State
from prism.supervision.report import GenerationStatus, NamespaceStatus


def status_of(keeper: Keeper) -> NamespaceStatus:
    """The snapshot; nothing in it changes later."""
    spec, slot = keeper.spec, keeper.slot
    shown = keeper.current or keeper.newest
    instance = keeper.current.instance if keeper.current is not None else None
    health = instance.health if instance is not None else None
    retry_in = None
    if slot.retry_at is not None:
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
        pid=instance.pid if instance is not None else None,
        restarts=keeper.journal.restarts,
        last_error=str(keeper.last_failure or ""),
        last_output=list(keeper.last_failure.output) if keeper.last_failure is not None else [],
        in_flight=sum(_in_flight(generation) for generation in keeper.generations),
        waiting=slot.waiting,
        health=health.status.name if health is not None else None,
        health_message=health.message if health is not None else "",
        retry_in=retry_in,
        operation=keeper.operation,
        generations=[
            GenerationStatus(
                id=generation.id,
                state=generation.lifecycle.state,
                since=generation.lifecycle.since,
                reason=generation.lifecycle.reason,
                version=generation.version,
                pid=generation.pid,
                in_flight=_in_flight(generation),
            )
            for generation in keeper.generations
        ],
    )


def _in_flight(generation: Generation) -> int:
    return generation.instance.leases if generation.instance is not None else 0
