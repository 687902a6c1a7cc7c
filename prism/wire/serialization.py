"""Events as frames and frames as events, without any state.

What is legal when is the connection's business; here are only the fields. A
message's type depends on its call, so the functions take it as ``kind``.
"""

from typing import TypeVar

import msgspec

from prism.contract.errors import LocalProtocolError, PayloadTooLarge, RemoteProtocolError
from prism.contract.messages import Message
from prism.contract.service import REQUEST_TYPE, Method
from prism.contract.status import StatusCode
from prism.wire import codecs
from prism.wire.events import (
    MAX_LOG_RECORDS,
    PROTOCOL_VERSION,
    Cancel,
    Close,
    Credit,
    Data,
    GoAway,
    GoAwayReason,
    Hello,
    LongNote,
    Note,
    NoteWithoutLogs,
    Open,
    Ping,
)
from prism.wire.frames import (
    ACK,
    END,
    HEADER_SIZE,
    NOT_STARTED,
    TOO_LARGE,
    Codec,
    Frame,
    FrameType,
    pack,
    pack_pieces,
)
from prism.wire.parts import Pieces

MAX_HELLO = 64 * 1024
"""Largest HELLO: nobody is trusted with more before the handshake."""
MAX_LONG_NOTE = 1024 * 1024
"""Bytes of a NOTE with too many log records, of which the first ones are still taken."""
MAX_REASON = 1000
"""Characters of a GOAWAY's reason that are sent."""

T = TypeVar("T", bound=msgspec.Struct)

_REQUESTS = {int(method): (method, kind) for method, kind in REQUEST_TYPE.items()}
_EXECUTE_STREAM = Method.EXECUTE_STREAM  # as an attribute of its enum it costs four times as much

# -- events to frames ---------------------------------------------------------
#
# All of these raise LocalProtocolError where a number does not fit its field or
# a message cannot be encoded, and PayloadTooLarge where it is over ``limit``.


def _payload(
    message: msgspec.Struct, kind: type[msgspec.Struct], codec: Codec, limit: int
) -> bytes:
    if type(message) is not kind:
        raise LocalProtocolError(f"a {type(message).__name__} in place of a {kind.__name__}")
    payload = codecs.encode(codec, message)
    if len(payload) > limit:
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        raise PayloadTooLarge(
            limit, f"{article} {kind.__name__}", ", which the peer's HELLO names as max_frame"
        )
    return payload


def pack_hello(event: Hello) -> bytes:
    """HELLO; a side that names no version speaks this one."""
    payload = _payload(event, Hello, Codec.JSON, MAX_HELLO)
    version = event.protocol_max or PROTOCOL_VERSION
    return pack(FrameType.HELLO, 0, payload, codec=Codec.JSON, aux=version)


def pack_open(event: Open, codec: Codec, limit: int) -> bytes | Pieces:
    """OPEN with the method's request."""
    return pack_pieces(
        FrameType.OPEN,
        event.stream,
        (_payload(event.message, REQUEST_TYPE[event.method], codec, limit),),
        flags=END if event.end else 0,
        codec=codec,
        method=event.method,
        aux=event.deadline_ms,
    )


def pack_data(event: Data, kind: type[Message], codec: Codec, limit: int) -> bytes | Pieces:
    """DATA with one message of a streaming call."""
    return pack_pieces(
        FrameType.DATA,
        event.stream,
        (_payload(event.message, kind, codec, limit),),
        flags=END if event.end else 0,
        codec=codec,
    )


def pack_close(event: Close, kind: type[Message], codec: Codec, limit: int) -> bytes | Pieces:
    """CLOSE, with the method's response if there is one."""
    payload = b"" if event.message is None else _payload(event.message, kind, codec, limit)
    return pack_pieces(
        FrameType.CLOSE,
        event.stream,
        (payload,),
        flags=NOT_STARTED * event.not_started | TOO_LARGE * event.too_large,
        codec=codec if payload else Codec.NONE,
        aux=event.status,
    )


def pack_cancel(event: Cancel) -> bytes:
    """CANCEL."""
    return pack(FrameType.CANCEL, event.stream, aux=event.status)


def pack_credit(event: Credit) -> bytes:
    """CREDIT."""
    return pack(FrameType.CREDIT, event.stream, aux=event.size)


def pack_ping(event: Ping) -> bytes:
    """PING, or the answer to one."""
    return pack(FrameType.PING, flags=ACK if event.ack else 0, aux=event.token)


def pack_goaway(event: GoAway, limit: int) -> bytes:
    """GOAWAY; a reason that the peer has no room for is shortened or left out."""
    text = event.reason[:MAX_REASON].encode(errors="replace").decode()
    payload = codecs.encode(Codec.JSON, GoAwayReason(text)) if text else b""
    if not payload or len(payload) > limit:
        return pack(FrameType.GOAWAY, aux=event.last_stream)
    return pack(FrameType.GOAWAY, 0, payload, codec=Codec.JSON, aux=event.last_stream)


def pack_note(event: Note, codec: Codec, limit: int) -> bytes:
    """NOTE."""
    if len(event.logs) > MAX_LOG_RECORDS:
        raise LocalProtocolError(f"NOTE with {len(event.logs)} log records")
    return pack(FrameType.NOTE, 0, _payload(event, Note, codec, limit), codec=codec)


# -- frames to events ---------------------------------------------------------
#
# All of these raise RemoteProtocolError where the payload is not the message it
# must be, or is in a codec other than the agreed one.


def _message(frame: Frame, kind: type[T], codec: Codec) -> T:
    if frame.codec != codec and frame.payload:
        raise RemoteProtocolError(
            f"{frame.name} frame in codec {frame.codec}; it must be {codec} ({codec.name})"
        )
    return codecs.decode(codec, kind, frame.payload)


def unpack_hello(frame: Frame) -> Hello:
    """HELLO; its header's version is the highest that the sender speaks."""
    hello = _message(frame, Hello, Codec.JSON)
    return msgspec.structs.replace(hello, protocol_max=frame.aux)


def unpack_open(frame: Frame, codec: Codec) -> Open:
    """OPEN. Only streaming calls can have more requests to come."""
    known = _REQUESTS.get(frame.method)
    if known is None:
        raise RemoteProtocolError(f"OPEN for unknown method {frame.method} (known: 1 to 5)")
    method, kind = known
    ended = method != _EXECUTE_STREAM or bool(frame.flags & END)
    return Open(frame.stream, method, _message(frame, kind, codec), frame.aux, ended)


def unpack_data(frame: Frame, kind: type[Message], codec: Codec) -> Data:
    """DATA; ``size`` is the credit that it used."""
    size = HEADER_SIZE + len(frame.payload)
    return Data(frame.stream, _message(frame, kind, codec), bool(frame.flags & END), size)


def unpack_close(frame: Frame, kind: type[Message], codec: Codec) -> Close:
    """CLOSE; without a payload there is no message."""
    message = _message(frame, kind, codec) if frame.payload else None
    status = StatusCode.from_wire(frame.aux)
    flags = frame.flags
    if not flags:
        return Close(frame.stream, status, message)
    return Close(frame.stream, status, message, bool(flags & NOT_STARTED), bool(flags & TOO_LARGE))


def unpack_cancel(frame: Frame) -> Cancel:
    """CANCEL."""
    return Cancel(frame.stream, StatusCode.from_wire(frame.aux))


def unpack_goaway(frame: Frame) -> GoAway:
    """GOAWAY, with or without a reason."""
    return GoAway(frame.aux, _message(frame, GoAwayReason, Codec.JSON).reason)


def unpack_note(frame: Frame, codec: Codec) -> tuple[Note, bool]:
    """NOTE, and whether it had no more log records than it may. What it has beyond is dropped;
    all of them, where it is so long that they would take much memory."""
    try:
        return _message(frame, Note, codec), True
    except RemoteProtocolError:
        kind = LongNote if len(frame.payload) <= MAX_LONG_NOTE else NoteWithoutLogs
        rest = _message(frame, kind, codec)
        logs = rest.logs if isinstance(rest, LongNote) else []
        if isinstance(rest, LongNote) and len(logs) <= MAX_LOG_RECORDS:
            raise  # it was something else
    return Note(logs=logs[:MAX_LOG_RECORDS], metrics=rest.metrics, health=rest.health), False
