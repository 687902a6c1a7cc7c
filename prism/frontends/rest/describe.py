"""What ``GET /v1`` and ``GET /v1/{namespace}`` tell about namespaces."""

from typing import Any

import msgspec

from prism.access.identity import ANONYMOUS, Identity
from prism.access.permissions import NAMES, needed
from prism.calls.namespace import Namespace
from prism.contract.messages import OperationDeclaration


def summary(namespace: Namespace, identity: Identity = ANONYMOUS) -> dict[str, Any]:
    """One entry of the list of namespaces, with the operations that ``identity`` may call."""
    instance = namespace.slot.current
    return {
        "namespace": namespace.name,
        "description": namespace.config.description,
        "backend": namespace.config.backend,
        "ready": instance is not None,
        "operations": sorted(usable(namespace, identity)) if instance else [],
    }


def usable(namespace: Namespace, identity: Identity) -> dict[str, OperationDeclaration]:
    """The operations of the current instance that ``identity`` may call."""
    operations, access = namespace.slot.operations, namespace.access
    if access is None:
        return operations
    return {
        name: declared
        for name, declared in operations.items()
        if access.allows(identity, needed(declared))
    }


def description(namespace: Namespace, identity: Identity = ANONYMOUS) -> dict[str, Any]:
    """A namespace in full: its plugin, operations, health and limits.

    ``plugin`` is null while no instance is there.
    ``health.status`` is null until the first check.
    """
    instance = namespace.slot.current
    described = summary(namespace, identity) | {"limits": msgspec.to_builtins(namespace.limits)}
    if instance is None:
        return described | {"plugin": None, "operations": {}}
    health = instance.health
    return described | {
        "plugin": {"name": instance.plugin, "version": instance.version},
        "groups": instance.groups,
        "operations": {
            name: _described(declared)
            for name, declared in sorted(usable(namespace, identity).items())
        },
        "health": {
            "status": health.status.name if health else None,
            "message": health.message if health else "",
        },
    }


def _described(declared: OperationDeclaration) -> dict[str, Any]:
    """An operation; ``params``, ``result``, ``stream_params`` and ``message`` are the JSON
    Schemas that its plugin gave, where it did."""
    streaming = declared.streaming
    schemas = {
        "params": declared.params_schema,
        "message" if streaming else "result": declared.result_schema,
    }
    if declared.also_streaming:
        schemas |= {
            "stream_params": declared.stream_params_schema,
            "message": declared.stream_result_schema,
        }
    described: dict[str, Any] = {
        "idempotent": declared.idempotent,
        "streaming": streaming,
        "also_streaming": declared.also_streaming,
        "access": NAMES[needed(declared)],
    }
    if declared.cost > 1:
        described["cost"] = declared.cost
    if declared.description:
        described["description"] = declared.description
    return described | {name: msgspec.Raw(text.encode()) for name, text in schemas.items() if text}
