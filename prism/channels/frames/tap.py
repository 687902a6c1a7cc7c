"""Reads along on a frame connection, for who looks at its frames.

A tap gets the bytes that cross, cuts them into frames by itself, and touches nothing. Where nobody
looks there is none, and a link asks once a read, and once a write, whether there is.
"""

from collections.abc import Callable
from typing import Literal

from prism.contract.errors import RemoteProtocolError
from prism.wire.frames import MAX_STREAM_ID, Frame, FrameReader

Sender = Literal["proxy", "plugin"]


class FrameTap:
    """Tells each frame that crosses from now on, by ``publish``, which must not block or raise.

    ``begun`` is what has come of a frame that is incomplete, ``missing`` the bytes that are to
    come of a large one, which is passed over.
    """

    def __init__(
        self, publish: Callable[[Sender, Frame], None], begun: bytes = b"", missing: int = 0
    ) -> None:
        self._publish = publish
        self._missing = missing
        self._readers: dict[Sender, FrameReader] = {"proxy": FrameReader(), "plugin": FrameReader()}
        if begun and not missing:
            self._readers["plugin"].feed(begun)

    def received(self, data: bytes | bytearray) -> None:
        """The plugin sent this; ``b""`` is the end."""
        passed = min(self._missing, len(data))
        self._missing -= passed
        self._take("plugin", data[passed:])

    def sent(self, data: bytes | tuple[bytes | bytearray, ...]) -> None:
        """The proxy sends this: whole frames."""
        for piece in (data,) if isinstance(data, bytes) else data:
            self._take("proxy", piece)

    def _take(self, sender: Sender, data: bytes | bytearray) -> None:
        reader = self._readers.get(sender)
        if reader is None or not data:
            return
        reader.feed(data)
        try:
            while (frame := reader.next_frame(MAX_STREAM_ID)) is not None:
                self._publish(sender, frame)
        except RemoteProtocolError:
            # What is no frame ends the connection, which the link tells.
            del self._readers[sender]
