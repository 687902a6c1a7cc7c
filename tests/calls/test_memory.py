import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from prism.calls.memory import GRACE, Account, AnswerHold, Hold, Memory
from prism.contract.errors import AnswerDropped, MemoryFull


def test_each_account_counts_and_forgets():
    proxy, namespace, connection = (Account(name, 100) for name in ("proxy", "kv", "one"))
    hold = Hold(namespace, proxy, connection, None)
    hold.resize(60)
    hold.resize(40)
    assert [account.used for account in (proxy, namespace, connection)] == [40, 40, 40]
    hold.release()
    hold.release()
    assert [account.used for account in (proxy, namespace, connection)] == [0, 0, 0]


def test_what_does_not_fit_changes_nothing():
    proxy, namespace = Account("all requests", 100), Account("those of kv", 1000)
    first, second = Hold(namespace, proxy), Hold(namespace, proxy)
    first.resize(60)
    second.resize(30)
    with pytest.raises(MemoryFull, match="all requests take 100 bytes already"):
        second.resize(41)
    assert (first.size, second.size, proxy.used, namespace.used) == (60, 30, 90, 90)
    assert (proxy.refused, namespace.refused) == (1, 0)
    second.resize(40)


def test_what_is_alone_fits():
    account = Account("all", 100)
    hold = Hold(account)
    hold.resize(5000)
    hold.resize(9000)
    with pytest.raises(MemoryFull):
        Hold(account).resize(1)


def test_before_one_is_refused_others_may_give_way():
    proxy = Account("all", 100)
    namespace = Account("kv", 50, proxy)
    old = Hold(namespace, proxy)
    old.resize(40)
    asked = []

    def give_way():
        asked.append(True)
        old.release()

    proxy.reclaim = give_way
    Hold(namespace, proxy).resize(20)
    assert (asked, namespace.used, proxy.used) == ([True], 20, 20)


def test_a_connection_has_its_share_of_the_proxys():
    memory = Memory(connection_requests=1000, connection_answers=2000)
    one, other = memory.for_connection(), memory.for_connection()
    assert (one.requests.limit, one.answers.limit) == (1000, 2000)
    assert one.requests is not other.requests
    assert one.requests.parent is other.requests.parent is memory.requests
    assert one.answers.parent is memory.answers
    assert one.streams is not one.answers
    assert (one.streams.limit, one.streams.parent) == (2000, memory.answers)


def test_an_answer_without_room_is_dropped():
    account = Account("all answers", 100)
    Hold(account).resize(60)
    with pytest.raises(AnswerDropped, match=r"50 bytes.*all answers take 100 bytes already"):
        AnswerHold(account).resize(50)
    assert account.used == 60


async def test_those_who_wait_for_room_have_none_and_get_it_in_turn(autojump_clock):
    proxy = Account("proxy", 100)
    namespace = Account("kv", 80, proxy)
    first = Hold(namespace, proxy)
    first.resize(80)
    holds = [Hold(namespace, proxy) for _ in range(4)]
    came = []

    async def wait(number):
        await holds[number].wait_room(30)
        came.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(wait, number)
            await wait_all_tasks_blocked()
        assert namespace.used == 80
        first.resize(20)  # two fit, and the first of them tells the second
        await wait_all_tasks_blocked()
        assert (came, namespace.used, proxy.used) == ([0, 1], 80, 80)
        holds[0].release()
        await wait_all_tasks_blocked()
        assert came == [0, 1, 2]
        holds[1].release()
    assert came == [0, 1, 2, 3]
    for hold in (first, *holds):
        hold.release()
    assert (namespace.used, proxy.used, len(namespace.waiting)) == (0, 0, 0)


async def test_one_who_is_told_of_room_and_leaves_tells_the_next():
    account = Account("all", 100)
    first, second, third = (Hold(account) for _ in range(3))
    first.resize(100)
    left = trio.CancelScope()

    async def leave():
        with left:
            await second.wait_room(60)
        second.release()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await wait_all_tasks_blocked()
        nursery.start_soon(third.wait_room, 60)
        await wait_all_tasks_blocked()
        first.release()
        left.cancel()
    assert (second.size, third.size) == (0, 60)


async def test_while_one_waits_those_that_do_not_get_on_give_way(autojump_clock):
    account = Account("all", 100)
    stalled, waiting = Hold(account), Hold(account)
    stalled.resize(100)
    asked = []

    def reclaim():
        asked.append(trio.current_time())
        if len(asked) == 2:
            stalled.release()

    account.reclaim = reclaim
    began = trio.current_time()
    await waiting.wait_room(60)
    assert [time - began for time in asked] == pytest.approx([0, GRACE])
    assert account.used == 60
