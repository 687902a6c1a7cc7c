import tracemalloc

from prism.wire.parts import SMALL, Parts


def test_they_are_joined_in_order():
    parts, whole = Parts(), b""
    for size in (1, 0, SMALL + 1, 3, SMALL, 2 * SMALL, 100_000, 70_000, 1):
        part = bytes([size % 251]) * size
        parts.add(part)
        whole += part
        assert parts.size == len(whole)
    assert parts.take() == whole
    assert parts.size == 0
    assert parts.take() == b""


def test_one_alone_is_not_copied():
    part = bytes(100_000)
    parts = Parts()
    parts.add(part)
    assert parts.take() is part


def test_tiny_ones_take_little_more_memory_than_their_size():
    parts = Parts()
    tracemalloc.start()
    try:
        for number in range(100_000):
            parts.add(b"%02d" % (number % 100))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert parts.size == 200_000
    assert peak < 400_000
