"""The byte stream below both HTTP versions: bounded sends, and a close that loses nothing."""

import trio

WRITE_SIZE = 64 * 1024
"""Bytes per send: enough to be cheap, and a client's smallest sign of progress."""

READ_SIZE = 32 * 1024
"""Bytes per receive. What one read brings is handled without a pause, so this is how
long one connection may keep the others waiting."""

GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
"""What a stream raises once its peer is gone. (``trio.TooSlowError`` means a stall.)"""


async def send(stream: trio.abc.SendStream, data: bytes | bytearray, stall: float) -> None:
    """Send all of ``data``; if cancelled or failed, the stream is of no more use.

    Raises:
        trio.TooSlowError: the peer did not take one ``WRITE_SIZE`` within ``stall`` seconds.
    """
    view = memoryview(data)
    for start in range(0, len(data), WRITE_SIZE):
        with trio.fail_after(stall):
            await stream.send_all(view[start : start + WRITE_SIZE])


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
