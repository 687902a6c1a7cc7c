"""Contract messages as protobuf, by ``schemas/prism/plugin.proto``.

The library's own classes for them never leave this module.

proto3 cannot tell a field at its default from an absent one, so a HealthCheckResponse
without a status is HEALTHY here, as every gRPC server means it, and UNHEALTHY in frames.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, EncodeError

from prism.contract.errors import LocalProtocolError, RemoteProtocolError
from prism.contract.messages import FIELD_NUMBERS, HealthStatus, Message, OperationAccess
from prism.grpc.descriptors import message_class

T = TypeVar("T", bound=Message)

PACKAGE = "prism.plugin"

_Getter = Callable[[Any], Any]
_ENUMS: dict[str, Callable[[int], Any]] = {"Status": HealthStatus, "Access": OperationAccess}


class _Translation:
    """How one kind of message becomes a protobuf message, and one of it again."""

    def __init__(self, kind: type[Message]) -> None:
        self.kind = kind
        self.protobuf = message_class(f"{PACKAGE}.{kind.__name__}")
        self._readers: dict[str, _Getter] = {
            field.name: _reader(field) for field in self.protobuf.DESCRIPTOR.fields
        }

    def fields(self, message: Message) -> dict[str, Any]:
        """The keyword arguments that make ``message`` as protobuf."""
        # Not less what is at its default: the Structs' and protobuf's differ (HealthStatus).
        return {
            name: _plain(value)
            for name in message.__struct_fields__
            if (value := getattr(message, name)) is not None
        }

    def read(self, parsed: Any) -> Message:
        return self.kind(**{name: read(parsed) for name, read in self._readers.items()})


def _plain(value: Any) -> Any:
    """``value`` as protobuf's constructors take it."""
    if isinstance(value, Message):
        return _BY_KIND[type(value)].fields(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _reader(field: Any) -> _Getter:
    """Reads ``field`` of a parsed message into what the Struct holds."""
    name, inner = field.name, field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        return lambda parsed: dict(getattr(parsed, name))
    if inner is not None and field.is_repeated:
        return lambda parsed: [_BY_NAME[inner.name].read(item) for item in getattr(parsed, name)]
    if inner is not None:
        return lambda parsed: (
            _BY_NAME[inner.name].read(getattr(parsed, name)) if parsed.HasField(name) else None
        )
    if field.is_repeated:
        return lambda parsed: list(getattr(parsed, name))
    if field.enum_type is not None:
        enum = _ENUMS[field.enum_type.name]
        return lambda parsed: enum(getattr(parsed, name))
    if field.has_presence:
        return lambda parsed: getattr(parsed, name) if parsed.HasField(name) else None
    return lambda parsed: getattr(parsed, name)


_BY_KIND = {kind: _Translation(kind) for kind in FIELD_NUMBERS}
_BY_NAME = {kind.__name__: translation for kind, translation in _BY_KIND.items()}


def encode(message: Message) -> bytes:
    """``message`` in protobuf.

    Raises:
        LocalProtocolError: it cannot be encoded, such as text with a lone surrogate.
    """
    translation = _BY_KIND[type(message)]
    try:
        encoded: bytes = translation.protobuf(**translation.fields(message)).SerializeToString()
    except (ValueError, TypeError, EncodeError) as error:
        raise LocalProtocolError(f"cannot encode {type(message).__name__}: {error}") from error
    return encoded


def decode(kind: type[T], payload: bytes) -> T:
    """The message in ``payload``; unknown fields are ignored, absent ones have their default.

    Raises:
        RemoteProtocolError: the payload is not one ``kind``.
    """
    translation = _BY_KIND[kind]
    try:
        message = translation.read(translation.protobuf.FromString(payload))
    except (DecodeError, ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"payload is not a {kind.__name__} in protobuf") from error
    return message  # type: ignore[return-value]  # the translation is this kind's
