"""Receives from a byte stream and sends to it; a plain socket takes fewer system calls.

trio's SocketStream tries to read first and waits then, which costs a failed call and an
exception for each batch of what a peer sends; and its every send is a pass of the
scheduler, though sockets nearly always have room.
"""

import os
from collections.abc import Sequence
from contextlib import suppress

import trio

WRITE_SIZE = 64 * 1024
"""Bytes per send: enough to be cheap, and a peer's smallest sign of progress."""


async def receive(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """What the peer sent next, ``size`` bytes at most; empty at its end.

    Cancelling loses nothing.

    Raises:
        trio.BrokenResourceError, trio.ClosedResourceError: the stream can be read no more.
    """
    if not isinstance(stream, trio.SocketStream):
        return bytes(await stream.receive_some(size))
    while True:
        descriptor = stream.socket.fileno()
        if descriptor < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(descriptor)
        try:
            return os.read(stream.socket.fileno(), size)
        except BlockingIOError:
            pass
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error


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

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: the peer is gone.
            trio.TooSlowError: it did not take one ``WRITE_SIZE`` within ``stall`` seconds.
        """
        taken = 0
        if not self.unsent and isinstance(self._stream, trio.SocketStream):
            taken = write_now(self._stream, data)
            if taken == len(data):
                return
        self.unsent += memoryview(data)[taken:]
        async with self._turn:
            while self.unsent:
                with trio.fail_after(self._stall):
                    await self._send_first(min(len(self.unsent), WRITE_SIZE))

    def send_now(self, data: bytes | bytearray) -> bool:
        """Send what the kernel takes at once. ``False``: the rest is left for ``send``,
        which also says so if the peer is gone."""
        taken = 0
        if not self.unsent and isinstance(self._stream, trio.SocketStream):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                taken = write_now(self._stream, data)
            if taken == len(data):
                return True
        self.unsent += memoryview(data)[taken:]
        return False

    async def _send_first(self, size: int) -> None:
        stream = self._stream
        if not isinstance(stream, trio.SocketStream):
            # If this is cancelled midway, a TLS stream of trio's takes no more.
            await stream.send_all(bytes(self.unsent[:size]))
            del self.unsent[:size]
            return
        while size:
            taken = write_now(stream, self.unsent[:size])
            del self.unsent[:taken]
            size -= taken
            if size:
                await trio.lowlevel.wait_writable(stream.socket)


def write_now(
    stream: trio.SocketStream, data: bytes | bytearray | Sequence[bytes | bytearray | memoryview]
) -> int:
    """How many bytes of ``data``, whole or in pieces, the kernel has taken at once.

    Raises:
        trio.BrokenResourceError, trio.ClosedResourceError: the peer is gone.
    """
    descriptor = stream.socket.fileno()
    if descriptor < 0:
        raise trio.ClosedResourceError
    try:
        if type(data) is bytes or isinstance(data, bytes | bytearray):  # the latter costs more
            return os.write(descriptor, data)
        return os.writev(descriptor, data)
    except BlockingIOError:
        return 0
    except OSError as error:
        raise trio.BrokenResourceError(str(error)) from error
