"""The byte stream below both HTTP versions: bounded sends, and a close that loses nothing.

A plain TCP connection is read and written past trio's SocketStream. That tries to read
first and waits then, which is one system call and one exception for each batch of
requests; and a send is a pass of the scheduler though sockets nearly always have room.
"""

import os

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


async def send(stream: trio.abc.SendStream, data: bytes | bytearray, stall: float) -> None:
    """Send all of ``data``; if cancelled or failed, the stream is of no more use.

    Where the kernel takes it at once, other tasks get no turn.

    Raises one of ``GONE``, or:
        trio.TooSlowError: the peer did not take one ``WRITE_SIZE`` within ``stall`` seconds.
    """
    taken = _write_now(stream, data)
    if taken == len(data):
        return
    view = memoryview(data)
    for start in range(taken, len(data), WRITE_SIZE):
        with trio.fail_after(stall):
            await stream.send_all(view[start : start + WRITE_SIZE])


def _write_now(stream: trio.abc.SendStream, data: bytes | bytearray) -> int:
    """How many bytes of ``data`` the kernel has taken at once."""
    if not isinstance(stream, trio.SocketStream):
        return 0
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
