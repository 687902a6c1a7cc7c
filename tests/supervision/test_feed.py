import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from prism.supervision.feed import Feed, Lost


def test_the_last_items_are_kept():
    feed = Feed(kept=3)
    for number in range(5):
        feed.publish(number)
    assert feed.recent() == [2, 3, 4]
    assert feed.recent(2) == [3, 4]
    assert feed.recent(0) == []


async def test_a_follower_gets_what_was_and_what_comes(autojump_clock):
    feed = Feed(kept=3)
    feed.publish("old")
    feed.publish("last")
    got = []
    async with trio.open_nursery() as nursery:

        async def follow():
            with feed.follow(recent=1) as follower:
                while True:
                    got.append(await anext(follower))

        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        feed.publish("new")
        await trio.testing.wait_all_tasks_blocked()
        assert got == ["last", "new"]
        nursery.cancel_scope.cancel()
    feed.publish("nobody follows")


@given(st.integers(1, 8), st.integers(0, 40))
def test_who_does_not_read_loses_the_oldest_and_is_told_how_many(unread, published):
    async def main():
        feed = Feed(kept=1)
        with feed.follow(unread=unread) as slow, feed.follow(unread=100) as quick:
            for number in range(published):
                feed.publish(number)
            lost = max(0, published - unread)
            expected = [Lost(lost)] if lost else []
            expected += list(range(lost, published))
            assert [await anext(slow) for _ in expected] == expected
            assert [await anext(quick) for _ in range(published)] == list(range(published))

    trio.run(main)
