"""What a client did, as both codecs tell it. The C codec makes these tuples too."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from prism.server.exchange import Headers


class Request(NamedTuple):
    """A request's header section is complete and well formed.

    ``headers`` are the regular ones, in the order received, but ``host`` first, with
    the value of ``:authority``, and cookies joined. ``target`` is ``:path``, empty for a
    plain CONNECT; ``protocol`` is ``:protocol`` (RFC 8441), else empty. ``body`` is what
    came of it together with the head; ``ended`` says that this is all of it.
    """

    stream_id: int
    method: bytes
    target: bytes
    protocol: bytes
    headers: "Headers"
    body: bytes
    ended: bool


class DataReceived(NamedTuple):
    """More of a request's body, at least one byte."""

    stream_id: int
    data: bytes


class RequestEnded(NamedTuple):
    """Nothing more of the request comes (its trailers, if any, are dropped)."""

    stream_id: int


class RequestMalformed(NamedTuple):
    """The request breaks a rule of HTTP (RFC 9113, 8.1.1); nothing more of it is told.

    The codec has reset the stream, unless ``reason`` is ``TOO_LARGE`` (``request``): that is
    answered. It quotes nothing that the client sent.
    """

    stream_id: int
    reason: str


class StreamReset(NamedTuple):
    """The client wants no response any more, or broke a rule that concerns this stream only."""

    stream_id: int


class WindowOpened(NamedTuple):
    """The client takes more; ``stream_id`` 0: on every stream."""

    stream_id: int


class PingAnswered(NamedTuple):
    """The client has read everything sent before our PING."""

    payload: bytes


class ClientLeaving(NamedTuple):
    """The client sent GOAWAY: it opens no more streams, but still reads its responses."""


Event = (
    Request
    | DataReceived
    | RequestEnded
    | RequestMalformed
    | StreamReset
    | WindowOpened
    | PingAnswered
    | ClientLeaving
)
