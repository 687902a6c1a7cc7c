"""The byte stream below both HTTP versions: bounded sends, and a close that loses nothing.

A plain TCP connection is read and written past trio's SocketStream. That tries to read
first and waits then, which is one system call and one exception for each batch of
requests; and a send is a pass of the scheduler though sockets nearly always have room.
"""

import os
import select

import trio

WRITE_SIZE = 64 * 1024
"""Bytes per send: enough to be cheap, and a client's smallest sign of progress."""

READ_SIZE = 32 * 1024
"""Bytes per receive. What one read brings is handled without a pause, so this is how
long one connection may keep the others waiting."""

GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
"""What a stream raises once its peer is gone. (``trio.TooSlowError`` means a stall.)"""


async def receive(stream: trio.abc.ReceiveStream) -> bytes:
    """What the peer sent next; empty at its end. Cancelling loses nothing.

    Raises one of ``GONE``.
    """
    if not isinstance(stream, trio.SocketStream):
        return bytes(await stream.receive_some(READ_SIZE))
    while True:
        if stream.socket.fileno() < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(stream.socket)
        try:
            return os.read(stream.socket.fileno(), READ_SIZE)
        except BlockingIOError:
            pass


def peer_has_ended(stream: trio.abc.Stream) -> bool:
    """Whether the peer has closed, or ended its half: known behind bytes not read yet.

    Only Linux tells; elsewhere this is false.
    """
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if not isinstance(transport, trio.SocketStream) or not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(transport.socket, select.POLLRDHUP)
    return bool(poll.poll(0))


class Sender:
    """Sends to one peer, in the order of the calls, whichever task makes them.

    What a cancelled ``send`` leaves goes out before the next one's data, so that nobody
    finds half a frame in front of his own. ``unsent`` is what has been left.
    """

    def __init__(self, stream: trio.abc.SendStream, stall: float) -> None:
        self.unsent = bytearray()
        self._stream = stream
        self._stall = stall
        self._turn = trio.Lock()

    async def send(self, data: bytes | bytearray) -> None:
        """Send all of ``data``. Where the kernel takes it at once, other tasks get no turn.

        Raises one of ``GONE``, or:
            trio.TooSlowError: the peer did not take one ``WRITE_SIZE`` within ``stall`` seconds.
        """
        taken = 0
        if not self.unsent and isinstance(self._stream, trio.SocketStream):
            taken = _write_now(self._stream, data)
            if taken == len(data):
                return
        self.unsent += memoryview(data)[taken:]
        async with self._turn:
            while self.unsent:
                with trio.fail_after(self._stall):
                    await self._send_first(min(len(self.unsent), WRITE_SIZE))

    async def _send_first(self, size: int) -> None:
        stream = self._stream
        if not isinstance(stream, trio.SocketStream):
            # If this is cancelled midway, a TLS stream of trio's takes no more.
            await stream.send_all(bytes(self.unsent[:size]))
            del self.unsent[:size]
            return
        while size:
            taken = _write_now(stream, self.unsent[:size])
            del self.unsent[:taken]
            size -= taken
            if size:
                await trio.lowlevel.wait_writable(stream.socket)


def _write_now(stream: trio.SocketStream, data: bytes | bytearray) -> int:
    """How many bytes of ``data`` the kernel has taken at once."""
    try:
        return os.write(stream.socket.fileno(), data)
    except BlockingIOError:
        return 0


async def linger(stream: trio.abc.Stream, seconds: float) -> None:
    """End our half of the connection and drop what still comes, until the peer ends its own.

    Below TLS, since trio's SSLStream cannot close one half. Never raises; bounded by
    ``seconds``.
    """
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    with trio.move_on_after(seconds):
        try:
            if isinstance(transport, trio.abc.HalfCloseableStream):
                await transport.send_eof()
            while await transport.receive_some(READ_SIZE):
                pass
        except GONE:
            pass
