"""Random identifiers for requests and traces: unique, not secret."""

import os

_BUFFER_BYTES = 4096


class HexSource:
    """Random hexadecimal text, taken from the kernel some kilobytes at a time.

    One system call for each identifier would cost more than all else here.
    """

    def __init__(self) -> None:
        self._text = ""
        self._position = 0
        # A forked child must not hand out its parent's identifiers.
        os.register_at_fork(after_in_child=self._forget)

    def take(self, length: int) -> str:
        """``length`` hexadecimal digits (at most 256)."""
        start = self._position
        end = start + length
        if end > len(self._text):
            self._text = os.urandom(_BUFFER_BYTES).hex()
            start, end = 0, length
        self._position = end
        return self._text[start:end]

    def _forget(self) -> None:
        self._text = ""
        self._position = 0


random_hex = HexSource().take
