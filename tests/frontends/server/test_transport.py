import os

import pytest
import trio

from prism.frontends.server import transport


@pytest.fixture
async def pair():
    ours, theirs = (trio.SocketStream(sock) for sock in trio.socket.socketpair())
    async with ours, theirs:
        yield ours, theirs


async def test_more_than_the_kernel_takes_at_once_arrives_whole(pair):
    ours, theirs = pair
    data = os.urandom(3_000_000)
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send, ours, data, 5.0)
        while len(received) < len(data):
            received += await transport.receive(theirs)
    assert received == data


async def test_a_small_send_gives_nobody_else_a_turn(pair):
    ours, _ = pair
    turns = []

    async def other():
        turns.append("other")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await transport.send(ours, b"small", 5.0)
        assert turns == []


async def test_a_peer_that_takes_nothing_is_too_slow(pair):
    ours, _ = pair
    with pytest.raises(trio.TooSlowError):
        await transport.send(ours, bytes(10_000_000), 0.05)


async def test_the_end_and_a_peer_that_is_gone(pair):
    ours, theirs = pair
    await theirs.send_all(b"last")
    await theirs.aclose()
    assert await transport.receive(ours) == b"last"
    assert await transport.receive(ours) == b""
    with pytest.raises(transport.GONE):
        await transport.send(ours, bytes(1_000_000), 5.0)


@pytest.mark.parametrize(
    "act", [transport.receive, lambda stream: transport.send(stream, b"x", 5.0)]
)
async def test_a_stream_that_was_closed_here(pair, act):
    ours, _ = pair
    await ours.aclose()
    with pytest.raises(transport.GONE):
        await act(ours)


async def test_closing_ends_a_receive_that_waits(pair):
    ours, _ = pair
    async with trio.open_nursery() as nursery:

        async def wait():
            with pytest.raises(transport.GONE):
                await transport.receive(ours)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await ours.aclose()


async def test_a_cancelled_receive_loses_nothing(pair):
    ours, theirs = pair
    with trio.move_on_after(0) as scope:
        await transport.receive(ours)
    assert scope.cancelled_caught
    await theirs.send_all(b"kept")
    assert await transport.receive(ours) == b"kept"


async def test_streams_of_other_kinds():
    ours, theirs = trio.testing.memory_stream_pair()
    await transport.send(ours, b"through memory", 5.0)
    assert await transport.receive(theirs) == b"through memory"
