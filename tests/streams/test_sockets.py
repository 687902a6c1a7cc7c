import os

import pytest
import trio

from prism.streams.sockets import Sender, receive

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


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
        nursery.start_soon(Sender(ours, 5.0).send, data)
        while len(received) < len(data):
            received += await receive(theirs, 65536)
    assert received == data


async def test_a_small_send_gives_nobody_else_a_turn(pair):
    ours, _ = pair
    turns = []

    async def other():
        turns.append("other")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await Sender(ours, 5.0).send(b"small")
        assert turns == []


async def test_a_peer_that_takes_nothing_is_too_slow(pair):
    ours, _ = pair
    with pytest.raises(trio.TooSlowError):
        await Sender(ours, 0.05).send(bytes(10_000_000))


async def test_the_end_and_a_peer_that_is_gone(pair):
    ours, theirs = pair
    await theirs.send_all(b"last")
    await theirs.aclose()
    assert await receive(ours, 65536) == b"last"
    assert await receive(ours, 65536) == b""
    with pytest.raises(GONE):
        await Sender(ours, 5.0).send(bytes(1_000_000))


@pytest.mark.parametrize(
    "act", [lambda stream: receive(stream, 1), lambda stream: Sender(stream, 5.0).send(b"x")]
)
async def test_a_stream_that_was_closed_here(pair, act):
    ours, _ = pair
    await ours.aclose()
    with pytest.raises(GONE):
        await act(ours)


async def test_closing_ends_a_receive_that_waits(pair):
    ours, _ = pair
    async with trio.open_nursery() as nursery:

        async def wait():
            with pytest.raises(GONE):
                await receive(ours, 65536)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await ours.aclose()


async def test_a_cancelled_receive_loses_nothing(pair):
    ours, theirs = pair
    with trio.move_on_after(0) as scope:
        await receive(ours, 65536)
    assert scope.cancelled_caught
    await theirs.send_all(b"kept")
    assert await receive(ours, 65536) == b"kept"


async def test_what_a_cancelled_send_leaves_goes_before_what_comes_next(pair):
    ours, theirs = pair
    sender = Sender(ours, 5.0)
    first, second = os.urandom(3_000_000), os.urandom(100_000)
    with trio.move_on_after(0.05):
        await sender.send(first)
    assert sender.unsent
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, second)
        while len(received) < len(first) + len(second):
            received += await receive(theirs, 65536)
    assert received == first + second
    assert not sender.unsent


async def test_a_send_in_a_cancelled_scope_keeps_its_place():
    ours, theirs = trio.testing.memory_stream_pair()
    sender = Sender(ours, 5.0)
    with trio.CancelScope() as scope:
        scope.cancel()
        await sender.send(b"one ")
    await sender.send(b"two")
    assert await receive(theirs, 65536) == b"one two"


async def test_what_two_tasks_send_is_not_mixed(pair):
    ours, theirs = pair
    sender = Sender(ours, 5.0)
    received = bytearray()
    async with trio.open_nursery() as nursery:
        for letter in b"ab":
            nursery.start_soon(sender.send, bytes([letter]) * 1_000_000)
        while len(received) < 2_000_000:
            received += await receive(theirs, 65536)
    assert received.strip(b"a").strip(b"b") == b""


async def test_streams_of_other_kinds():
    ours, theirs = trio.testing.memory_stream_pair()
    await Sender(ours, 5.0).send(b"through memory")
    assert await receive(theirs, 65536) == b"through memory"


async def test_what_cannot_be_sent_now_is_left(pair):
    ours, theirs = pair
    sender = Sender(ours, 5.0)
    assert sender.send_now(b"small ")
    assert not sender.send_now(bytes(3_000_000))
    assert not sender.send_now(b"behind")
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, b" it")
        while len(received) < 3_000_015:
            received += await receive(theirs, 65536)
    assert received == b"small " + bytes(3_000_000) + b"behind it"


async def test_a_peer_that_is_gone_is_said_by_the_next_send(pair):
    ours, theirs = pair
    sender = Sender(ours, 5.0)
    await theirs.aclose()
    assert not sender.send_now(b"lost")
    with pytest.raises(GONE):
        await sender.send(b"")
