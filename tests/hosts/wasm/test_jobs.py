"""How calls come to guests and back: one that is alone is waited for, if such are quick."""

import logging
import threading
from functools import partial

import pytest
import trio
import trio.testing

from prism.contract.errors import PluginError
from prism.hosts.wasm import jobs
from prism.hosts.wasm.guest import Guest
from prism.hosts.wasm.jobs import PATIENCE, RETRY, Job, Pool
from prism.hosts.wasm.services import Grants, Services
from tests.hosts.wasm.conftest import LIMIT, wait_until


class Waiting(Guest):
    """A guest that runs until the test lets it go on."""

    def __init__(self):
        self.go_on = threading.Semaphore(0)
        self.is_there_now = False

    def interrupt(self):
        self.go_on.release()

    @property
    def is_there(self):
        return self.is_there_now

    def start(self, settings):
        self.is_there_now = True
        return settings

    def call(self, entry, operation, params):
        if operation == "wait":
            assert self.go_on.acquire(timeout=LIMIT)
        return params.encode()

    def discard(self):
        self.is_there_now = False


@pytest.fixture
def guests():
    return []


@pytest.fixture
async def pool(guests, monkeypatch):
    monkeypatch.setattr(jobs, "WAIT", LIMIT)  # a thread may come late on a busy machine

    def make():
        guests.append(Waiting())
        return guests[-1]

    pool = Pool(2, make, b"{}", Services(Grants(), logging.getLogger("test")))
    yield pool
    pool.close()


def quick():
    return Job("execute", bytes.decode, "quick", '"a"')


async def test_a_call_that_is_alone_is_settled_when_it_returns(pool):
    for _ in range(3):
        job = quick()
        assert pool.execute(job)
        assert job.result() == '"a"'
    assert pool.instances == 1


async def test_a_guest_that_cannot_be_made_fails_its_call_alone(pool, monkeypatch, caplog):
    make, failures = pool._make, [MemoryError("no room"), MemoryError("no room")]

    def sometimes():
        if failures:
            raise failures.pop()
        return make()

    monkeypatch.setattr(pool, "_make", sometimes)
    monkeypatch.setattr(jobs, "WAIT", 1)
    for _ in range(2):
        job = quick()
        pool.execute(job)
        with trio.fail_after(LIMIT):
            await job.wait()
        with pytest.raises(PluginError, match="could not make an instance"):
            job.result()
    assert caplog.messages == ["an instance cannot be made: no room"] * 2
    monkeypatch.setattr(jobs, "WAIT", LIMIT)
    job = quick()
    assert pool.execute(job)
    assert job.result() == '"a"'


async def test_one_that_takes_longer_is_told_later_and_once(pool, guests, monkeypatch):
    assert pool.execute(quick())
    monkeypatch.setattr(jobs, "WAIT", 0.001)
    job, told = Job("execute", bytes.decode, "wait", "1"), []
    assert not pool.execute(job)
    job.when_settled(lambda: told.append(job.result()))
    guests[0].go_on.release()
    await wait_until(lambda: told)
    await trio.testing.wait_all_tasks_blocked()
    assert told == ["1"]


async def test_slow_calls_are_no_longer_waited_for_until_one_is_tried_again(
    pool, guests, monkeypatch
):
    assert pool.execute(quick())
    monkeypatch.setattr(jobs, "WAIT", 0.001)
    while not pool._impatient:
        job = Job("execute", bytes.decode, "wait", "1")
        assert not pool.execute(job)
        guests[0].go_on.release()
        await job.wait()
        await wait_until(lambda: pool.busy == 0)
    monkeypatch.setattr(jobs, "WAIT", LIMIT)
    for _ in range(RETRY):
        job = quick()
        assert not pool.execute(job)
        await job.wait()
    await wait_until(lambda: pool.busy == 0)
    assert pool.execute(quick())
    assert 0 < pool._patience <= PATIENCE


async def test_nothing_is_waited_for_beside_another_call(pool, guests):
    waiting, beside = Job("execute", bytes.decode, "wait", "1"), quick()
    pool.submit(waiting)
    await wait_until(lambda: pool.busy == 1)
    assert not pool.execute(beside)
    await beside.wait()
    assert pool.instances == 2
    guests[0].go_on.release()
    await waiting.wait()


async def test_what_comes_at_the_moment_of_giving_up_is_neither_lost_nor_told_twice(
    pool, monkeypatch
):
    monkeypatch.setattr(jobs, "WAIT", 0.00002)  # about as long as it takes
    for _ in range(300):
        job, told = quick(), []
        pool._impatient = 0
        pool.execute(job)
        job.when_settled(partial(told.append, 1))
        await wait_until(lambda told=told: told)
        assert job.result() == '"a"'
        assert told == [1]
