from contextvars import ContextVar

import trio
from trio.testing import wait_all_tasks_blocked

from prism.streams.tasks import MAX_IDLE, TaskPool


async def test_tasks_are_used_again(nursery):
    pool = TaskPool(nursery)
    ran = []

    async def work(number):
        ran.append((number, trio.lowlevel.current_task()))

    for number in range(5):
        pool.start(work, number)
        await wait_all_tasks_blocked()
    assert [number for number, _ in ran] == list(range(5))
    assert len({task for _, task in ran}) == 1
    nursery.cancel_scope.cancel()


async def test_as_many_tasks_as_wait_at_a_time(nursery):
    pool = TaskPool(nursery)
    go, done = trio.Event(), []

    async def work(number):
        await go.wait()
        done.append(number)

    for number in range(2 * MAX_IDLE):
        pool.start(work, number)
    await wait_all_tasks_blocked()
    assert done == []
    go.set()
    await wait_all_tasks_blocked()
    assert sorted(done) == list(range(2 * MAX_IDLE))
    assert len(nursery.child_tasks) == MAX_IDLE
    nursery.cancel_scope.cancel()


async def test_a_scope_cancels_its_own_work_and_no_other(nursery):
    pool = TaskPool(nursery)
    ended = []

    async def work(name):
        try:
            await trio.sleep_forever()
        finally:
            ended.append(name)

    first, _second = pool.start(work, "first"), pool.start(work, "second")
    await wait_all_tasks_blocked()
    first.cancel()
    await wait_all_tasks_blocked()
    assert ended == ["first"]
    early = pool.start(work, "early")
    early.cancel()  # before it has begun
    await wait_all_tasks_blocked()
    assert ended == ["first", "early"]
    nursery.cancel_scope.cancel()


async def test_a_bug_in_work_costs_that_work_alone(nursery, caplog):
    pool = TaskPool(nursery)

    async def broken():
        raise ValueError("oops")

    done = trio.Event()

    async def good():
        done.set()

    pool.start(broken)
    pool.start(good)
    await done.wait()
    assert "bug in" in caplog.text
    assert "oops" in caplog.text
    nursery.cancel_scope.cancel()


async def test_work_has_nothing_of_the_context_of_who_has_started_some_before(nursery):
    pool, whose, found = TaskPool(nursery), ContextVar("whose", default=""), []

    async def look():
        found.append(whose.get())
        await trio.lowlevel.checkpoint()

    token = whose.set("a plugin's")
    pool.start(look)
    whose.reset(token)
    await wait_all_tasks_blocked()
    pool.start(look)
    await wait_all_tasks_blocked()
    assert found == ["", ""]
    nursery.cancel_scope.cancel()
