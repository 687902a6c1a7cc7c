"""What a plugin tells about its operations: words and JSON Schemas, made from the class.

Schemas stand by themselves: what they refer to is put in its place, so that a reader needs
no resolver, but for types that contain themselves.
"""

import inspect
import types
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec.structs import replace

from prism.contract.messages import OperationDeclaration
from prism.sdk.call import Positioned
from prism.sdk.operation import Operation

_UNIONS = (Union, types.UnionType)
_REFERENCE = "#/$defs/"


class _Recursive(Exception):
    """A type that contains itself."""


def declare(operation: Operation) -> OperationDeclaration:
    """The whole declaration, with what is known of params and result."""
    declared = replace(
        operation.declaration,
        description=inspect.getdoc(operation.handler) or "",
        params_schema=schema_of(operation.params_type),
        result_schema=schema_of(operation.result_type),
    )
    if operation.stream is None:
        return declared
    return replace(
        declared,
        stream_params_schema=schema_of(operation.stream.params_type),
        stream_result_schema=schema_of(operation.stream.result_type),
    )


def schema_of(kind: Any) -> str:
    """The JSON Schema of what a handler takes or returns, as JSON text; "" for a type of which
    msgspec knows none, and where there is no annotation."""
    if kind is inspect.Parameter.empty:
        return ""
    kind = _message(kind)
    if kind is type(None):
        return '{"type":"object"}'  # None is sent as {}
    try:
        schema = msgspec.json.schema(kind, schema_hook=_of_object)
    except (TypeError, ValueError, NotImplementedError, RecursionError):
        return _composed(kind)
    definitions = schema.pop("$defs", {})
    for definition in definitions.values():
        if "description" in definition:  # a docstring, with its line breaks
            definition["description"] = " ".join(definition["description"].split())
    try:
        schema = _resolved(schema, definitions, ())
    except _Recursive:
        schema["$defs"] = definitions
    return msgspec.json.encode(schema).decode()


def _of_object(kind: type) -> dict[str, Any]:
    """Anything, for results that say no more than ``object``."""
    if kind is object:
        return {"description": "anything"}
    raise NotImplementedError  # as msgspec wants it of a hook that does not know the type


def _composed(kind: Any) -> str:
    """The schema of what msgspec cannot tell apart when it decodes, as results need not be: a
    union of Structs, also in a list, or in a Struct's fields."""
    origin = get_origin(kind)
    if origin in _UNIONS:
        members = [schema_of(member) for member in get_args(kind)]
        return _of_parts('{"anyOf":[%s]}', members)
    if origin is list:
        return _of_parts('{"type":"array","items":%s}', [schema_of(get_args(kind)[0])])
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return ""
    fields = msgspec.structs.fields(kind)
    properties = [schema_of(field.type) for field in fields]
    schema = {
        "title": kind.__name__,
        "description": " ".join((kind.__doc__ or "").split()),
        "type": "object",
        "properties": {
            field.encode_name: msgspec.Raw(text.encode())
            for field, text in zip(fields, properties, strict=True)
        },
        "required": [field.encode_name for field in fields if field.required],
    }
    return msgspec.json.encode(schema).decode() if _of_parts("%s", properties) else ""


def _of_parts(form: str, parts: list[str]) -> str:
    """``form`` with its parts in it; "" if one is unknown, or refers to what would be elsewhere."""
    if not all(parts) or any('"$defs"' in part for part in parts):
        return ""
    return form % ",".join(parts)


def _message(kind: Any) -> Any:
    """What a stream yields, without the position; any other type is as it was."""
    if get_origin(kind) in (AsyncIterator, AsyncGenerator):
        kind = get_args(kind)[0]
    if get_origin(kind) in _UNIONS:
        return Union[tuple(_message(member) for member in get_args(kind))]  # noqa: UP007 - dynamic
    return get_args(kind)[0] if get_origin(kind) is Positioned else kind


def _resolved(part: Any, definitions: dict[str, Any], inside: tuple[str, ...]) -> Any:
    """``part`` with what its references stand for. Raises _Recursive."""
    if isinstance(part, list):
        return [_resolved(item, definitions, inside) for item in part]
    if not isinstance(part, dict):
        return part
    reference = part.get("$ref")
    if not isinstance(reference, str):  # a property may have that name
        return {name: _resolved(item, definitions, inside) for name, item in part.items()}
    name = reference.removeprefix(_REFERENCE)
    if name in inside:
        raise _Recursive
    found = definitions[name] | {key: item for key, item in part.items() if key != "$ref"}
    return _resolved(found, definitions, (*inside, name))
