"""Frames on their way out, in two lanes."""

from collections import deque

from prism.wire.parts import LARGE, Pieces, size_of

MAX_WRITE = 256 * 1024
"""``take`` stops adding frames here, so that urgent ones soon get their turn."""

Packed = bytes | Pieces
"""A frame: whole, or a large one in pieces."""


class Outbox:
    """Frames waiting to be written: urgent ones first, each lane in order."""

    __slots__ = ("_in_pieces", "_ordered", "_tickets", "_urgent", "size")

    def __init__(self) -> None:
        self.size = 0
        self._urgent: deque[Packed] = deque()
        self._ordered: deque[Packed] = deque()
        self._in_pieces = 0
        self._tickets = 0

    def put(self, frame: Packed) -> int:
        """Queue a frame behind all others; returns its ticket for ``put_after``."""
        self._ordered.append(frame)
        if type(frame) is bytes:
            self.size += len(frame)
        else:
            self.size += size_of(frame)
            self._in_pieces += 1
        self._tickets += 1
        return self._tickets

    def put_urgent(self, frame: bytes) -> None:
        """Queue a frame behind other urgent ones only."""
        self._urgent.append(frame)
        self.size += len(frame)

    def put_after(self, ticket: int, frame: bytes) -> None:
        """Queue an urgent frame that must not pass the frame with this ticket."""
        if ticket > self._tickets - len(self._ordered):
            self.put(frame)
        else:
            self.put_urgent(frame)

    def take(self) -> bytes | Pieces:
        """Remove frames, up to ``MAX_WRITE`` bytes, and join them; where there is a large one, what
        is joined are the small pieces between its large ones.

        At least one frame of each lane goes, however large: a steady supply of
        urgent frames must not hold up the others for good.
        """
        if self.size <= MAX_WRITE and not self._in_pieces:
            taken = b"".join((*self._urgent, *self._ordered))  # type: ignore[arg-type]  # no pieces
            self._urgent.clear()
            self._ordered.clear()
            self.size = 0
            return taken
        pieces: list[bytes | bytearray] = []
        size, in_pieces = 0, self._in_pieces
        for lane in (self._urgent, self._ordered):
            first = True
            while lane and (first or size + size_of(lane[0]) <= MAX_WRITE):
                frame = lane.popleft()
                size += size_of(frame)
                if isinstance(frame, bytes):
                    pieces.append(frame)
                else:
                    pieces += frame
                    self._in_pieces -= 1
                first = False
        self.size -= size
        return b"".join(pieces) if in_pieces == self._in_pieces else _join_small(pieces)


def _join_small(pieces: list[bytes | bytearray]) -> bytes | Pieces:
    """``pieces``, with what lies between large ones joined: a system call takes only so many."""
    joined: list[bytes | bytearray] = []
    small: list[bytes | bytearray] = []
    for piece in pieces:
        if len(piece) < LARGE:
            small.append(piece)
            continue
        if small:
            joined.append(b"".join(small))
            small.clear()
        joined.append(piece)
    if not joined:
        return b"".join(small)
    if small:
        joined.append(b"".join(small))
    return tuple(joined)
