"""Whether the proxy has too much to do: by plain numbers, by a clock that jumps, by real files."""

import os
import resource
from collections import Counter

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from prism.calls.overload import (
    HIGH,
    INTERVAL,
    LAST_BY_DELAY,
    LOW,
    NORMAL,
    SAMPLES,
    STEPS,
    Overload,
    cgroup_memory,
    parse_priority,
    resident_memory,
)
from prism.config.types import SheddingConfig
from prism.contract.errors import InvalidRequest

MIB = 2**20
CONFIG = SheddingConfig(loop_lag_seconds=0.2, memory_bytes=1000 * MIB)


class Watched:
    """Time passes in looks, each of which finds the same delay and the same memory."""

    def __init__(self, config=CONFIG):
        self.said = []
        self.overload = Overload(config, self.said.append, lambda: 0.5)
        self.now = 1000.0

    def look(self, seconds, delay=0.0, memory=0):
        until = self.now + seconds
        while self.now < until:
            self.now += INTERVAL
            self.overload.take(self.now, delay, memory)
        return self.overload.step


def test_in_steps_the_lowest_first_and_back():
    one = Watched()
    assert one.look(10, 0.19) == 0
    seen = []
    for _ in range(60):
        step = one.look(INTERVAL, 0.2)
        if step not in seen:
            seen.append(step)
    assert seen == [0, 1, 2, 3, 4]  # high priority stays, however late the loop is
    assert one.look(100, 5.0) == LAST_BY_DELAY
    assert one.look(1.0, 0.0) == LAST_BY_DELAY
    assert one.look(60, 0.15) == LAST_BY_DELAY  # not relieved: it stays where it is
    assert one.look(10, 0.1) == 0
    assert one.said[:4] == [
        f"calls are refused by priority ({who}): the event loop is 0.2 s late (limit: 0.2 s)"
        for who in ("half of low", "low", "low, half of normal", "low, normal")
    ]
    assert one.said[-1] == "no calls are refused by priority any more: it has less to do"
    assert len(one.said) == 8  # once for each change


@pytest.mark.parametrize("pauses", [[3.0], [3.0, 2.0], [60.0, 3.0]])
def test_one_pause_refuses_nobody(pauses):
    one = Watched()
    one.look(5)
    for pause in pauses:
        one.look(INTERVAL, pause)
    assert one.look(20) == 0
    assert not one.said


def test_memory_at_its_limit_refuses_all():
    one = Watched()
    assert one.look(10, memory=899 * MIB) == 0
    assert one.look(30, memory=900 * MIB) == LAST_BY_DELAY
    assert one.look(1, memory=1000 * MIB) == len(STEPS) - 1
    assert one.said[-1] == (
        "calls are refused by priority (low, normal, high): it takes 1000 of 1000 MiB"
    )
    assert one.look(30, memory=950 * MIB) == LAST_BY_DELAY
    assert one.look(30, memory=860 * MIB) == LAST_BY_DELAY  # not relieved
    assert one.look(30, memory=840 * MIB) == 0


def test_what_is_refused_in_each_step():
    overload = Overload(CONFIG)
    found = []
    for overload.step in range(len(STEPS)):
        counts = Counter(
            priority
            for priority in (LOW, NORMAL, HIGH)
            for _ in range(10)
            if overload.refuses(priority)
        )
        found.append([counts[LOW], counts[NORMAL], counts[HIGH]])
    assert found == [[0, 0, 0], [5, 0, 0], [10, 0, 0], [10, 5, 0], [10, 10, 0], [10, 10, 10]]


looks = st.tuples(st.floats(0, 3), st.floats(0, 2), st.integers(0, 1100))


@given(st.lists(looks, max_size=80))
def test_whatever_comes_it_goes_one_step_at_a_time_and_back_in_the_end(steps):
    one = Watched()
    for seconds, delay, memory in steps:
        before = one.overload.step
        one.now += seconds
        one.overload.take(one.now, delay, memory * MIB)
        assert abs(one.overload.step - before) <= 1
        if one.overload.step == len(STEPS) - 1 > before:
            assert memory >= 1000
    assert len(one.said) == len(set(enumerate(one.said)))
    assert one.look(60) == 0


def test_those_who_are_refused_do_not_come_again_together():
    chances = iter([0.0, 0.5, 1.0])
    overload = Overload(CONFIG, rand=lambda: next(chances))
    assert [overload.retry_after() for _ in range(3)] == [1.0, 3.0, 5.0]


def test_another_configuration():
    one = Watched(SheddingConfig(loop_lag_seconds=None))
    assert one.look(30, 5.0) == 0
    one.overload.configure(CONFIG)
    assert one.look(30, 5.0) == LAST_BY_DELAY
    one.overload.configure(None)
    assert one.said[-1].endswith("it is not configured any more")
    assert one.look(30, 5.0) == 0


async def test_it_looks_while_it_is_configured(mock_clock, nursery):
    overload = Overload()
    looks = []

    def read_memory():
        looks.append(trio.current_time())
        return 5 * MIB

    nursery.start_soon(overload.run, read_memory)
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(10)
    await trio.testing.wait_all_tasks_blocked()
    assert not looks
    overload.configure(CONFIG)
    for _ in range(SAMPLES + 10):
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(INTERVAL + 0.5)  # the loop was busy for so long
    await trio.testing.wait_all_tasks_blocked()
    assert overload.delay == pytest.approx(0.5)
    assert (overload.memory, overload.step) == (5 * MIB, LAST_BY_DELAY)
    before = len(looks)
    overload.configure(None)
    for _ in range(5):
        mock_clock.jump(INTERVAL)
        await trio.testing.wait_all_tasks_blocked()
    assert len(looks) <= before + 1


def test_priorities():
    assert [parse_priority(word) for word in ("low", "normal", "high")] == [LOW, NORMAL, HIGH]
    for wrong in ("", "Low", "urgent", "1"):
        with pytest.raises(InvalidRequest, match="must be high, normal or low, not"):
            parse_priority(wrong)


def test_the_memory_of_this_process():
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 2 * MIB < resident_memory() <= most + MIB
    assert resident_memory("/proc/none/statm") == 0


def test_the_limit_of_a_control_group(tmp_path):
    own, root = tmp_path / "own", tmp_path / "fs"
    inner = root / "pods" / "one"
    inner.mkdir(parents=True)
    (root / "memory").mkdir()

    def limit():
        return cgroup_memory(str(root), str(own))

    assert limit() is None
    own.write_text("0::/pods/one\n")
    assert limit() is None
    (inner / "memory.max").write_text("max\n")
    assert limit() is None
    (root / "pods" / "memory.max").write_text(f"{300 * MIB}\n")
    assert limit() == 300 * MIB
    (inner / "memory.max").write_text(f"{200 * MIB}\n")
    assert limit() == 200 * MIB
    # The host's path, in a container that sees its own group alone.
    own.write_text("0::/not/here\n")
    (root / "memory.max").write_text(f"{100 * MIB}\n")
    assert limit() == 100 * MIB
    own.write_text("12:cpu:/x\n4:memory:/x\n")
    (root / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert limit() is None
    (root / "memory" / "memory.limit_in_bytes").write_text(f"{50 * MIB}\n")
    assert limit() == 50 * MIB


def test_without_a_limit_of_its_own_memory_has_that_of_the_group(caplog):
    def limit(config, of_group):
        return Overload(config, group_memory=lambda: of_group).memory_limit

    assert limit(SheddingConfig(), 1000 * MIB) == 900 * MIB
    assert limit(CONFIG, 800 * MIB) == 1000 * MIB
    assert not caplog.text
    limit(SheddingConfig(loop_lag_seconds=None), 1000 * MIB)
    assert not caplog.text
    limit(SheddingConfig(loop_lag_seconds=None), None)
    assert "shedding: nothing is looked at" in caplog.text
    overload = Overload(SheddingConfig(), group_memory=lambda: None)
    overload.take(1.0, 0.0, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    assert (overload.memory_limit, overload.step) == (None, 0)
