import math

import trio

from prism.sdk import Call


async def test_time_left(autojump_clock) -> None:
    call = Call("get", "ns", {}, binary=False)
    assert call.time_left() == math.inf
    with trio.move_on_after(5):
        await trio.sleep(2)
        assert call.time_left() == 3


async def test_a_single_call_has_no_further_messages() -> None:
    call = Call("get", "ns", {}, binary=False)
    assert [one async for one in call.messages(int)] == []
