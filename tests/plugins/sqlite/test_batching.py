import threading

import anyio
import pytest
import trio

from prism_plugins.sqlite.batching import MAX_BATCH, Batcher
from prism_plugins.sqlite.job import Job


class Gate:
    """Stands in for the database: holds each batch until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[Job]] = []
        self.open = threading.Semaphore(0)
        self.runs = MAX_BATCH  # at most so many of a batch
        self.batcher = Batcher(self.run_batch, anyio.CapacityLimiter(1))

    def run_batch(self, jobs: list[Job]) -> int:
        self.batches.append(jobs)
        assert self.open.acquire(timeout=5)
        for job in jobs[: self.runs]:
            job.run(None)
        return min(len(jobs), self.runs)

    async def began(self, batches: int) -> None:
        while len(self.batches) < batches:
            await trio.lowlevel.checkpoint()

    @property
    def names(self) -> list[list[str]]:
        return [[job.name for job in batch] for batch in self.batches]


class NamedJob(Job):
    def __init__(self, name: str) -> None:
        super().__init__(lambda _: name)
        self.name = name


@pytest.fixture
async def gate() -> Gate:
    return Gate()


async def run(gate: Gate, name: str, done: list[str]) -> None:
    job = NamedJob(name)
    await gate.batcher.run(job)
    done.append(job.outcome())


async def begin(nursery: trio.Nursery, gate: Gate, name: str, done: list[str]) -> None:
    nursery.start_soon(run, gate, name, done)
    await trio.testing.wait_all_tasks_blocked()


async def test_what_arrives_meanwhile_forms_the_next_batch(gate) -> None:
    done: list[str] = []
    async with trio.open_nursery() as nursery:
        for name in "abcd":
            await begin(nursery, gate, name, done)
        await gate.began(1)
        assert gate.names == [["a"]]
        gate.open.release(2)
    assert gate.names == [["a"], ["b", "c", "d"]]
    assert sorted(done) == ["a", "b", "c", "d"]


async def test_a_batch_is_bounded(gate) -> None:
    gate.open.release(10)
    done: list[str] = []
    async with trio.open_nursery() as nursery:
        for number in range(MAX_BATCH * 2):
            nursery.start_soon(run, gate, str(number), done)
    assert len(done) == MAX_BATCH * 2
    assert max(map(len, gate.names)) == MAX_BATCH


async def test_the_rest_of_a_batch_that_ended_early_is_first_in_the_next(gate) -> None:
    gate.runs = 2
    done: list[str] = []
    async with trio.open_nursery() as nursery:
        for name in "abcde":
            await begin(nursery, gate, name, done)
        gate.open.release(1)
        await gate.began(2)
        await begin(nursery, gate, "f", done)
        gate.open.release(3)
    assert gate.names == [["a"], ["b", "c", "d", "e"], ["d", "e", "f"], ["f"]]
    assert sorted(done) == ["a", "b", "c", "d", "e", "f"]


async def test_who_is_cancelled_meanwhile_is_not_in_the_rest(gate) -> None:
    gate.runs = 1
    done: list[str] = []
    async with trio.open_nursery() as nursery:
        await begin(nursery, gate, "a", done)
        await begin(nursery, gate, "b", done)
        async with trio.open_nursery() as gone:
            await begin(gone, gate, "gone", done)
            await begin(nursery, gate, "last", done)
            gate.open.release(1)
            await gate.began(2)
            gone.cancel_scope.cancel()
        gate.open.release(2)
    assert gate.names == [["a"], ["b", "gone", "last"], ["last"]]
    assert done == ["a", "b", "last"]


async def test_a_cancelled_leader_does_its_duty(gate) -> None:
    done: list[str] = []
    async with trio.open_nursery() as nursery, trio.open_nursery() as leader:
        await begin(leader, gate, "leader", done)
        await begin(nursery, gate, "follower", done)
        leader.cancel_scope.cancel()
        gate.open.release(2)
    assert gate.names == [["leader"], ["follower"]]
    assert "follower" in done


async def test_a_cancelled_leader_leaves_the_rest_of_its_batch_to_the_next(gate) -> None:
    gate.runs = 1
    done: list[str] = []
    async with trio.open_nursery() as nursery:
        await begin(nursery, gate, "a", done)
        async with trio.open_nursery() as leader:
            await begin(leader, gate, "leader", done)
            await begin(nursery, gate, "last", done)
            gate.open.release(1)
            await gate.began(2)
            leader.cancel_scope.cancel()
            gate.open.release(2)
    assert gate.names == [["a"], ["leader", "last"], ["last"]]
    assert "last" in done


async def test_a_cancelled_follower_never_runs(gate) -> None:
    done: list[str] = []
    async with trio.open_nursery() as nursery:
        await begin(nursery, gate, "leader", done)
        async with trio.open_nursery() as gone:
            await begin(gone, gate, "gone", done)
            gone.cancel_scope.cancel()
        await begin(nursery, gate, "next", done)
        gate.open.release(2)
    assert gate.names == [["leader"], ["next"]]


async def test_a_follower_cancelled_while_it_runs_leaves_at_once(gate) -> None:
    done: list[str] = []
    async with trio.open_nursery() as nursery:
        await begin(nursery, gate, "first", done)
        await begin(nursery, gate, "second", done)
        async with trio.open_nursery() as gone:
            await begin(gone, gate, "gone", done)
            gate.open.release(1)
            await gate.began(2)
            gone.cancel_scope.cancel()
        gate.open.release(1)
    assert gate.names == [["first"], ["second", "gone"]]
    assert gate.batches[1][1].cancelled
    assert sorted(done) == ["first", "second"]


async def test_cancelled_before_it_began(gate) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await gate.batcher.run(NamedJob("never"))
    assert gate.batches == []


async def test_the_next_leader_is_cancelled_in_the_moment_it_is_named(gate) -> None:
    done: list[str] = []
    async with trio.open_nursery() as nursery, trio.open_nursery() as named:
        await begin(nursery, gate, "first", done)
        await begin(named, gate, "named", done)
        await begin(nursery, gate, "other", done)
        named.cancel_scope.cancel()
        gate.open.release(3)
    assert min(done) == "first"
    assert "other" in done


def test_leadership_survives_cancellation_under_asyncio() -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.open.release(1000)
        done: list[str] = []
        gone: list[str] = []
        for round_ in range(50):
            async with (
                anyio.create_task_group() as group,
                anyio.create_task_group() as cancelled,
            ):
                for number in range(4):
                    cancelled.start_soon(run, gate, f"{round_}.{number}", gone)
                    group.start_soon(run, gate, f"{round_}", done)
                for _ in range(round_ % 7):
                    await anyio.lowlevel.checkpoint()
                cancelled.cancel_scope.cancel()
        assert len(done) == 200

    anyio.run(scenario, backend="asyncio")
