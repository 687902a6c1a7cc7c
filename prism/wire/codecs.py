"""Payloads: one contract message as JSON or MessagePack.

Decoders are made once per type. Whatever bytes come in, the only error that
goes out is RemoteProtocolError.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from prism.contract.errors import LocalProtocolError, RemoteProtocolError
from prism.contract.service import REQUEST_TYPE, RESPONSE_TYPE
from prism.wire.events import GoAwayReason, Hello, LongNote, Note, NoteWithoutLogs
from prism.wire.frames import Codec

T = TypeVar("T")

CODEC_NAMES = {"msgpack": Codec.MSGPACK, "json": Codec.JSON}
"""Codec names as HELLO spells them, the preferred one first."""

_ENCODE: dict[int, Callable[[Any], bytes]] = {
    Codec.JSON: msgspec.json.Encoder().encode,
    Codec.MSGPACK: msgspec.msgpack.Encoder().encode,
}


_PAYLOADS: tuple[type[msgspec.Struct], ...] = (
    *REQUEST_TYPE.values(),
    *RESPONSE_TYPE.values(),
    Hello,
    Note,
    LongNote,
    NoteWithoutLogs,
    GoAwayReason,
)
_DECODE: dict[int, dict[Any, Callable[[bytes | bytearray], Any]]] = {
    Codec.JSON: {kind: msgspec.json.Decoder(kind).decode for kind in _PAYLOADS},
    Codec.MSGPACK: {kind: msgspec.msgpack.Decoder(kind).decode for kind in _PAYLOADS},
}


def encode(codec: int, message: msgspec.Struct) -> bytes:
    """The payload for ``message``.

    Raises:
        LocalProtocolError: the message cannot be encoded, such as text with a
            lone surrogate.
    """
    try:
        return _ENCODE[codec](message)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(f"cannot encode {type(message).__name__}: {error}") from error


def decode(codec: int, kind: type[T], payload: bytes | bytearray) -> T:
    """The message in ``payload``. An empty payload is the message with all defaults.

    Raises:
        RemoteProtocolError: the payload is not one ``kind``.
    """
    if not payload:
        return kind()
    try:
        message: T = _DECODE[codec][kind](payload)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        name = "JSON" if codec == Codec.JSON else "MessagePack"
        cause = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RemoteProtocolError(f"payload is not a {kind.__name__} in {name}: {cause}") from error
    return message
