"""Frames: the 16-byte header, the rules one header must keep by itself, the way out and in.

::

     0               4               8   9  10  11  12             16
    +---------------+---------------+---+---+---+---+---------------+
    |    length     |    stream     |typ|flg|cod|met|      aux      |
    +---------------+---------------+---+---+---+---+---------------+

Big-endian throughout; ``length`` counts the payload alone. Source: docs/protocol.md.
"""

import struct
from enum import IntEnum

import msgspec

from prism.contract.errors import LocalProtocolError, RemoteProtocolError
from prism.wire.parts import LARGE, Parts, Pieces, size_of

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
TOO_LARGE = 0x08
"""Flag on CLOSE: the answer does not fit into what the caller takes."""

_CONNECTION_FRAMES = frozenset({FrameType.HELLO, FrameType.PING, FrameType.GOAWAY, FrameType.NOTE})
_WITHOUT_PAYLOAD = frozenset({FrameType.CANCEL, FrameType.CREDIT, FrameType.PING})
_TYPES = {int(kind): kind for kind in FrameType}


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A whole frame whose header was checked: ``kind`` is known, and fits stream and length.

    ``kind`` and ``codec`` are bare numbers, which compare equal to their enums: most frames
    are looked at once, and making two enums would cost more than that look.
    """

    kind: int
    stream: int
    flags: int
    codec: int
    method: int
    aux: int
    payload: bytes | bytearray

    @property
    def name(self) -> str:
        """The kind's name, for people."""
        return _TYPES[self.kind].name


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
    header = _pack_header(len(payload), stream, kind, flags, codec, method, aux)
    return header + payload if payload else header


def pack_pieces(
    kind: FrameType,
    stream: int,
    payload: Pieces,
    *,
    flags: int = 0,
    codec: int = Codec.NONE,
    method: int = 0,
    aux: int = 0,
) -> bytes | Pieces:
    """One whole frame, whose payload is in pieces; in pieces itself if it is large.

    Raises:
        LocalProtocolError: a number does not fit its field.
    """
    size = size_of(payload)
    header = _pack_header(size, stream, kind, flags, codec, method, aux)
    return b"".join((header, *payload)) if size < LARGE else (header, *payload)


def _pack_header(
    size: int, stream: int, kind: FrameType, flags: int, codec: int, method: int, aux: int
) -> bytes:
    try:
        return _HEADER.pack(size, stream, kind, flags, codec, method, aux)
    except struct.error as error:
        raise LocalProtocolError(f"{kind.name} frame cannot be packed: {error}") from None


class FrameReader:
    """Collects bytes and hands out whole frames.

    A length is judged as soon as its header is there, so an oversized frame
    fails before its first payload byte is kept.

    The payload of a large frame is collected by itself, in the parts in which it comes, and
    joined once all of it is there: in a buffer that grows it would be copied several times.
    """

    def __init__(self) -> None:
        self._buffer: bytes | bytearray = b""
        self._offset = 0
        self._ended = False
        self._large: Frame | None = None  # which has all but its payload
        self._parts = Parts()
        self._missing = 0  # bytes of that

    @property
    def mid_frame(self) -> bool:
        """Has a frame begun that is not complete?"""
        return self._missing > 0 or len(self._buffer) > self._offset

    @property
    def missing(self) -> int:
        """Bytes that are known to be missing of a large frame."""
        return self._missing

    @property
    def begun(self) -> bytes:
        """What has come of a frame that is incomplete; nothing where that is large."""
        return bytes(self._buffer[self._offset :])

    @property
    def ended(self) -> bool:
        """Has the stream ended?"""
        return self._ended

    def feed(self, data: bytes | bytearray) -> None:
        """Add bytes; ``b""`` marks the end of the stream, after which none count."""
        if self._ended:
            return
        if not data:
            self._ended = True
        elif self._missing:
            self._missing -= len(data)
            if self._missing >= 0:
                self._parts.add(bytes(data))
                return
            self._parts.add(bytes(data[: self._missing]))
            self._buffer = bytes(data[self._missing :])
            self._offset = self._missing = 0
        elif self._offset == len(self._buffer):
            # Most often nothing is left over: what came is read where it is.
            self._buffer = bytes(data)
            self._offset = 0
        else:
            if isinstance(self._buffer, bytes):
                self._buffer = bytearray(self._buffer)
            del self._buffer[: self._offset]
            self._offset = 0
            self._buffer += data

    def next_frame(self, max_frame: int) -> Frame | None:
        """The next whole frame, or ``None`` until there is one.

        Raises:
            RemoteProtocolError: the header breaks a rule, or the stream ended
                in the middle of a frame.
        """
        if self._large is not None:
            return self._finish_large()
        buffer = self._buffer
        body = self._offset + HEADER_SIZE
        if len(buffer) < body:
            self._await_more()
            return None
        length, stream, kind, flags, codec, method, aux = _HEADER.unpack_from(buffer, self._offset)
        # OPEN, DATA and CLOSE are nearly all there is, and have these two rules.
        if not (2 <= kind <= 4 and stream and length <= max_frame):
            _check(length, stream, kind, max_frame)
        end = body + length
        if len(buffer) < end:
            if length >= LARGE:
                self._large = Frame(kind, stream, flags, codec, method, aux, b"")
                self._missing = end - len(buffer)
                self._parts.add(bytes(memoryview(buffer)[body:]))
                self._buffer, self._offset = b"", 0
            self._await_more()
            return None
        self._offset = end
        return Frame(kind, stream, flags, codec, method, aux, buffer[body:end])

    def _finish_large(self) -> Frame | None:
        if self._missing:
            self._await_more()
            return None
        assert self._large is not None  # noqa: S101 - else this is not called
        frame, self._large = self._large, None
        return msgspec.structs.replace(frame, payload=self._parts.take())

    def discard(self) -> None:
        """Drop what has not been handed out, and whatever comes."""
        self._buffer = b""
        self._offset = self._missing = 0
        self._large = None
        self._parts = Parts()
        self._ended = True

    def _await_more(self) -> None:
        if self._offset == len(self._buffer) and not self._missing:
            self._buffer = b""
            self._offset = 0
        elif self._ended:
            raise RemoteProtocolError("the connection ended in the middle of a frame")


def _check(length: int, stream: int, number: int, max_frame: int) -> None:
    """Hold a header to the rules that it can break by itself.

    Raises:
        RemoteProtocolError: the length is over ``max_frame``, the type is
            unknown, or the frame breaks a rule that its header alone shows.
    """
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
