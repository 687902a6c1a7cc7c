"""Cuts a byte stream into frames."""

from prism.contract.errors import RemoteProtocolError
from prism.wire.frames import HEADER_SIZE, Header, unpack


class FrameReader:
    """Collects bytes and hands out whole frames.

    A length is judged as soon as its header is there, so an oversized frame
    fails before its first payload byte is kept.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._offset = 0
        self._header: Header | None = None
        self._ended = False

    @property
    def mid_frame(self) -> bool:
        """Has a frame begun that is not complete?"""
        return self._header is not None or len(self._buffer) > self._offset

    @property
    def ended(self) -> bool:
        """Has the stream ended?"""
        return self._ended

    def feed(self, data: bytes | bytearray) -> None:
        """Add bytes; ``b""`` marks the end of the stream, after which none count."""
        if self._ended:
            return
        if data:
            self._buffer += data
        else:
            self._ended = True

    def next_frame(self, max_frame: int) -> tuple[Header, bytes | bytearray] | None:
        """The next whole frame, or ``None`` until there is one.

        Raises:
            RemoteProtocolError: the header breaks a rule, or the stream ended
                in the middle of a frame.
        """
        header = self._header
        if header is None:
            if len(self._buffer) - self._offset < HEADER_SIZE:
                self._wait_for_more()
                return None
            header = self._header = unpack(self._buffer, self._offset, max_frame)
            self._offset += HEADER_SIZE
        end = self._offset + header.length
        if len(self._buffer) < end:
            self._wait_for_more()
            return None
        payload = self._buffer[self._offset : end] if header.length else b""
        self._offset = end
        self._header = None
        return header, payload

    def discard(self) -> None:
        """Drop what has not been handed out, and whatever comes."""
        self._buffer.clear()
        self._offset = 0
        self._header = None
        self._ended = True

    def _wait_for_more(self) -> None:
        if self._offset:
            del self._buffer[: self._offset]
            self._offset = 0
        if self._ended and self.mid_frame:
            raise RemoteProtocolError("the connection ended in the middle of a frame")
