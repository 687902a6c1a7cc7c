"""How this process's allocator (glibc's) treats large blocks, such as bodies.

A block that the kernel has just given costs a page fault for every 4 KiB, fifteen times what it
takes to copy as much. So blocks of up to ``LARGE`` bytes come from the heap, and the next body
finds the memory of those before it. What then lies unused between small blocks would stay for
ever, though: ``give_back_unused`` returns it to the system.
"""

import ctypes

import trio

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

LARGE = 4 * 1024 * 1024
"""Bytes from which a block is the kernel's own, and goes back to it when it is freed: four times
the largest body, where the configuration allows no larger ones."""
KEPT = 64 * 1024 * 1024
"""Bytes unused at the heap's end that are given back at once."""
ARENAS = 2
"""Heaps that threads share; each keeps what it has once needed."""
INTERVAL = 5.0
"""Seconds between two looks at what is unused."""
PLENTY = 16 * 1024 * 1024
"""Bytes that are not kept for bodies if these have left them free for so long."""


class _Usage(ctypes.Structure):
    """glibc's ``struct mallinfo2``: bytes, and numbers of blocks."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks")),
        ("keepcost", ctypes.c_size_t),
    )


def reuse_large_blocks() -> bool:
    """Have the allocator keep the memory of bodies for those that follow. Returns whether
    ``give_back_unused`` must run then; on another C library than glibc 2.33 and later, blocks go
    back to the system as that sees fit."""
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is None:
        return False
    mallopt(_M_ARENA_MAX, ARENAS)
    keep = hasattr(libc, "malloc_trim") and hasattr(libc, "mallinfo2")
    mallopt(_M_MMAP_THRESHOLD, LARGE if keep else LARGE // 16)
    mallopt(_M_TRIM_THRESHOLD, KEPT if keep else LARGE // 4)
    return keep


async def give_back_unused() -> None:
    """Return to the system the pages that nothing lies in; for ever, with a look every
    ``INTERVAL`` seconds.

    They are given back once there is nothing to do, or once ``PLENTY`` were free at two looks
    running; what a steady load frees and takes again is left alone. Giving back a hundred
    megabytes takes some 20 ms.
    """
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Usage
    before, done, free_before = (0, 0), (0, 0), 0
    while True:
        await trio.sleep(INTERVAL)
        usage = libc.mallinfo2()
        now = (usage.arena, usage.fordblks)
        if now != done and (now == before or min(free_before, usage.fordblks) > PLENTY):
            libc.malloc_trim(ctypes.c_size_t(0))
            usage = libc.mallinfo2()
            now = done = (usage.arena, usage.fordblks)
        before, free_before = now, usage.fordblks
