"""How this process's allocator (glibc's) treats large blocks."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

LARGE = 256 * 1024
"""Bytes from which a block is the kernel's own, and goes back to it when it is freed."""
ARENAS = 2
"""Heaps that threads share; each keeps what it has once needed."""


def give_back_large_blocks() -> None:
    """Have large blocks, such as bodies, given back to the system as soon as they are freed.

    Else glibc moves its threshold up to 32 MiB with the first of them, and what lies between
    small blocks then stays, though it is used by nobody. Without effect on another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE)
        mallopt(_M_TRIM_THRESHOLD, 4 * LARGE)
        mallopt(_M_ARENA_MAX, ARENAS)
