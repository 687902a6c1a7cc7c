"""Frames on their way out, in two lanes."""

from collections import deque

MAX_WRITE = 256 * 1024
"""``take`` stops adding frames here, so that urgent ones soon get their turn."""


class Outbox:
    """Frames waiting to be written: urgent ones first, each lane in order.

    ``epoch`` counts the calls of ``take``: a frame queued in an earlier epoch
    than the present one may already be on its way.
    """

    __slots__ = ("_ordered", "_urgent", "epoch", "size")

    def __init__(self) -> None:
        self.epoch = 0
        self.size = 0
        self._urgent: deque[bytes] = deque()
        self._ordered: deque[bytes] = deque()

    def put(self, frame: bytes) -> None:
        """Queue a frame behind all others."""
        self._ordered.append(frame)
        self.size += len(frame)

    def put_urgent(self, frame: bytes) -> None:
        """Queue a frame behind other urgent ones only."""
        self._urgent.append(frame)
        self.size += len(frame)

    def take(self) -> bytes:
        """Remove and join frames, up to ``MAX_WRITE`` bytes and at least one."""
        self.epoch += 1
        if self.size <= MAX_WRITE:
            taken = b"".join((*self._urgent, *self._ordered))
            self._urgent.clear()
            self._ordered.clear()
            self.size = 0
            return taken
        parts: list[bytes] = []
        size = 0
        for lane in (self._urgent, self._ordered):
            while lane and (not parts or size + len(lane[0]) <= MAX_WRITE):
                parts.append(lane.popleft())
                size += len(parts[-1])
        self.size -= size
        return b"".join(parts)
