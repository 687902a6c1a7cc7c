"""What can happen on a connection. The same classes are sent and received.

Each event is one frame. ``stream`` is the call it belongs to; messages are the
contract's Structs.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from prism.contract.messages import HealthCheckResponse, Message, PluginMetrics
from prism.contract.service import Method
from prism.contract.status import StatusCode

PROTOCOL_VERSION = 1
"""The frame protocol's version, in HELLO's ``aux``."""
DEFAULT_MAX_FRAME = 1024 * 1024
"""Largest payload a side accepts unless its HELLO says otherwise: 1 MiB."""
DEFAULT_WINDOW = 256 * 1024
"""Bytes of DATA a side accepts on a stream before it gives credit back."""
DEFAULT_MAX_STREAMS = 100
"""Calls a side accepts at a time unless its HELLO says otherwise."""
MAX_CONTROL_CALLS = 4
"""Initialize, HealthCheck and Shutdown at a time, beside ``max_streams``: a plugin that has as many
calls as it takes can still be asked how it is."""
MAX_LOG_RECORDS = 1000
"""Log records in one NOTE: decoded, tiny ones are many times their size on the wire."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """Base of all events."""


class Hello(Event, frozen=True, omit_defaults=True, kw_only=True):
    """The first frame in each direction; its payload is this Struct as JSON.

    The plugin offers (``protocol_min`` to ``protocol_max``, ``codecs``), the host
    answers with what it chose: one protocol version, and ``codec``.
    ``max_frame``, ``window`` and ``max_streams`` bind the *other* side. ``max_streams`` counts
    Execute and ExecuteStream.
    """

    name: str = ""
    version: str = ""
    instance: str = ""
    protocol_min: int = 0
    protocol_max: int = 0
    codecs: tuple[str, ...] = ("json",)
    codec: str = ""
    features: tuple[str, ...] = ()
    max_frame: int = DEFAULT_MAX_FRAME
    window: int = DEFAULT_WINDOW
    max_streams: int = DEFAULT_MAX_STREAMS
    auth: str = ""

    def __repr__(self) -> str:
        """Leaves ``auth`` out: reprs end up in logs."""
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__ if name != "auth")
        return f"Hello({', '.join(f'{name}={value!r}' for name, value in fields)})"


class Open(Event, frozen=True):
    """A call begins. ``deadline_ms`` is the time it has left, 0 for no limit."""

    stream: int
    method: Method
    message: Message
    deadline_ms: int = 0
    end: bool = True


class Data(Event, frozen=True):
    """One message of a streaming call. ``end``: the sender's last one.

    ``size`` is the credit it used, known once it is received: give as much back
    when the message has been dealt with.
    """

    stream: int
    message: Message
    end: bool = False
    size: int = 0


class Close(Event, frozen=True):
    """A call ended: the answer, exactly one for every Open.

    ``message`` is the method's response, or ``None`` where there is none to send.
    ``too_large``: it did not fit into the caller's ``max_frame``.
    """

    stream: int
    status: StatusCode
    message: Message | None = None
    not_started: bool = False
    too_large: bool = False


class Fault(msgspec.Struct, frozen=True):
    """A rule that the peer broke and that is forgiven: its name, and what happened."""

    rule: str
    what: str


class Cancel(Event, frozen=True):
    """The caller gives up on a call; its Close is still owed."""

    stream: int
    status: StatusCode = StatusCode.CANCELLED


class Credit(Event, frozen=True):
    """The receiver of a stream has room for ``size`` more bytes of DATA."""

    stream: int
    size: int


class Overrun(Event, frozen=True):
    """Received only: the peer sent DATA beyond its credit on this stream.

    It comes once: the message is dropped, and so is all later DATA of the stream.
    End the call.
    """

    stream: int


class Ping(Event, frozen=True):
    """Is the peer's loop alive? Answered by the same token with ``ack``."""

    token: int
    ack: bool = False


class GoAway(Event, frozen=True):
    """The sender drains: it starts none of the peer's calls above ``last_stream``.

    ``failed``: a gRPC server gave an error as its reason. Not on the wire.
    """

    last_stream: int
    reason: str = ""
    failed: bool = False


class LogRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a plugin's log. ``time`` is Unix seconds; ``level`` as in ``logging``."""

    message: str = ""
    level: str = "INFO"
    logger: str = ""
    time: float = 0.0


class Note(Event, frozen=True, omit_defaults=True, kw_only=True):
    """What a plugin tells by itself, unanswered: logs, its metrics, a change of health."""

    logs: Annotated[list[LogRecord], Meta(max_length=MAX_LOG_RECORDS)] = []
    metrics: PluginMetrics | None = None
    health: HealthCheckResponse | None = None


class NoteWithoutLogs(msgspec.Struct, frozen=True):
    """Received only: of a NOTE that is far too long."""

    metrics: PluginMetrics | None = None
    health: HealthCheckResponse | None = None


class LongNote(NoteWithoutLogs, frozen=True):
    """Received only: a NOTE with more log records than it may have."""

    logs: list[LogRecord] = []


class GoAwayReason(msgspec.Struct, frozen=True, omit_defaults=True):
    """GOAWAY's payload, always JSON."""

    reason: str = ""
