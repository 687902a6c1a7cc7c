"""Live frames of a namespace's plugin, for who debugs it: ``prism plugin trace``.

While somebody watches, each of the namespace's frame connections has a tap; what that tells is
written for people here, and published in a bounded feed. Values are left out unless they were asked
for, and credentials always are.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from prism.channels.frames.channel import FramedChannel
from prism.channels.frames.tap import Sender
from prism.contract.redaction import Redaction
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.supervision.feeds import Feed
from prism.wire.frames import ACK, END, NOT_STARTED, TOO_LARGE, Codec, Frame, FrameType

MAX_SHOWN = 512
"""Characters of a payload that are shown."""
MAX_DECODED = 64 * 1024
"""Bytes of a payload that is looked into; of a longer one the size is told."""
FRAMES_UNREAD = 2000
"""Frames that wait for one who watches; what comes on top pushes the oldest out."""
_FLAGS = {END: "END", NOT_STARTED: "NOT_STARTED", ACK: "ACK", TOO_LARGE: "TOO_LARGE"}
_METHODS = {
    Method.INITIALIZE: "Initialize",
    Method.HEALTH_CHECK: "HealthCheck",
    Method.EXECUTE: "Execute",
    Method.EXECUTE_STREAM: "ExecuteStream",
    Method.SHUTDOWN: "Shutdown",
}
_TOLD = frozenset(
    {"operation", "success", "error_code", "is_final", "status", "timeout_seconds", "reason",
     "name", "version", "codec", "codecs", "max_frame", "window", "max_streams", "level", "time",
     "protocol_min", "protocol_max", "idempotent", "streaming", "also_streaming", "access"}
)  # fmt: skip
"""Fields whose values say nothing of anybody's data."""
_OTHERS_NAMES = frozenset({"credentials", "metadata", "details"})
"""Fields that are maps, in which a name is whatever somebody has chosen, one of ``_TOLD`` too."""


class TracedFrame(msgspec.Struct, frozen=True, omit_defaults=True):
    """A frame that crossed between the proxy and a plugin. ``time`` is Unix time, in seconds.

    ``kind`` is its type's name, ``call`` the call's id, ``size`` its payload's bytes. ``aux`` is
    what the header has there: milliseconds left of an OPEN, bytes of a CREDIT, a PING's token.
    """

    time: float
    instance: str
    sender: Sender
    kind: str
    size: int
    call: int = 0
    method: str = ""
    status: str = ""
    aux: int = 0
    flags: list[str] = []
    payload: str = ""


class FrameTraces:
    """The frame connections of one namespace's plugin, and who watches them."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._channels: dict[FramedChannel, tuple[str, Callable[[], Redaction]]] = {}
        self._watched: dict[Feed[TracedFrame], bool] = {}

    @contextmanager
    def traced(
        self, channel: FramedChannel, instance: str, redaction: Callable[[], Redaction]
    ) -> Iterator[None]:
        """Within the block ``channel`` is one of them; ``redaction`` gives what hides the
        credentials that are known by then."""
        self._channels[channel] = (instance, redaction)
        if self._watched:
            self._tap(channel)
        try:
            yield
        finally:
            del self._channels[channel]

    @contextmanager
    def watch(self, *, payloads: bool) -> Iterator[Feed[TracedFrame]]:
        """The frames from now on, within the block; with their ``payloads``, or what they are
        made of."""
        feed: Feed[TracedFrame] = Feed(0)
        self._watched[feed] = payloads
        if len(self._watched) == 1:
            for channel in self._channels:
                self._tap(channel)
        try:
            yield feed
        finally:
            del self._watched[feed]
            if not self._watched:
                for channel in self._channels:
                    channel.untap()

    def _tap(self, channel: FramedChannel) -> None:
        instance, redaction = self._channels[channel]

        def publish(sender: Sender, frame: Frame) -> None:
            told: dict[bool, TracedFrame] = {}
            for feed, payloads in self._watched.items():
                if payloads not in told:
                    text = _payload(frame, redaction(), shown=payloads)
                    told[payloads] = _traced(self._clock(), instance, sender, frame, text)
                feed.publish(told[payloads])

        channel.tap(publish)


def _traced(now: float, instance: str, sender: Sender, frame: Frame, payload: str) -> TracedFrame:
    kind = FrameType(frame.kind)
    has_status = kind in (FrameType.CLOSE, FrameType.CANCEL)
    method = ""
    if kind is FrameType.OPEN:
        method = _METHODS.get(Method(frame.method), "") if frame.method in _METHODS else "?"
    return TracedFrame(
        time=now,
        instance=instance,
        sender=sender,
        kind=kind.name,
        size=len(frame.payload),
        call=frame.stream,
        method=method,
        status=StatusCode.from_wire(frame.aux).name if has_status else "",
        aux=0 if has_status else frame.aux,
        flags=[name for flag, name in _FLAGS.items() if frame.flags & flag],
        payload=payload,
    )


def _payload(frame: Frame, redaction: Redaction, *, shown: bool) -> str:
    """What is told of a payload: shortened, and no credential of it."""
    if not frame.payload:
        return ""
    # Credentials come in this one; that they are blanked may not depend on how they are written.
    is_initialize = frame.kind == FrameType.OPEN and frame.method == Method.INITIALIZE
    if not shown or is_initialize or frame.codec == Codec.MSGPACK:
        if len(frame.payload) > MAX_DECODED:
            return ""
        decode = msgspec.msgpack.decode if frame.codec == Codec.MSGPACK else msgspec.json.decode
        try:
            message = decode(frame.payload)
            told = message if shown and not is_initialize else _shape(message)
            text = msgspec.json.encode(told).decode()
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
            return "(no message)"
    else:
        start = frame.payload[: 4 * (MAX_SHOWN + redaction.longest)]
        text = bytes(start).decode(errors="replace")
    more = "..." if len(text) > MAX_SHOWN else ""
    return redaction.start_of(text, MAX_SHOWN) + more


def _shape(message: Any, told: frozenset[str] = _TOLD) -> Any:
    """``message`` without its values: of texts and bytes their length, of lists their number."""
    if isinstance(message, dict):
        return {
            name: value
            if name in told and not isinstance(value, dict)
            else _shape(value, frozenset() if name in _OTHERS_NAMES else told)
            for name, value in message.items()
            if isinstance(name, str)
        }
    if isinstance(message, list):
        return f"<{len(message)} of them>"
    if isinstance(message, str):
        return f"<{len(message)} characters>"
    if isinstance(message, bytes):
        return f"<{len(message)} bytes>"
    return message if isinstance(message, bool | None) else "<a number>"
