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
        nursery.start_soon(transport.Sender(ours, 5.0).send, data)
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
        await transport.Sender(ours, 5.0).send(b"small")
        assert turns == []


async def test_a_peer_that_takes_nothing_is_too_slow(pair):
    ours, _ = pair
    with pytest.raises(trio.TooSlowError):
        await transport.Sender(ours, 0.05).send(bytes(10_000_000))


async def test_the_end_and_a_peer_that_is_gone(pair):
    ours, theirs = pair
    await theirs.send_all(b"last")
    await theirs.aclose()
    assert await transport.receive(ours) == b"last"
    assert await transport.receive(ours) == b""
    with pytest.raises(transport.GONE):
        await transport.Sender(ours, 5.0).send(bytes(1_000_000))


@pytest.mark.parametrize(
    "act", [transport.receive, lambda stream: transport.Sender(stream, 5.0).send(b"x")]
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


async def test_what_a_cancelled_send_leaves_goes_before_what_comes_next(pair):
    ours, theirs = pair
    sender = transport.Sender(ours, 5.0)
    first, second = os.urandom(3_000_000), os.urandom(100_000)
    with trio.move_on_after(0.05):
        await sender.send(first)
    assert sender.unsent
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, second)
        while len(received) < len(first) + len(second):
            received += await transport.receive(theirs)
    assert received == first + second
    assert not sender.unsent


async def test_a_send_in_a_cancelled_scope_keeps_its_place():
    ours, theirs = trio.testing.memory_stream_pair()
    sender = transport.Sender(ours, 5.0)
    with trio.CancelScope() as scope:
        scope.cancel()
        await sender.send(b"one ")
    await sender.send(b"two")
    assert await transport.receive(theirs) == b"one two"


async def test_what_two_tasks_send_is_not_mixed(pair):
    ours, theirs = pair
    sender = transport.Sender(ours, 5.0)
    received = bytearray()
    async with trio.open_nursery() as nursery:
        for letter in b"ab":
            nursery.start_soon(sender.send, bytes([letter]) * 1_000_000)
        while len(received) < 2_000_000:
            received += await transport.receive(theirs)
    assert received.strip(b"a").strip(b"b") == b""


async def test_streams_of_other_kinds():
    ours, theirs = trio.testing.memory_stream_pair()
    await transport.Sender(ours, 5.0).send(b"through memory")
    assert await transport.receive(theirs) == b"through memory"
