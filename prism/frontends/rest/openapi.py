"""The OpenAPI 3.1 description of a namespace, made from what its plugin declares.

What a plugin tells nothing of may be any JSON object, or any JSON as a result. Schemas become
components, named after the operation, and what they refer to within themselves moves along.
"""

from typing import Any

import msgspec

from prism.access.authentication import Authentication
from prism.access.identity import ANONYMOUS, Identity
from prism.access.permissions import NAMES, needed
from prism.calls.namespace import Namespace
from prism.contract.messages import OperationDeclaration
from prism.frontends.rest.describe import usable
from prism.frontends.stream_text import EVENTS, LINES

OPENAPI = "openapi.json"
"""What follows the namespace in the path: no operation can have this name."""

_COMPONENTS = "#/components/schemas/"
_WORDS = ("type", "title", "code", "reason", "detail", "request_id", "namespace", "operation")
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "An error (RFC 9457): `reason` says for programs what went wrong, `detail` for "
    "people. `retryable`: the call is known not to have run.",
    "properties": {
        **{name: {"type": "string"} for name in _WORDS},
        "status": {"type": "integer"},
        "retryable": {"type": "boolean"},
    },
    "required": [*_WORDS[:6], "status", "retryable"],
}
_ANYTHING: dict[str, Any] = {}
_ANY_OBJECT: dict[str, Any] = {"type": "object"}
_TIMEOUT: dict[str, Any] = {
    "name": "prism-timeout",
    "in": "header",
    "description": "How long the call may take, such as `1.5s` or `200ms`.",
    "schema": {"type": "string"},
}


def openapi(
    namespace: Namespace,
    identity: Identity = ANONYMOUS,
    authentication: Authentication | None = None,
) -> dict[str, Any]:
    """The whole description, of the operations that ``identity`` may call."""
    instance = namespace.slot.current
    operations = sorted(usable(namespace, identity).items())
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    schemes = _schemes(authentication)
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": f"{namespace.name} on Prism",
            "version": (instance.version if instance is not None else "") or "unknown",
            "description": namespace.description,
        },
        "servers": [{"url": "/"}],
        "paths": {
            f"/v1/{namespace.name}/{name}": {"post": _operation(declared, schemas)}
            for name, declared in operations
        },
        "components": {"schemas": schemas},
    }
    if schemes:
        described["components"]["securitySchemes"] = schemes
        described["security"] = [{name: []} for name in schemes]
    return described


def _schemes(authentication: Authentication | None) -> dict[str, Any]:
    schemes: dict[str, Any] = {}
    if authentication is not None and authentication.takes_tokens:
        schemes["token"] = {"type": "http", "scheme": "bearer"}
    if authentication is not None and authentication.takes_certificates:
        schemes["certificate"] = {"type": "mutualTLS"}
    return schemes


def _operation(declared: OperationDeclaration, schemas: dict[str, Any]) -> dict[str, Any]:
    name = declared.name
    params = _component(f"{name}.params", declared.params_schema, _ANY_OBJECT, schemas)
    result = _component(f"{name}.result", declared.result_schema, _ANYTHING, schemas)
    content = {} if declared.streaming else {"application/json": {"schema": result}}
    message = result
    if declared.also_streaming:
        of_stream = declared.stream_params_schema
        first = _component(f"{name}.stream_params", of_stream, _ANY_OBJECT, schemas)
        params = {"anyOf": [params, first]}
        of_stream = declared.stream_result_schema
        message = _component(f"{name}.message", of_stream, _ANYTHING, schemas)
    if declared.streaming or declared.also_streaming:
        content |= {kind.decode(): {"schema": message} for kind in (EVENTS, LINES)}
    return {
        "operationId": name,
        "summary": declared.description.partition("\n")[0],
        "description": declared.description,
        "parameters": [_TIMEOUT],
        "requestBody": {
            "required": _has_required(declared.params_schema),
            "content": {"application/json": {"schema": params}},
        },
        "responses": {
            "200": {"description": "The result.", "content": content},
            "default": {
                "description": "What went wrong.",
                "content": {"application/problem+json": {"schema": _reference("Problem")}},
            },
        },
        "x-prism-idempotent": declared.idempotent,
        "x-prism-access": NAMES[needed(declared)],
    }


def _has_required(schema: str) -> bool:
    return bool(schema) and bool(msgspec.json.decode(schema).get("required"))


def _component(
    name: str, text: str, otherwise: dict[str, Any], schemas: dict[str, Any]
) -> dict[str, Any]:
    """A reference to the schema of ``text``, which goes into ``schemas``."""
    if not text:
        return otherwise
    schemas[name] = _moved(msgspec.json.decode(text), name)
    return _reference(name)


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"{_COMPONENTS}{name}"}


def _moved(part: Any, name: str) -> Any:
    """``part`` of a schema whose place is now in the components, under ``name``."""
    if isinstance(part, list):
        return [_moved(item, name) for item in part]
    if not isinstance(part, dict):
        return part
    moved = {key: _moved(item, name) for key, item in part.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = f"{_COMPONENTS}{name}{reference[1:]}"
    return moved
