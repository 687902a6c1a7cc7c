"""Sockets, and the task that writes, on trio and on asyncio."""

import socket

import anyio
import pytest

from prism.contract.errors import HandshakeFailed
from prism.sdk.byte_streams import SocketStream, WebSocketStream, Writer

LARGE = bytes(range(256)) * 32 * 1024
"""More than a socket takes at once."""


class Queue:
    """What a writer needs of a connection."""

    def __init__(self):
        self.queued = []

    @property
    def queued_bytes(self):
        return sum(map(len, self.queued))

    def pieces_to_send(self):
        data, self.queued = b"".join(self.queued), []
        return data


def pair():
    ours, theirs = socket.socketpair()
    return SocketStream(ours), SocketStream(theirs)


async def receive(stream, size):
    data = b""
    while len(data) < size:
        data += await stream.receive()
    return data


# -- sockets ------------------------------------------------------------------


def test_what_is_sent_arrives_however_much_it_is(run):
    async def scenario():
        ours, theirs = pair()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ours.send, LARGE)
            assert await receive(theirs, len(LARGE)) == LARGE
        await ours.aclose()
        with pytest.raises(anyio.EndOfStream):
            await theirs.receive()
        await theirs.aclose()

    run(scenario)


def test_what_is_taken_at_once_is_counted(run):
    async def scenario():
        ours, theirs = pair()
        assert ours.send_nowait(b"hello") == 5
        taken = ours.send_nowait(LARGE)
        assert 0 < taken < len(LARGE)
        while ours.send_nowait(LARGE):
            pass
        assert ours.send_nowait(LARGE) == 0
        assert await theirs.receive(3) == b"hel"
        await theirs.aclose()
        with pytest.raises(anyio.BrokenResourceError):
            ours.send_nowait(b"x")
        with pytest.raises(anyio.BrokenResourceError):
            await ours.send(b"x")
        await ours.aclose()

    run(scenario)


def test_a_cancelled_receive_loses_nothing(run):
    async def scenario():
        ours, theirs = pair()
        with anyio.move_on_after(0.01):
            await theirs.receive()
        await ours.send(b"later")
        assert await theirs.receive() == b"later"
        await ours.aclose()
        await theirs.aclose()

    run(scenario)


def test_closing_ends_who_waits_and_can_be_repeated(run):
    async def scenario():
        ours, theirs = pair()

        async def wait():
            with pytest.raises(anyio.ClosedResourceError):
                await ours.receive()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await ours.aclose()
        await ours.aclose()
        await theirs.aclose()

    run(scenario)


# -- the writer ---------------------------------------------------------------


def test_what_was_queued_together_leaves_together(run, stream_pair):
    async def scenario():
        queue, (ours, theirs) = Queue(), stream_pair()
        writer, scope = Writer(ours, queue), anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writer.run, scope)
            await anyio.wait_all_tasks_blocked()
            for word in (b"one", b"two"):
                queue.queued.append(word)
                writer.wake()
            assert await theirs.receive() == b"onetwo"
            queue.queued.append(b"three")
            writer.write_now()  # this stream has no way to take it at once
            await writer.flush()
            assert await theirs.receive() == b"three"
            scope.cancel()

    run(scenario)


def test_a_socket_is_written_at_once_and_the_task_writes_what_it_does_not_take(run):
    async def scenario():
        queue, (ours, theirs) = Queue(), pair()
        writer, scope = Writer(ours, queue), anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writer.run, scope)
            queue.queued.append(b"before it runs")
            writer.write_now()  # by the task, which has yet to begin
            assert await theirs.receive() == b"before it runs"
            await anyio.wait_all_tasks_blocked()
            queue.queued.append(b"at once")
            writer.write_now()
            assert queue.queued == []
            assert theirs._socket.recv(100) == b"at once"
            queue.queued.append(LARGE)
            writer.write_now()
            queue.queued.append(b"after it")
            writer.write_now()
            assert queue.queued == [b"after it"]
            tasks.start_soon(writer.flush)
            assert await receive(theirs, len(LARGE) + 8) == LARGE + b"after it"
            await writer.flush()
            scope.cancel()
        await ours.aclose()
        await theirs.aclose()

    run(scenario)


def test_nobody_waits_for_a_connection_that_is_gone(run):
    async def scenario():
        queue, (ours, theirs) = Queue(), pair()
        writer = Writer(ours, queue)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writer.run, anyio.CancelScope())
            await anyio.wait_all_tasks_blocked()
            await theirs.aclose()
            queue.queued.append(b"in vain")
            writer.write_now()
            await writer.flush()
        await ours.aclose()

    run(scenario)


# -- WebSockets ---------------------------------------------------------------


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 16, b""])
def test_what_is_no_websocket_handshake(said, run, stream_pair):
    async def scenario():
        ours, theirs = stream_pair()
        await ours.send(said)
        await ours.send_eof()
        with pytest.raises(HandshakeFailed, match="no WebSocket handshake came"):
            await WebSocketStream(theirs).accept()

    run(scenario)


def test_a_ping_is_answered_between_messages(run, stream_pair):
    async def scenario():
        from wsproto import ConnectionType, WSConnection
        from wsproto.events import AcceptConnection, BytesMessage, Ping, Pong, Request

        ours, theirs = stream_pair()
        client, plugin = WSConnection(ConnectionType.CLIENT), WebSocketStream(theirs)
        await ours.send(client.send(Request(host="h", target="/")))
        await plugin.accept()
        client.receive_data(await ours.receive())
        assert isinstance(next(iter(client.events())), AcceptConnection)
        ping, message = client.send(Ping(b"?")), client.send(BytesMessage(b"hello"))
        await ours.send(ping + message)
        assert await plugin.receive() == b"hello"
        await plugin.send(b"answer")
        client.receive_data(await ours.receive())
        pong, answer = client.events()
        assert (type(pong), answer.data) == (Pong, b"answer")
        await plugin.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await plugin.receive()

    run(scenario)
