"""What answers that a client does not take cost: counted, bounded, and given back."""

import gc
import sys

import h2.events
import pytest
import trio
from h2.errors import ErrorCodes

from prism.calls.memory import MIB, OVERHEAD, Memory
from prism.server.http2.stream import HTTP2Exchange

SIZE = 300_000


@pytest.fixture
def open_client(start_server, h2_client, codec_name):
    """``open_client(memory)``: a client whose windows are shut, of a server that answers with
    ``SIZE`` bytes, and the paths asked for that were begun."""

    async def open_client(memory):
        begun = []

        async def app(scope, receive, send):
            begun.append(scope["path"])
            head = [(b"content-length", b"%d" % SIZE)]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            await send({"type": "http.response.body", "body": bytes(SIZE)})

        server = await start_server(app, memory=memory, http2_codec=codec_name)
        return h2_client(await server.connect(), window=0), begun

    return open_client


async def open_window(client, stream_ids):
    client.h2.increment_flow_control_window(100 * SIZE)
    for stream_id in stream_ids:
        client.h2.increment_flow_control_window(SIZE, stream_id)
    await client.flush()


async def test_no_request_is_begun_while_answers_are_not_taken(open_client):
    memory = Memory()
    client, begun = await open_client(memory)
    first = [await client.request(path=f"/{number}") for number in range(4)]
    for stream_id in first:
        await client.wait_for(h2.events.ResponseReceived, stream_id)
    assert memory.answers.used == 4 * (SIZE + OVERHEAD) > MIB
    waiting = [await client.request(path=f"/{number}") for number in range(4, 9)]
    client.h2.ping(b"12345678")
    await client.flush()
    await client.wait_for(h2.events.PingAckReceived)
    assert len(begun) == 4
    await open_window(client, first)
    for stream_id in first:
        assert (await client.response(stream_id))[0] == 200
    for stream_id in waiting:
        await client.wait_for(h2.events.ResponseReceived, stream_id)
    await open_window(client, waiting)
    for stream_id in waiting:
        assert len((await client.response(stream_id))[1]) == SIZE
    assert len(begun) == 9
    assert memory.answers.used == 0


async def test_a_stream_is_reset_whose_answer_there_is_no_room_for(open_client):
    memory = Memory(connection_answers=2 * SIZE + 3 * OVERHEAD)
    client, _ = await open_client(memory)
    for number in range(3):
        await client.request(path=f"/{number}")
    reset = await client.wait_for(h2.events.StreamReset)
    assert reset.error_code == ErrorCodes.ENHANCE_YOUR_CALM
    assert memory.answers.used == 2 * (SIZE + OVERHEAD)
    others = {1, 3, 5} - {reset.stream_id}
    await open_window(client, others)
    for stream_id in others:
        assert len((await client.response(stream_id))[1]) == SIZE
    assert memory.answers.used == 0


async def test_what_a_client_holds_is_free_when_it_leaves(open_client):
    memory = Memory()
    client, _ = await open_client(memory)
    await client.wait_for(h2.events.ResponseReceived, await client.request())
    assert memory.answers.used > SIZE
    await client.stream.aclose()
    while memory.answers.used:
        freed = trio.Event()
        memory.answers.waiting.append(freed.set)
        await freed.wait()


async def test_answers_that_nobody_takes_give_way_to_others(open_client, monkeypatch):
    monkeypatch.setattr(sys.modules["prism.server.serve"], "GRACE", 0.0)
    memory = Memory(answers=SIZE + 2 * OVERHEAD)
    idle, _ = await open_client(memory)
    taken = await idle.request()
    await idle.wait_for(h2.events.ResponseReceived, taken)
    second = await idle.request()
    await idle.wait_for(h2.events.ResponseReceived, second)
    reset = await idle.wait_for(h2.events.StreamReset)
    assert (reset.stream_id, reset.error_code) == (taken, ErrorCodes.ENHANCE_YOUR_CALM)
    await open_window(idle, [second])
    assert len((await idle.response(second))[1]) == SIZE


def exchanges() -> int:
    """How many there are in this process."""
    gc.collect()
    return sum(type(each) is HTTP2Exchange for each in gc.get_objects())


async def test_requests_that_wait_and_are_reset_are_forgotten(open_client):
    before = exchanges()
    client, begun = await open_client(Memory())
    for number in range(4):
        await client.wait_for(h2.events.ResponseReceived, await client.request(path=f"/{number}"))
    for _ in range(50):
        client.h2.reset_stream(await client.request(path="/waits"))
    client.h2.ping(b"12345678")
    await client.flush()
    await client.wait_for(h2.events.PingAckReceived)
    assert len(begun) == 4
    assert exchanges() <= before + 4


async def test_requests_that_wait_are_answered_when_the_server_stops(
    start_server, h2_client, codec_name
):
    async def app(scope, receive, send):
        await trio.lowlevel.checkpoint()
        head = [(b"content-length", b"%d" % SIZE)]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": bytes(SIZE)})

    server = await start_server(app, graceful_timeout=0.1, http2_codec=codec_name)
    client = h2_client(await server.connect(), window=0)
    for number in range(4):
        await client.wait_for(h2.events.ResponseReceived, await client.request(path=f"/{number}"))
    waits = await client.request(path="/waits")
    client.h2.ping(b"12345678")
    await client.flush()
    await client.wait_for(h2.events.PingAckReceived)
    server.shutdown.set()
    answer = await client.wait_for(h2.events.ResponseReceived, waits)
    assert dict(answer.headers)[b":status"] == b"503"
