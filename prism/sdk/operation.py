"""``@operation``: marks a plugin's methods, and compiles them once per class.

Everything that can be known when a class is defined is checked then, so that a
mistake in a plugin shows when it is imported and not with its first call.

Params come in, and results leave, as JSON text or MessagePack, whichever the caller chose:
a request with ``params_raw`` speaks MessagePack and is answered in MessagePack; every other
request speaks JSON. Empty ``params_json`` means ``{}``.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar, get_origin, get_type_hints, overload

import msgspec
import msgspec.inspect

from prism.contract import names
from prism.contract.errors import PluginError
from prism.contract.json_words import in_json_words
from prism.contract.messages import OperationAccess, OperationDeclaration
from prism.contract.status import StatusCode

T = TypeVar("T")
Handler = TypeVar("Handler", bound=Callable[..., object])
Access = Literal["read", "write", "admin"]

MAX_COST = 1_000_000
"""The largest burst that a rate limit can have."""
_MARK = "__prism_operation__"
_PLAIN = frozenset({"builtins", "collections", "collections.abc", "datetime", "decimal", "uuid"})
"""Modules whose types are values: none of them is a ``Call``, which is not known here."""
_is_name = re.compile(names.OPERATION).fullmatch

_json_encoder = msgspec.json.Encoder()
_msgpack_encoder = msgspec.msgpack.Encoder()


class ParamsDecoder(Generic[T]):
    """Decodes one operation's params; made once per operation, used for every call."""

    def __init__(self, params_type: type[T]) -> None:
        """Raises TypeError for a type that msgspec cannot decode."""
        self._decode_json = msgspec.json.Decoder(params_type).decode
        self._decode_msgpack = msgspec.msgpack.Decoder(params_type).decode

    def decode(self, params_json: str, params_raw: bytes) -> T:
        """The typed params of one request.

        Raises:
            PluginError: INVALID_ARGUMENT, with msgspec's sentence in JSON's words, and path.
        """
        try:
            if params_raw:
                return self._decode_msgpack(params_raw)
            return self._decode_json(params_json or "{}")
        except msgspec.MsgspecError as error:
            raise PluginError(StatusCode.INVALID_ARGUMENT, in_json_words(str(error))) from error
        except RecursionError as error:
            raise PluginError(
                StatusCode.INVALID_ARGUMENT, "the params are nested too deeply"
            ) from error
        except UnicodeError as error:
            raise PluginError(
                StatusCode.INVALID_ARGUMENT, "the params contain text that is not valid UTF-8"
            ) from error


@dataclass(frozen=True)
class _Mark:
    name: str
    idempotent: bool
    access: OperationAccess
    cost: int


@dataclass(frozen=True)
class Operation:
    """One operation of a plugin class, ready to be called.

    ``handler`` is the undecorated function: a coroutine function, or an async
    generator function when ``streaming``. ``params_type`` and ``result_type`` are its
    annotations, the latter ``inspect.Parameter.empty`` where there is none. ``stream`` is the
    streaming form that an operation has beside this one.
    """

    name: str
    handler: Callable[..., Any]
    params: ParamsDecoder[Any]
    params_type: Any
    result_type: Any
    takes_call: bool
    streaming: bool
    idempotent: bool
    access: OperationAccess = OperationAccess.UNDECLARED
    cost: int = 1
    stream: "Operation | None" = None

    @property
    def declaration(self) -> OperationDeclaration:
        """What the proxy relies on; ``declare`` adds what clients are told."""
        return OperationDeclaration(
            name=self.name,
            idempotent=self.idempotent,
            streaming=self.streaming,
            also_streaming=self.stream is not None,
            access=self.access,
            cost=self.cost if self.cost > 1 else 0,  # which is as short as to say nothing
        )


@overload
def operation(handler: Handler, /) -> Handler: ...


@overload
def operation(
    *, name: str = "", idempotent: bool = False, access: Access | None = None, cost: int = 1
) -> Callable[[Handler], Handler]: ...


def operation(
    handler: Handler | None = None,
    /,
    *,
    name: str = "",
    idempotent: bool = False,
    access: Access | None = None,
    cost: int = 1,
) -> Handler | Callable[[Handler], Handler]:
    """Offer a method as an operation.

    The method is ``async def method(self, params)`` or ``(self, params, call)``;
    an async generator makes a streaming operation. Two methods with one ``name``, one of
    each kind, are two forms of one operation. The annotation of ``params``
    is what the client's JSON or MessagePack is decoded to, usually a msgspec Struct.

    Args:
        name: what clients call it; the method's name unless given.
        idempotent: calling it twice equals calling it once. The proxy repeats
            such calls when a connection breaks, and only such calls.
        access: which permission its callers need, where the proxy knows its clients:
            ``read``, ``write`` or ``admin``. Without it ``write``.
        cost: what a call uses of a rate limit, where the proxy's configuration does not say it:
            more than 1 for one that takes more than others.

    Raises:
        TypeError: there is no such access, or cost.
    """
    if access not in (None, "read", "write", "admin"):
        raise TypeError(f"access is 'read', 'write' or 'admin', not {access!r}")
    if isinstance(cost, bool) or not isinstance(cost, int) or not 1 <= cost <= MAX_COST:
        raise TypeError(f"cost is a whole number from 1 to {MAX_COST}, not {cost!r}")
    needed = OperationAccess[(access or "undeclared").upper()]

    def mark(function: Handler) -> Handler:
        setattr(function, _MARK, _Mark(name, idempotent, needed, cost))
        return function

    return mark if handler is None else mark(handler)


def compile_operations(plugin: type, reserved: frozenset[str]) -> dict[str, Operation]:
    """The operations of a plugin class, by name, in the order of their definition.

    ``reserved`` holds the method names that belong to the SDK.

    Raises:
        TypeError: a handler cannot work; the sentence names class and method.
    """
    compiled: dict[str, Operation] = {}
    for attribute, mark, function in _marked(plugin):
        where = f"{plugin.__name__}.{attribute}"
        if attribute in reserved:
            raise TypeError(
                f"{where}: this method belongs to the SDK; give yours another name "
                f"and write @operation(name={attribute!r})"
            )
        found = _compile(where, mark, mark.name or attribute, function)
        other = compiled.get(found.name)
        if other is not None:
            if other.streaming is found.streaming or other.stream is not None:
                raise TypeError(f"{where}: the class already has an operation named {found.name!r}")
            single, stream = (other, found) if found.streaming else (found, other)
            if single.cost != stream.cost:
                raise TypeError(f"{where}: both forms of an operation have the same cost")
            if single.access is not stream.access:
                raise TypeError(f"{where}: both forms of an operation have the same access")
            found = replace(single, stream=stream)
        compiled[found.name] = found
    return compiled


def _marked(plugin: type) -> Iterator[tuple[str, _Mark, object]]:
    attributes = {
        attribute: None
        for base in reversed(plugin.__mro__)
        for attribute, value in vars(base).items()
        if _mark_of(value)
    }
    for attribute in attributes:
        function = inspect.getattr_static(plugin, attribute)
        if function is None:  # `get = None` in a subclass takes the operation away
            continue
        mark = _mark_of(function)
        if mark is None:
            raise TypeError(
                f"{plugin.__name__}.{attribute} overrides an operation: decorate it with @operation"
            )
        yield attribute, mark, function


def _mark_of(value: object) -> _Mark | None:
    inside = getattr(value, "__func__", value)  # of a static or class method
    return getattr(inside, _MARK, None)


def _compile(where: str, mark: _Mark, name: str, function: object) -> Operation:
    if not inspect.isfunction(function):
        raise TypeError(f"{where}: an operation must be a plain method")
    if _is_name(name) is None:
        raise TypeError(
            f"{where}: no client can call an operation named {name!r}; "
            f"a name is {names.OPERATION_FORM}"
        )
    streaming = inspect.isasyncgenfunction(function)
    if not streaming and not inspect.iscoroutinefunction(function):
        raise TypeError(f"{where}: an operation must be written with 'async def'")
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) not in (2, 3) or any(
        parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD for parameter in parameters
    ):
        raise TypeError(f"{where}: an operation takes (self, params) or (self, params, call)")
    annotations = _annotations(where, function)
    params_type = annotations.get(parameters[1].name)
    if len(parameters) == 3:
        _check_is_call(where, parameters[2].name, annotations.get(parameters[2].name, Any))
    return Operation(
        name=name,
        handler=function,
        params=_params_decoder(where, params_type, parameters[1].name),
        params_type=params_type,
        result_type=annotations.get("return", inspect.Parameter.empty),
        takes_call=len(parameters) == 3,
        streaming=streaming,
        idempotent=mark.idempotent,
        access=mark.access,
        cost=mark.cost,
    )


def _annotations(where: str, function: Callable[..., object]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as error:
        raise TypeError(f"{where}: an annotation cannot be resolved: {error}") from error


def _params_decoder(where: str, annotation: Any, name: str) -> ParamsDecoder[Any]:
    if annotation is None:
        raise TypeError(f"{where}: parameter {name!r} needs a type, such as a msgspec.Struct")
    try:
        decoder = ParamsDecoder(annotation)
        takes_object = _takes_object(msgspec.inspect.type_info(annotation))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{where}: {name!r} cannot be decoded as {annotation!r}: {error}"
        ) from error
    if not takes_object:
        shown = inspect.formatannotation(annotation)
        raise TypeError(
            f"{where}: {name!r} is of type {shown}, but the params of a call are one JSON object: "
            f"write (self, params: Params), where Params is a class Params(msgspec.Struct) "
            f"with the fields that clients send, such as `{name}: {shown}`"
        )
    return decoder


_OBJECTS = (
    msgspec.inspect.AnyType,
    msgspec.inspect.RawType,
    msgspec.inspect.DictType,
    msgspec.inspect.TypedDictType,
    msgspec.inspect.DataclassType,
)


def _takes_object(kind: msgspec.inspect.Type) -> bool:
    """Can a JSON object be decoded to this type, as the params of every call are?"""
    if isinstance(kind, msgspec.inspect.Metadata):
        return _takes_object(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(map(_takes_object, kind.types))
    if isinstance(kind, msgspec.inspect.StructType):
        return not kind.array_like
    if isinstance(kind, msgspec.inspect.CustomType):  # decoded as what it is, and checked
        return issubclass(dict, kind.cls)
    return isinstance(kind, _OBJECTS)


def _check_is_call(where: str, name: str, annotation: Any) -> None:
    """Raises TypeError for a third parameter that is no ``Call``: there are no second params."""
    kind = get_origin(annotation) or annotation
    if isinstance(kind, type) and kind.__module__ in _PLAIN and kind is not object:
        raise TypeError(
            f"{where}: {name!r} is of type {inspect.formatannotation(annotation)}, but a third "
            "parameter gets the Call; what clients send is one JSON object: "
            "write (self, params: Params) or (self, params: Params, call: Call), "
            "where Params is a class Params(msgspec.Struct)"
        )


def encode_json(result: object) -> str:
    """A result as JSON text; None becomes ``{}``, ``msgspec.Raw`` stays as it is."""
    return "{}" if result is None else _json_encoder.encode(result).decode()


def encode_msgpack(result: object) -> bytes:
    """A result as MessagePack; None becomes an empty map, ``msgspec.Raw`` stays as it is."""
    return _msgpack_encoder.encode({} if result is None else result)
