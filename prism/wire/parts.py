"""Large frames and bodies without needless copies: one on their way in, none on their way out."""

Pieces = tuple[bytes | bytearray, ...]
"""What is sent one after another, without having been joined."""

LARGE = 32 * 1024
"""Bytes from which it is worth while not to copy: less than that is copied in no time."""

SMALL = 4 * 1024
"""Bytes of a part up to which it is copied to its neighbours: else an object for every two bytes
would take twenty times their memory."""
FULL = 64 * 1024
"""Bytes of small parts that are put together; to let them grow further would copy them."""


def size_of(pieces: bytes | Pieces) -> int:
    """How many bytes there are, whole or in pieces."""
    if isinstance(pieces, bytes):
        return len(pieces)
    return len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))


class Parts:
    """Parts of one whole, in order; ``size`` is how many bytes they have."""

    __slots__ = ("_parts", "size")

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes | bytearray] = []

    def add(self, part: bytes) -> None:
        """Add what came next."""
        self.size += len(part)
        parts = self._parts
        last = parts[-1] if parts else b""
        if len(part) > SMALL:
            parts.append(part)
        elif isinstance(last, bytearray) and len(last) < FULL:
            last += part
        elif part:
            parts.append(bytearray(part))

    def take(self) -> bytes:
        """All of them, joined; none is left."""
        parts, self._parts = self._parts, []
        self.size = 0
        return b"".join(parts)
