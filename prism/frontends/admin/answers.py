"""What the routes answer, but for streams: what there is, what changes something, and the
configuration.

A reload that comes to nothing is no error: its receipt says ``rolled_back``, ``partial`` or
``failed``, and why.
"""

import os
from typing import Any

import trio

from prism.access.permissions import NAMES, needed
from prism.calls.comparison import ShadowReport
from prism.calls.namespace import Namespace
from prism.calls.policies.circuit_breaker import CircuitBreaker
from prism.calls.policies.shadow import Shadow
from prism.config import redacted
from prism.contract.errors import InvalidRequest, NotFound
from prism.contract.messages import HealthStatus
from prism.contract.status import StatusCode
from prism.control.plan import ConfigOutcome, ConfigPlan
from prism.frontends.admin.call import AdminCall
from prism.frontends.admin.messages import (
    BreakerState,
    ConfigInUse,
    LogLines,
    NamespaceDescription,
    NamespaceList,
    NamespaceSummary,
    NamespaceTraffic,
    OperationFacts,
    PluginHealth,
    PluginList,
    Restarted,
    Stopping,
    Traffic,
)
from prism.frontends.probes import HEALTHZ, READYZ, answer_probe
from prism.frontends.responses import Response
from prism.observability.metrics import BOUNDS, UNKNOWN, Totals
from prism.streams.errors import telling_line
from prism.supervision.status import NamespaceStatus, Receipt

AT_A_TIME = 100
"""Namespaces that are looked at before others have a turn."""

# -- what there is ------------------------------------------------------------


async def plugins(call: AdminCall) -> PluginList:
    """Every namespace's plugin: its state, version, process and health."""
    return PluginList(call.proxy.supervisor.status())


async def plugin(call: AdminCall) -> NamespaceStatus:
    """One namespace's plugin."""
    return call.proxy.supervisor.status_of(call.plugin)


async def health(call: AdminCall) -> PluginHealth:
    """What the plugin said of its health last."""
    status = call.proxy.supervisor.status_of(call.plugin)
    return PluginHealth(status.namespace, status.state, status.health, status.health_message)


async def logs(call: AdminCall) -> LogLines:
    """What the plugin wrote last; with `follow`, as a stream that goes on."""
    name = call.plugin
    return LogLines(name, call.proxy.supervisor.logs(name).recent(call.query.tail))


async def namespaces(call: AdminCall) -> NamespaceList:
    """Every namespace."""
    return NamespaceList([_summary(namespace) for namespace in call.proxy.router.namespaces()])


async def namespace(call: AdminCall) -> NamespaceDescription:
    """One namespace: its limits, its operations, its plugin."""
    found = call.namespace
    instance = found.slot.current
    operations = instance.operations if instance is not None else {}
    return NamespaceDescription(
        namespace=found.name,
        backend=found.config.backend,
        description=found.config.description,
        while_unavailable=found.config.while_unavailable,
        in_flight=found.in_flight,
        open_streams=len(found.open_streams),
        limits=found.limits,
        policies={each.name: each.state() for each in found.policies if each.name},
        operations=[
            OperationFacts(name, declared.idempotent, declared.streaming, NAMES[needed(declared)])
            for name, declared in sorted(operations.items())
        ],
        plugin=call.proxy.supervisor.status_of(found.name),
    )


async def traffic(call: AdminCall) -> Traffic:
    """What every namespace's calls have come to: counters for rates and percentiles."""
    clock = trio.current_time()
    totals = call.proxy.metrics.totals()
    found = []
    for place, namespace in enumerate(call.proxy.router.namespaces()):
        if place % AT_A_TIME == AT_A_TIME - 1:
            await trio.lowlevel.checkpoint()
        found.append(_traffic_of(namespace, totals.get(namespace.name)))
    strays = totals.get(UNKNOWN)
    if strays is not None:
        found.append(NamespaceTraffic(UNKNOWN, ready=False, **_counted(strays)))
    return Traffic(os.getpid(), clock, list(BOUNDS), found)


def _traffic_of(namespace: Namespace, totals: Totals | None) -> NamespaceTraffic:
    slot = namespace.slot
    several = slot.size > 1
    return NamespaceTraffic(
        namespace.name,
        ready=slot.is_ready,
        in_flight=namespace.in_flight,
        max_in_flight=namespace.limits.max_in_flight,
        open_streams=namespace.streams_by_client.total(),
        waiting=slot.waiting,
        replicas=slot.size if several else 1,
        replicas_ready=slot.serving if several else 0,
        policies={each.name: each.state() for each in namespace.policies if each.name},
        **({} if totals is None else _counted(totals)),
    )


def _counted(totals: Totals) -> dict[str, Any]:
    by_status = zip(StatusCode, totals.by_status, strict=True)
    return {
        "calls": {status.name: count for status, count in by_status if count},
        "durations": totals.durations,
        "seconds": totals.seconds,
    }


async def shadow(call: AdminCall) -> ShadowReport:
    """What a namespace's shadow answered, compared with what its plugin did."""
    for policy in call.namespace.policies:
        if isinstance(policy, Shadow):
            return policy.report()
    raise NotFound(f"namespace {call.namespace.name!r} has no shadow; set namespaces[].shadow")


def _summary(namespace: Namespace) -> NamespaceSummary:
    instance = namespace.slot.current
    return NamespaceSummary(
        namespace=namespace.name,
        backend=namespace.config.backend,
        description=namespace.config.description,
        ready=instance is not None,
        in_flight=namespace.in_flight,
        operations=sorted(instance.operations) if instance is not None else [],
    )


async def metrics(call: AdminCall) -> Response:
    """Prometheus' text, or OpenMetrics where it is asked for."""
    accept = call.headers.get(b"accept", b"").decode("latin-1")
    body, content_type = call.proxy.metrics.exposition(accept)
    return Response(200, [(b"content-type", content_type.encode("ascii"))], body)


async def healthz(call: AdminCall) -> Response:
    """Does the process answer?"""
    return answer_probe(HEALTHZ, call.proxy.router, draining=call.proxy.draining)


async def readyz(call: AdminCall) -> Response:
    """Does every namespace have its plugin? Says why not to those who may read."""
    proxy = call.proxy
    told = None
    if call.may_read():
        told = {one.name: _readiness(call, one) for one in proxy.router.namespaces()}
    return answer_probe(READYZ, proxy.router, draining=proxy.draining, namespaces=told)


def _readiness(call: AdminCall, namespace: Namespace) -> str:
    slot = namespace.slot
    if slot.current is not None:
        health = slot.current.health
        if health is not None and health.status is HealthStatus.DEGRADED:
            return f"degraded: {health.message}" if health.message else "degraded"
        return "ready"
    line = telling_line(call.proxy.supervisor.status_of(namespace.name).last_output)
    return f"{slot.absence}; the last that it wrote: {line}" if line else slot.absence


# -- what changes something ---------------------------------------------------


async def reload(call: AdminCall) -> Receipt:
    """Replace a plugin without losing a call; answers when the old instance has ended."""
    body = call.body
    name = call.find_plugin(body.namespace)
    return await call.proxy.supervisor.reload(name, body.version, body.trial())


async def restart(call: AdminCall) -> Receipt:
    """End a plugin, then start it again; calls wait meanwhile. Also after a drain."""
    return await call.proxy.supervisor.restart(call.find_plugin(call.body.namespace))


async def drain(call: AdminCall) -> Receipt:
    """Let a plugin finish its calls and end; none is started until a restart."""
    return await call.proxy.supervisor.drain(call.find_plugin(call.body.namespace))


async def reset(call: AdminCall) -> NamespaceStatus:
    """Forget a plugin's failures, and try to start it now if it does not run."""
    return call.proxy.supervisor.reset(call.find_plugin(call.body.namespace))


async def abort(call: AdminCall) -> Receipt:
    """Roll back the reload of a plugin that is under way, up to the moment of the swap."""
    return await call.proxy.supervisor.abort(call.find_plugin(call.body.namespace))


async def breaker(call: AdminCall) -> BreakerState:
    """Keep a namespace's circuit breaker open or closed, or have it go by its calls again.

    That holds for the plugins that follow, too, up to a restart of the proxy.
    """
    found = call.find(call.body.namespace)
    for policy in found.policies:
        if isinstance(policy, CircuitBreaker):
            policy.operate(call.body.action, call.request.principal)
            return BreakerState(found.name, policy.state())
    raise InvalidRequest(
        f"namespace {found.name!r} has no circuit breaker; `breaker: {{}}` in its configuration "
        "gives it one"
    )


async def restart_proxy(call: AdminCall) -> Restarted:
    """Start this proxy's command once more, and hand over to it: a rolling restart.

    No call is lost. Without `wait` it is `starting`, and the log says how it went.
    """
    if call.proxy.restart is None:
        raise InvalidRequest("this proxy cannot start a successor: `prism serve` did not start it")
    restart = call.proxy.restart()
    return await restart.wait_over() if call.body.wait else Restarted("starting", os.getpid())


async def drain_all(call: AdminCall) -> Stopping:
    """Stop serving: accept nothing more, finish what is in flight, end the process."""
    call.proxy.stop()
    return Stopping()


# -- the configuration --------------------------------------------------------


async def config(call: AdminCall) -> ConfigInUse:
    """The configuration in use, with its secrets hidden."""
    live = call.proxy.config
    return ConfigInUse(live.generation, live.settled, live.changed_at, redacted(live.current))


async def plan(call: AdminCall) -> ConfigPlan:
    """What applying the configuration file, as it is now, would change. Changes nothing."""
    return await call.proxy.config.plan()


async def apply(call: AdminCall) -> ConfigOutcome:
    """Use the configuration file as it is now: as one change, or not at all.

    Answers when what was replaced or removed has ended; `applied` says how it went.
    """
    return await call.proxy.config.apply()
