"""How values are kept: as other programs would write them.

JSON is kept as its text, and bytes as they are: Redis has no place for a note which of the two
a value is. So what is JSON text comes back as JSON, and what is not, as bytes. Bytes that
happen to be JSON text, such as ``123``, have a mark before them, which no text begins with.
"""

import math
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Raw

from prism.sdk import PluginError, StatusCode, Value

MARK = b"\x00bytes\x00"

_decode = msgspec.json.Decoder(Raw).decode


def _is_json(data: bytes) -> bool:
    try:
        _decode(data)
        if not data.isascii():
            data.decode()  # msgspec does not look inside the text of a Raw
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return True


def pack(value: Value) -> bytes:
    """What is kept for a value."""
    if value.binary and (value.data.startswith(MARK) or _is_json(value.data)):
        return MARK + value.data
    return value.data


def unpack(data: bytes) -> Value:
    """The value of what is kept, by this plugin or another program."""
    if data.startswith(MARK):
        return Value(data[len(MARK) :], binary=True)
    return Value(data, binary=not _is_json(data))


def shown(reply: Any) -> Any:
    """A reply for a result: text where bytes are text; else, as anything that JSON lacks, an
    object that says what it is."""
    if isinstance(reply, bytes):
        try:
            return reply.decode()
        except UnicodeDecodeError:
            return {"value": reply, "encoding": "base64"}  # bytes are base64 in JSON
    if isinstance(reply, list | tuple | set):
        return [shown(item) for item in reply]
    if isinstance(reply, dict):
        keys = [shown(key) for key in reply]
        if all(isinstance(key, str) for key in keys):
            return dict(zip(keys, map(shown, reply.values()), strict=True))
        return [[key, shown(item)] for key, item in zip(keys, reply.values(), strict=True)]
    if isinstance(reply, float) and not math.isfinite(reply):
        words = "NaN" if math.isnan(reply) else "Infinity" if reply > 0 else "-Infinity"
        return {"value": words, "encoding": "float"}
    return reply


def argument(value: Any) -> bytes:
    """An argument of a command as the client wrote it: text, a number, or marked bytes.

    Raises:
        PluginError: INVALID_ARGUMENT
    """
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value).encode()
    if isinstance(value, dict) and value.keys() == {"value", "encoding"}:
        with suppress(msgspec.ValidationError):
            if value["encoding"] == "base64":
                return msgspec.convert(value["value"], bytes)
    raise PluginError(
        StatusCode.INVALID_ARGUMENT,
        'an argument is text, a number, or bytes as {"value":"...","encoding":"base64"}',
    )
