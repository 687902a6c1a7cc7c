"""The byte stream below both HTTP versions: how its end is seen, and a close that loses nothing."""

import select

import trio

READ_SIZE = 32 * 1024
"""Bytes per receive. What one read brings is handled without a pause, so this is how
long one connection may keep the others waiting."""

LARGE_READ = 4 * READ_SIZE
"""... and after a read that has brought as many. They are mostly a body's, which costs little
for each byte; what costs more, HTTP/2 handles in portions."""

GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
"""What a stream raises once its peer is gone. (``trio.TooSlowError`` means a stall.)"""


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


async def send_alert(
    stream: trio.SSLStream[trio.SocketStream], answer: bytes, seconds: float
) -> None:
    """Send what a TLS handshake that failed has left for the client, which is an alert that says
    why (RFC 8446, 6.2), or ``answer`` in its place; then ``linger``.

    trio closes the stream without it. Never raises; bounded by twice ``seconds``.
    """
    words = answer or stream._outgoing.read()  # noqa: SLF001 - trio shows it nowhere
    if not words:
        return
    with trio.move_on_after(seconds):
        try:
            await stream.transport_stream.send_all(words)
        except GONE:
            return
    await linger(stream, seconds)


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
