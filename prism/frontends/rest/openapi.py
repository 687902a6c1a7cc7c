"""The OpenAPI 3.1 description of a namespace, made from what its plugin declares.

What a plugin tells nothing of may be any JSON object, or any JSON as a result. Generators of
clients make a class of each component, named by its title, and take references to components
alone. So schemas that have a title become components of that name, also those within others;
one that is there already is not told again.
"""

import re
from typing import Any

import msgspec

from prism.access.authentication import Authentication
from prism.access.identity import ANONYMOUS, Identity
from prism.access.permissions import NAMES, needed
from prism.calls.namespace import Namespace
from prism.calls.overload import PRIORITIES
from prism.contract.messages import OperationDeclaration
from prism.frontends.rest.describe import usable
from prism.frontends.stream_text import EVENTS, LINES

OPENAPI = "openapi.json"
"""What follows the namespace in the path: no operation can have this name."""

_COMPONENTS = "#/components/schemas/"
_DEFINITIONS = "#/$defs/"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_VALUES = frozenset({"default", "const", "enum", "examples", "example"})
"""Keywords of a schema that stand before data."""
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas"})
"""Keywords before schemas that have names."""
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
_PRIORITY: dict[str, Any] = {
    "name": "prism-priority",
    "in": "header",
    "description": "Where this call is less important than others: it is refused before them "
    "while the proxy has more to do than it can.",
    "schema": {"enum": list(reversed(PRIORITIES))},
}


def openapi(
    namespace: Namespace,
    identity: Identity = ANONYMOUS,
    authentication: Authentication | None = None,
) -> dict[str, Any]:
    """The whole description, of the operations that ``identity`` may call."""
    instance = namespace.slot.current
    operations = sorted(usable(namespace, identity).items())
    components = Components()
    schemes = _schemes(authentication)
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": f"{namespace.name} on Prism",
            "version": (instance.version if instance is not None else "") or "unknown",
            "description": namespace.config.description,
        },
        "servers": [{"url": "/"}],
        "paths": {
            f"/v1/{namespace.name}/{name}": {"post": _operation(declared, components)}
            for name, declared in operations
        },
        "components": {"schemas": components.schemas},
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


def _operation(declared: OperationDeclaration, components: "Components") -> dict[str, Any]:
    name = declared.name
    params = components.place(name, "params", declared.params_schema, _ANY_OBJECT)
    result = components.place(name, "result", declared.result_schema, _ANYTHING)
    content = {} if declared.streaming else {"application/json": {"schema": result}}
    message = result
    if declared.also_streaming:
        of_stream = declared.stream_params_schema
        first = components.place(name, "stream_params", of_stream, _ANY_OBJECT)
        params = params if first == params else {"anyOf": [params, first]}
        of_stream = declared.stream_result_schema
        message = components.place(name, "message", of_stream, _ANYTHING)
    if declared.streaming or declared.also_streaming:
        content |= {kind.decode(): {"schema": message} for kind in (EVENTS, LINES)}
    return {
        "operationId": name,
        "summary": declared.description.partition("\n")[0],
        "description": declared.description,
        "parameters": [_TIMEOUT, _PRIORITY],
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


def _has_required(text: str) -> bool:
    schema = msgspec.json.decode(text) if text else None
    return isinstance(schema, dict) and bool(schema.get("required"))


class Components:
    """The schemas of one description, each under a name of its own."""

    def __init__(self) -> None:
        self.schemas: dict[str, Any] = {"Problem": _PROBLEM}
        self._names: dict[bytes, str] = {}
        """By what a schema was before its references were changed."""

    def place(self, operation: str, role: str, text: str, otherwise: dict[str, Any]) -> Any:
        """A reference to the schema of ``text``, or ``otherwise`` where there is none."""
        if not text:
            return otherwise
        schema = msgspec.json.decode(text)
        if not isinstance(schema, dict):
            return schema  # true or false
        own = _pascal(f"{operation}_{role}")
        definitions = schema.get("$defs") or {}
        known = {f"{_DEFINITIONS}{name}" for name in definitions}
        if not known.issuperset(_references(schema)):
            # It refers into itself, or to nothing, so that it has to stay whole.
            name = self._take(own, own)
            self.schemas[name] = _moved(schema, name) | {"title": name}
            return _reference(name)
        schema.pop("$defs", None)
        if "$ref" in schema:
            return self._changed(schema, definitions, operation)
        return self._add(_title(schema) or own, schema, definitions, operation)

    def _add(
        self, wanted: str, schema: dict[str, Any], definitions: dict[str, Any], operation: str
    ) -> dict[str, Any]:
        key = msgspec.json.encode((schema, definitions))
        name = self._names.get(key)
        if name is None:
            self._names[key] = name = self._take(wanted, _pascal(f"{operation}_{wanted}"))
            self.schemas[name] = {}  # it may contain itself
            self.schemas[name] = self._changed(schema, definitions, operation) | {"title": name}
        return _reference(name)

    def _take(self, wanted: str, otherwise: str) -> str:
        """``wanted``, or where another schema has this name, ``otherwise``."""
        names = [wanted, otherwise]
        while (name := names.pop(0)) in self.schemas:
            names = names or [f"{name}_"]
        return name

    def _changed(self, part: Any, definitions: dict[str, Any], operation: str) -> Any:
        """``part`` of a schema, with references to components in it."""
        if isinstance(part, list):
            return [self._part(item, definitions, operation) for item in part]
        if not isinstance(part, dict):
            return part
        changed: dict[str, Any] = {}
        for key, item in part.items():
            if key == "$ref" and isinstance(item, str):
                name = item.removeprefix(_DEFINITIONS)
                wanted = _title(definitions[name]) or _pascal(name)
                changed |= self._add(wanted, definitions[name], definitions, operation)
            elif key in _VALUES:
                changed[key] = item
            elif key in _NAMED and isinstance(item, dict):
                changed[key] = {
                    name: self._part(each, definitions, operation) for name, each in item.items()
                }
            else:
                changed[key] = self._part(item, definitions, operation)
        if part.get("type") == "array" and not {"items", "prefixItems"} & part.keys():
            changed["items"] = {}  # says the same, and generators want to hear it
        return changed

    def _part(self, part: Any, definitions: dict[str, Any], operation: str) -> Any:
        if isinstance(part, dict) and "properties" in part and (title := _title(part)):
            return self._add(title, part, definitions, operation)
        return self._changed(part, definitions, operation)


def _title(schema: Any) -> str:
    """What a schema is called, where that can be a component's name; else ""."""
    title = schema.get("title") if isinstance(schema, dict) else None
    return title if isinstance(title, str) and _NAME.fullmatch(title) else ""


def _pascal(words: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", words))


def _references(part: Any) -> list[str]:
    """All references in ``part`` of a schema."""
    if isinstance(part, list):
        return [found for item in part for found in _references(item)]
    if not isinstance(part, dict):
        return []
    found = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return found + [each for item in part.values() for each in _references(item)]


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
    if isinstance(reference, str) and f"{reference}/".startswith("#/"):  # and no "#anchor"
        moved["$ref"] = f"{_COMPONENTS}{name}{reference[1:]}"
    return moved
