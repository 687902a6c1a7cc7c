"""Which offset of a partition may be committed: acknowledgements come in any order.

A commit says that everything before an offset is done. So what is acknowledged out of order
waits until all that was handed out before it is acknowledged too. Plain values, no I/O.
"""

from collections import deque


class Progress:
    """One partition's offsets that were handed out, and which of them are settled."""

    __slots__ = ("_order", "_settled", "next")

    def __init__(self) -> None:
        self.next: int | None = None
        """The offset to commit: the first one that is not settled; None before the first is."""
        self._order: deque[int] = deque()
        self._settled: set[int] = set()

    def hand_out(self, offset: int) -> None:
        """An offset, larger than all before. There may be gaps: compaction, transactions."""
        self._order.append(offset)

    def settle(self, offset: int) -> int:
        """This offset, which was handed out and not settled before, is done.

        Returns how many offsets have come to lie before ``next``: 0 if it has not moved.
        """
        order = self._order
        if offset != order[0]:
            self._settled.add(offset)
            return 0
        order.popleft()
        settled = self._settled
        passed = 1
        while order and order[0] in settled:
            offset = order.popleft()
            settled.remove(offset)
            passed += 1
        self.next = offset + 1
        return passed

    @property
    def out_of_order(self) -> int:
        """Offsets that are settled and wait for an earlier one."""
        return len(self._settled)
