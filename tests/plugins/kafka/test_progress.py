import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_plugins.kafka.progress import Progress


def test_nothing_is_committed_before_the_first_is_settled() -> None:
    progress = Progress()
    for offset in (3, 4, 7):
        progress.hand_out(offset)
    assert (progress.settle(7), progress.next, progress.out_of_order) == (0, None, 1)
    assert (progress.settle(4), progress.next, progress.out_of_order) == (0, None, 2)
    assert (progress.settle(3), progress.next, progress.out_of_order) == (3, 8, 0)


@given(st.sets(st.integers(0, 100), min_size=1), st.randoms(use_true_random=False))
def test_the_lowest_offset_that_is_not_settled_is_never_passed(offsets, random) -> None:
    progress, passed = Progress(), 0
    for offset in sorted(offsets):
        progress.hand_out(offset)
    order = list(offsets)
    random.shuffle(order)
    for number, offset in enumerate(order, start=1):
        passed += progress.settle(offset)
        open_ones = set(order[number:])
        settled = {each for each in offsets if each < min(open_ones, default=101)}
        assert progress.next == (max(settled) + 1 if settled else None)
        assert passed == len(settled)
        assert progress.out_of_order == number - passed


def test_what_was_never_handed_out_cannot_be_settled() -> None:
    with pytest.raises(IndexError):
        Progress().settle(1)
