"""What ``GET /v1`` and ``GET /v1/{namespace}`` tell about namespaces."""

from typing import Any

import msgspec

from prism.calls.namespace import Namespace
from prism.contract.messages import OperationAccess, OperationDeclaration


def summary(namespace: Namespace) -> dict[str, Any]:
    """One entry of the list of namespaces."""
    instance = namespace.slot.current
    return {
        "namespace": namespace.name,
        "description": namespace.description,
        "backend": namespace.backend,
        "ready": instance is not None,
        "operations": sorted(instance.operations) if instance else [],
    }


def needed_access(declared: OperationDeclaration) -> str:
    """The permission that callers need, in one word."""
    needed = declared.access or OperationAccess.WRITE
    return needed.name.lower()


def description(namespace: Namespace) -> dict[str, Any]:
    """A namespace in full: its plugin, operations, health and limits.

    ``plugin`` is null while no instance is there.
    ``health.status`` is null until the first check.
    """
    instance = namespace.slot.current
    described = summary(namespace) | {"limits": msgspec.to_builtins(namespace.limits)}
    if instance is None:
        return described | {"plugin": None, "operations": {}}
    health = instance.health
    return described | {
        "plugin": {"name": instance.plugin, "version": instance.version},
        "operations": {
            name: {
                "idempotent": declared.idempotent,
                "streaming": declared.streaming,
                "also_streaming": declared.also_streaming,
                "access": needed_access(declared),
            }
            for name, declared in sorted(instance.operations.items())
        },
        "health": {
            "status": health.status.name if health else None,
            "message": health.message if health else "",
        },
    }
