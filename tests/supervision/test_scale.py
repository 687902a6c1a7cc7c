"""Many namespaces: how long they take to start, and what each costs while nothing happens."""

import gc
import time
import tracemalloc

import pytest
import trio
from supervised_plugin import supervised

NAMESPACES = 200
MAX_BYTES = 2_000_000
"""Of memory, for one idle namespace."""


@pytest.mark.slow
async def test_two_hundred_namespaces(in_process):
    specs = [in_process(namespace=f"ns-{number}") for number in range(NAMESPACES)]
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        began = time.monotonic()
        async with supervised(*specs) as supervisor:
            took = time.monotonic() - began
            assert all(slot.current is not None for slot in supervisor.slots.values())
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
            used = time.process_time()
            await trio.sleep(1)
            busy = time.process_time() - used
    finally:
        tracemalloc.stop()
    each = (after - before) / NAMESPACES
    print(f"{took:.2f} s to start, {each:.0f} bytes each, {busy:.3f} s of CPU in an idle second")
    assert took < 10
    assert each < MAX_BYTES
    assert busy < 0.2
