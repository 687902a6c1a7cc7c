import pytest

from prism.calls.memory import Account, Hold, Memory
from prism.contract.errors import MemoryFull


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
