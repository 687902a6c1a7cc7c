import tracemalloc

import pytest
import trio

from prism.calls.request import CallRecord
from prism.calls.trace import new_trace
from prism.contract.errors import CallCancelled, PayloadTooLarge, RequestTimeout
from prism.frontends.body_params import IDLE_SECONDS, BodyParams


def params(chunks, pause=0.0, declared=None, deadline=1e9):
    """A body whose chunks come ``pause`` seconds apart; None means the client goes away."""
    left = list(chunks)

    async def receive():
        await trio.sleep(pause)
        chunk = left.pop(0)
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    return BodyParams(
        receive, declared, deadline, CallRecord(trio.current_time(), "id", new_trace())
    )


async def test_whole(autojump_clock):
    assert await params([b"abc"]).read(3) == b"abc"
    assert await params([b"a", b"", b"bc", b""]).read(3) == b"abc"


async def test_slow_but_never_pausing_too_long(autojump_clock):
    assert await params([b"x"] * 9, pause=IDLE_SECONDS - 1).read(9) == b"x" * 9


async def test_a_pause_too_long(autojump_clock):
    began = trio.current_time()
    with pytest.raises(RequestTimeout):
        await params([b"x"], pause=IDLE_SECONDS + 1).read(9)
    assert trio.current_time() - began == pytest.approx(IDLE_SECONDS)


async def test_the_calls_deadline_is_left_to_the_policy(autojump_clock):
    late = params([b"x"], pause=IDLE_SECONDS + 1, deadline=trio.current_time() + 10)
    assert await late.read(9) == b"x"


@pytest.mark.parametrize(("chunks", "declared"), [([b"x"] * 4, None), ([], 4)])
async def test_too_large(chunks, declared):
    with pytest.raises(PayloadTooLarge):
        await params(chunks, declared=declared).read(3)


async def test_client_goes_away():
    with pytest.raises(CallCancelled):
        await params([b"x", None]).read(3)


async def test_a_body_in_tiny_pieces_takes_no_more_memory_than_its_size():
    size = 100_000
    left = size // 2

    async def receive():
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": b"%02d" % (left % 100), "more_body": bool(left)}

    deadline = trio.current_time() + 10
    body = BodyParams(receive, None, deadline, CallRecord(trio.current_time(), "id", new_trace()))
    tracemalloc.start()
    try:
        assert len(await body.read(size)) == size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * size
