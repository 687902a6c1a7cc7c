"""gRPC's framing: messages on an HTTP/2 stream, each behind five bytes (sans-I/O).

One byte says whether the message is compressed, four its length (gRPC over HTTP/2,
"Length-Prefixed-Message"). The length is checked before the message is awaited, and
again while a compressed one is inflated.
"""

import zlib
from enum import StrEnum

from prism.contract.errors import PayloadTooLarge, RemoteProtocolError

PREFIX_SIZE = 5
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


class Encoding(StrEnum):
    """The message encodings spoken here, as ``grpc-encoding`` names them."""

    IDENTITY = "identity"
    GZIP = "gzip"


ACCEPT_ENCODING = ",".join(Encoding)
"""For ``grpc-accept-encoding``."""


def pack(message: bytes, encoding: Encoding = Encoding.IDENTITY) -> bytes:
    """``message`` as it travels."""
    if encoding is Encoding.GZIP:
        compressor = zlib.compressobj(wbits=_GZIP_WINDOW)
        message = compressor.compress(message) + compressor.flush()
    return b"%c%b%b" % (encoding is Encoding.GZIP, len(message).to_bytes(4, "big"), message)


_OURS = ", the receiver's"


class MessageReader:
    """Cuts the bytes of one side of a call into messages.

    ``limit`` bounds a message, in bytes, before and after decompression.
    """

    def __init__(self, limit: int, encoding: Encoding = Encoding.IDENTITY) -> None:
        self._limit = limit
        self._encoding = encoding
        self._buffer = bytearray()
        self._expected = -1
        self._compressed = False

    @property
    def incomplete(self) -> bool:
        """Whether a message has begun and not ended; at the end of a call, it is torn."""
        return self._expected >= 0 or bool(self._buffer)

    @property
    def buffered(self) -> int:
        """Bytes taken in and not yet part of a message that was given out."""
        return len(self._buffer) + (PREFIX_SIZE if self._expected >= 0 else 0)

    def feed(self, data: bytes | bytearray) -> None:
        """Take in bytes, cut anywhere."""
        self._buffer += data

    def next_message(self) -> bytes | None:
        """The next whole message, or ``None`` when more bytes are needed.

        Raises:
            RemoteProtocolError: what came is not a message of the agreed encoding.
            PayloadTooLarge: the message is over the limit.
        """
        if self._expected < 0:
            if len(self._buffer) < PREFIX_SIZE:
                return None
            self._read_prefix()
        if len(self._buffer) < self._expected:
            return None
        message = bytes(self._buffer[: self._expected])
        del self._buffer[: self._expected]
        self._expected = -1
        return self._inflate(message) if self._compressed else message

    def _read_prefix(self) -> None:
        flag = self._buffer[0]
        size = int.from_bytes(self._buffer[1:PREFIX_SIZE], "big")
        if flag > 1:
            raise RemoteProtocolError(f"a gRPC message begins with {flag}; only 0 and 1 are known")
        if flag and self._encoding is Encoding.IDENTITY:
            raise RemoteProtocolError("a compressed gRPC message, but no grpc-encoding was named")
        if size > self._limit:
            raise PayloadTooLarge(self._limit, f"a gRPC message of {size} bytes", _OURS)
        del self._buffer[:PREFIX_SIZE]
        self._compressed = bool(flag)
        self._expected = size

    def _inflate(self, message: bytes) -> bytes:
        inflater = zlib.decompressobj(wbits=_GZIP_WINDOW)
        try:
            inflated = inflater.decompress(message, self._limit + 1)
        except zlib.error as error:
            raise RemoteProtocolError(f"a gRPC message is not gzip: {error}") from error
        if len(inflated) > self._limit:
            raise PayloadTooLarge(self._limit, "a gRPC message, decompressed,", _OURS)
        if not inflater.eof or inflater.unused_data:
            raise RemoteProtocolError("a gRPC message is not exactly one gzip stream")
        return inflated
