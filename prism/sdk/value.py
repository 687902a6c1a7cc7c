"""The binary rule: how a value that is any JSON, or bytes, travels and is kept.

In JSON, bytes are text with ``"encoding": "base64"`` beside the value; in
MessagePack they are bytes. A plugin keeps a :class:`Value` and shows it in the
form its caller speaks. JSON comes back byte for byte as it was set, large
numbers included; where MessagePack cannot hold it (integers over 64 bits), the
value is its JSON text as bytes, with ``"encoding": "json"`` beside it.
"""

import binascii
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from prism.contract.errors import PluginError
from prism.contract.status import StatusCode
from prism.sdk.call import Call
from prism.sdk.json_equality import equal

Encoding = Literal["base64", "json"]


class Value(NamedTuple):
    """Bytes, and whether they are the value itself (binary) or its JSON text."""

    data: bytes
    binary: bool

    @classmethod
    def read(cls, value: Raw, encoding: Encoding | UnsetType, call: Call) -> "Value":
        """The value of a request: a ``Raw`` field and the ``encoding`` beside it.

        Raises:
            PluginError: INVALID_ARGUMENT, value and encoding do not fit.
        """
        if call.binary:
            return _read_msgpack(value, encoding)
        if encoding is UNSET:
            return cls(bytes(value), binary=False)
        if encoding == "base64":
            try:
                text = msgspec.json.decode(value, type=str)
                return cls(binascii.a2b_base64(text, strict_mode=True), binary=True)
            except (msgspec.MsgspecError, ValueError) as error:
                raise _invalid("with encoding 'base64', value must be base64 text") from error
        raise _invalid("in JSON, encoding must be 'base64' or absent")

    @property
    def shown_size(self) -> int:
        """Bytes of it in a result: what is no JSON becomes base64."""
        return len(self.data) * 4 // 3 if self.binary else len(self.data)

    def write(self, call: Call) -> tuple[Raw, Encoding | UnsetType]:
        """The value for a result: what to put into its ``Raw`` field, and the encoding."""
        if call.binary:
            return self._write_msgpack()
        if self.binary:
            return Raw(msgspec.json.encode(self.data)), "base64"
        return Raw(self.data), UNSET

    def _write_msgpack(self) -> tuple[Raw, Encoding | UnsetType]:
        if self.binary:
            return Raw(msgspec.msgpack.encode(self.data)), UNSET
        try:
            return Raw(msgspec.msgpack.encode(msgspec.json.decode(self.data))), UNSET
        except (OverflowError, ValueError, RecursionError):
            return Raw(msgspec.msgpack.encode(self.data)), "json"


def read_value(value: Raw, encoding: Encoding | UnsetType, call: Call, limit: int) -> Value:
    """A value as a client sent it.

    Raises:
        PluginError: INVALID_ARGUMENT, more than ``limit`` bytes, or no value.
    """
    read = Value.read(value, encoding, call)
    if len(read.data) > limit:
        raise _invalid(
            f"the value has {len(read.data)} bytes; the limit is {limit} (max_value_bytes)"
        )
    return read


def same_value(one: Value | None, other: Value | None) -> bool:
    """Whether two values are the same; JSON is compared by what it says, None is no value."""
    if one is None or other is None or one.binary or other.binary:
        return one == other
    return equal(one.data, other.data)


def _read_msgpack(value: Raw, encoding: Encoding | UnsetType) -> Value:
    try:
        decoded = msgspec.msgpack.decode(value)
        if isinstance(decoded, bytes):
            if encoding == "json":
                decoded.decode()  # msgspec does not look inside the text of a Raw
                msgspec.json.decode(decoded, type=Raw)
            return Value(decoded, binary=encoding != "json")
        _refuse_what_json_lacks(decoded)
        return Value(msgspec.json.encode(decoded), binary=False)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _invalid(f"value cannot be read: {error}") from error


def _refuse_what_json_lacks(value: Any) -> None:
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise _invalid("the keys of a map inside value must be strings")
        for item in value.values():
            _refuse_what_json_lacks(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_what_json_lacks(item)
    elif isinstance(value, float):
        if value - value != 0:
            raise _invalid("value must not contain NaN or infinity")
    elif not isinstance(value, str | int | None):
        raise _invalid("bytes cannot stand inside a value; send the whole value as bytes")


def _invalid(detail: str) -> PluginError:
    return PluginError(StatusCode.INVALID_ARGUMENT, detail)
