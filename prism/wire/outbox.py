"""Frames on their way out, in two lanes."""

from collections import deque

MAX_WRITE = 256 * 1024
"""``take`` stops adding frames here, so that urgent ones soon get their turn."""


class Outbox:
    """Frames waiting to be written: urgent ones first, each lane in order."""

    __slots__ = ("_ordered", "_tickets", "_urgent", "size")

    def __init__(self) -> None:
        self.size = 0
        self._urgent: deque[bytes] = deque()
        self._ordered: deque[bytes] = deque()
        self._tickets = 0

    def put(self, frame: bytes) -> int:
        """Queue a frame behind all others; returns its ticket for ``put_after``."""
        self._ordered.append(frame)
        self.size += len(frame)
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

    def take(self) -> bytes:
        """Remove and join frames, up to ``MAX_WRITE`` bytes.

        At least one frame of each lane goes, however large: a steady supply of
        urgent frames must not hold up the others for good.
        """
        if self.size <= MAX_WRITE:
            taken = b"".join((*self._urgent, *self._ordered))
            self._urgent.clear()
            self._ordered.clear()
            self.size = 0
            return taken
        parts: list[bytes] = []
        size = 0
        for lane in (self._urgent, self._ordered):
            first = True
            while lane and (first or size + len(lane[0]) <= MAX_WRITE):
                parts.append(lane.popleft())
                size += len(parts[-1])
                first = False
        self.size -= size
        return b"".join(parts)
