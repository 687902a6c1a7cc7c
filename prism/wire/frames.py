"""The 16-byte frame header, and the rules one header must keep by itself.

::

     0               4               8   9  10  11  12             16
    +---------------+---------------+---+---+---+---+---------------+
    |    length     |    stream     |typ|flg|cod|met|      aux      |
    +---------------+---------------+---+---+---+---+---------------+

Big-endian throughout; ``length`` counts the payload alone. Source: docs/protocol.md.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from prism.contract.errors import LocalProtocolError, RemoteProtocolError

HEADER_SIZE = 16
MAX_STREAM_ID = 2**32 - 1
_HEADER = struct.Struct("!IIBBBBI")


class FrameType(IntEnum):
    """What a frame is."""

    HELLO = 1
    OPEN = 2
    DATA = 3
    CLOSE = 4
    CANCEL = 5
    CREDIT = 6
    PING = 7
    GOAWAY = 8
    NOTE = 9


class Codec(IntEnum):
    """How a payload is encoded; NONE is for frames without one."""

    NONE = 0
    JSON = 1
    MSGPACK = 2


END = 0x01
"""Flag on OPEN and DATA: the sender has no more messages for this stream."""
NOT_STARTED = 0x02
"""Flag on CLOSE: the call never ran, so that repeating it is safe."""
ACK = 0x04
"""Flag on PING: this is the answer."""

_CONNECTION_FRAMES = frozenset({FrameType.HELLO, FrameType.PING, FrameType.GOAWAY, FrameType.NOTE})
_WITHOUT_PAYLOAD = frozenset({FrameType.CANCEL, FrameType.CREDIT, FrameType.PING})
_TYPES = {int(kind): kind for kind in FrameType}


class Header(NamedTuple):
    """A checked header: ``type`` is known and fits ``stream`` and ``length``."""

    length: int
    stream: int
    type: FrameType
    flags: int
    codec: int
    method: int
    aux: int


def pack(
    kind: FrameType,
    stream: int = 0,
    payload: bytes = b"",
    *,
    flags: int = 0,
    codec: int = Codec.NONE,
    method: int = 0,
    aux: int = 0,
) -> bytes:
    """One whole frame.

    Raises:
        LocalProtocolError: a number does not fit its field.
    """
    try:
        header = _HEADER.pack(len(payload), stream, kind, flags, codec, method, aux)
    except struct.error as error:
        raise LocalProtocolError(f"{kind.name} frame cannot be packed: {error}") from None
    return header + payload if payload else header


def unpack(buffer: bytes | bytearray, offset: int, max_frame: int) -> Header:
    """The header at ``offset``; the 16 bytes must be there, its payload need not.

    Raises:
        RemoteProtocolError: the length is over ``max_frame``, the type is
            unknown, or the frame breaks a rule that its header alone shows.
    """
    length, stream, number, flags, codec, method, aux = _HEADER.unpack_from(buffer, offset)
    kind = _TYPES.get(number)
    if kind is None:
        raise RemoteProtocolError(f"unknown frame type {number} (known: 1 to 9)")
    if length > max_frame:
        raise RemoteProtocolError(
            f"{kind.name} frame of {length} bytes is over the limit of {max_frame}"
        )
    if (stream == 0) != (kind in _CONNECTION_FRAMES):
        rule = "belongs to the connection" if stream else "needs a stream id"
        raise RemoteProtocolError(f"{kind.name} frame on stream {stream}: it {rule}")
    if length and kind in _WITHOUT_PAYLOAD:
        raise RemoteProtocolError(
            f"{kind.name} frame with a payload of {length} bytes; it has none"
        )
    return Header(length, stream, kind, flags, codec, method, aux)
