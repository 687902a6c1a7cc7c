"""How messages, errors and heartbeats are written in each of the stream formats."""

import base64
from abc import ABC, abstractmethod
from functools import lru_cache
from itertools import count
from math import inf
from typing import ClassVar

from prism.contract.errors import PluginMisbehaved
from prism.contract.messages import StreamResponse
from prism.frontends import stream_text
from prism.frontends.stream_text import HEARTBEAT_SECONDS


class StreamFormat(ABC):
    """Writes one stream. Made anew for each."""

    content_type: ClassVar[bytes]
    heartbeat: ClassVar[float] = inf

    @abstractmethod
    def message(self, response: StreamResponse) -> bytes:
        """One message.

        Raises:
            PluginMisbehaved: it cannot be written.
        """

    @abstractmethod
    def error(self, problem: bytes) -> bytes:
        """How the stream ends where an error cut it short; ``problem`` is RFC 9457's JSON."""

    @abstractmethod
    def end(self) -> bytes:
        """How the stream ends well."""

    def beat(self) -> bytes:
        """A sign of life."""
        return b""


class EventStream(StreamFormat):
    """``text/event-stream``.

    An event's id is the position that the plugin gave the message (``stream_text.position_id``),
    or else its number in this stream behind a ``#``, which nobody takes for a position.
    """

    content_type = stream_text.EVENTS
    heartbeat = HEARTBEAT_SECONDS

    def __init__(self) -> None:
        self._number = count(1)

    def message(self, response: StreamResponse) -> bytes:
        number = next(self._number)
        position = response.position
        name = stream_text.position_id(position) if position else b"#%d" % number
        return stream_text.event(_json(response), number=name)

    def error(self, problem: bytes) -> bytes:
        return stream_text.event(problem, kind=b"error")

    def end(self) -> bytes:
        return stream_text.END_EVENT

    def beat(self) -> bytes:
        return stream_text.BEAT


class JSONLines(StreamFormat):
    """``application/x-ndjson``: one JSON value a line. An error is a last line whose only
    member is ``$error``."""

    content_type = stream_text.LINES

    def message(self, response: StreamResponse) -> bytes:
        return stream_text.line(_json(response))

    def error(self, problem: bytes) -> bytes:
        return b'{"$error":%b}\n' % problem

    def end(self) -> bytes:
        return b""


def _json(response: StreamResponse) -> bytes:
    """The message's JSON; one that the plugin gave in MessagePack travels as base64."""
    if response.result_raw and not response.result_json:
        encoded = base64.b64encode(response.result_raw)
        return b'{"encoding":"base64","value":"%b"}' % encoded
    try:
        # No result is an empty one, as for a single call.
        return response.result_json.encode() or b"{}"
    except UnicodeEncodeError:
        raise PluginMisbehaved("the plugin's message is not valid Unicode") from None


_FORMATS: dict[bytes, type[StreamFormat]] = {
    kind.content_type: kind for kind in (EventStream, JSONLines)
}


@lru_cache(256)
def choose_format(accept: bytes, streaming: bool) -> type[StreamFormat] | None:
    """The format of the answer to a client that accepts ``accept``; ``None``: one JSON value.

    ``streaming`` says which kind of operation is called. It decides where the client
    takes both kinds of answers; where it does not, its wish counts, and the call is refused
    later with a reason.
    """
    if not accept:
        return JSONLines if streaming else None
    kinds = [item.partition(b";")[0].strip() for item in accept.lower().split(b",")]
    named = next((_FORMATS[kind] for kind in kinds if kind in _FORMATS), None)
    takes_anything = b"*/*" in kinds or b"application/*" in kinds
    if streaming:
        return named or (JSONLines if takes_anything else None)
    return None if takes_anything or b"application/json" in kinds else named
