"""What ``pacing`` needs of a protocol: bytes of a call out, bytes of answers in.

Both protocols (``http2_wire``, ``frame_wire``) are done by hand on whole
frames, with the request's bytes made beforehand. A library that keeps all the
rules costs as much as the server that is measured, and on a shared machine the
client's work is seen as the server's delay.
"""

from typing import Protocol


class WrongAnswer(Exception):
    """The server said something that is not the answer to a call."""


class Wire(Protocol):
    """A connection as a value. ``open`` is the number of calls without an answer."""

    open: int

    def request(self, began: float) -> bytes:
        """The bytes of the next call; ``began`` comes back with its answer."""
        ...

    def receive(self, data: bytes) -> list[float]:
        """The ``began`` of the calls whose answers end in ``data``.

        Raises:
            WrongAnswer: an answer is not a success, or the server gives up.
        """
        ...

    def replies(self) -> bytes:
        """What the protocol itself owes the server by now."""
        ...
