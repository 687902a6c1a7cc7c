"""What the allocator keeps of large blocks. In a process of its own: its settings cannot be taken
back."""

import subprocess
import sys

import pytest

PRELUDE = """
import re, resource, trio, trio.testing
from prism.process import memory

MIB = 1024 * 1024

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if not memory.reuse_large_blocks():
    raise SystemExit("not glibc")
"""


def run(script: str) -> list[int]:
    """The numbers that ``script`` prints."""
    ended = subprocess.run(
        [sys.executable, "-c", PRELUDE + script], capture_output=True, text=True, check=False
    )
    if ended.stderr.strip() == "not glibc":
        pytest.skip("another C library's allocator")
    assert not ended.stderr
    return [int(number) for number in ended.stdout.split()]


def test_the_next_body_finds_the_memory_of_those_before():
    first, next_ones = run("""
before = faults()
bytearray(MIB)
first = faults() - before
for _ in range(50):
    bytearray(MIB)
print(first, faults() - before - first)
""")
    assert first > 200  # pages of 4 KiB that the kernel gave
    assert next_ones < 100


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy with less"])
def test_what_lies_between_small_blocks_goes_back_once_it_is_unused(busy):
    before, full, freed, given_back = run(f"""
busy = {busy}

async def main():
    before = resident()
    blocks = []
    for _ in range(60):
        blocks += [bytearray(b"x" * MIB), bytes(2000)]
    full = resident()
    small = blocks[1::2]
    del blocks
    freed = resident()
    trio.lowlevel.spawn_system_task(memory.give_back_unused)
    for number in range(4):
        if busy:  # something else is used and free at each look
            small.append(bytes(100_000 * (number + 1)))
        await trio.sleep(memory.INTERVAL)
    print(before, full, freed, resident())

trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
""")
    mib = 1024 * 1024
    assert full - before > 55 * mib
    assert full - freed < 5 * mib
    assert given_back - before < 10 * mib


def test_a_steady_load_keeps_its_memory():
    (more,) = run("""
async def main():
    trio.lowlevel.spawn_system_task(memory.give_back_unused)
    bodies = []
    def serve(number):
        bodies[:] = [bytearray(MIB + number) for _ in range(4)]
    serve(0)
    serve(1)
    before = faults()
    for number in range(20):
        serve(number)
        await trio.sleep(memory.INTERVAL / 4)
    print(faults() - before)

trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
""")
    assert more < 8000  # of the 20,000 that blocks of the kernel's would cost
