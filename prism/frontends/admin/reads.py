"""Answers that change nothing: states, descriptions, probes, metrics."""

from prism.calls.namespace import Namespace
from prism.frontends.admin.call import AdminCall
from prism.frontends.admin.messages import (
    LogLines,
    NamespaceDescription,
    NamespaceList,
    NamespaceSummary,
    OperationFacts,
    PluginHealth,
    PluginList,
)
from prism.frontends.probes import HEALTHZ, READYZ, answer_probe
from prism.frontends.responses import Response
from prism.supervision.status import NamespaceStatus


async def plugins(call: AdminCall) -> PluginList:
    """Every namespace's plugin: its state, version, process and health."""
    return PluginList(call.proxy.supervisor.status())


async def plugin(call: AdminCall) -> NamespaceStatus:
    """One namespace's plugin."""
    return call.proxy.supervisor.status_of(call.namespace.name)


async def health(call: AdminCall) -> PluginHealth:
    """What the plugin said of its health last."""
    status = call.proxy.supervisor.status_of(call.namespace.name)
    return PluginHealth(status.namespace, status.state, status.health, status.health_message)


async def logs(call: AdminCall) -> LogLines:
    """What the plugin wrote last; with `follow`, as a stream that goes on."""
    name = call.namespace.name
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
        backend=found.backend,
        description=found.description,
        while_unavailable=found.while_unavailable,
        in_flight=found.in_flight,
        open_streams=len(found.open_streams),
        limits=found.limits,
        operations=[
            OperationFacts(name, declared.idempotent, declared.streaming)
            for name, declared in sorted(operations.items())
        ],
        plugin=call.proxy.supervisor.status_of(found.name),
    )


def _summary(namespace: Namespace) -> NamespaceSummary:
    instance = namespace.slot.current
    return NamespaceSummary(
        namespace=namespace.name,
        backend=namespace.backend,
        description=namespace.description,
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
    return answer_probe(READYZ, proxy.router, draining=proxy.draining, for_operators=call.may_read)
