"""The codec on the h2 library (set up in `h2_library`): pure Python, always there."""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import h2.events
import h2.exceptions
from h2.errors import ErrorCodes
from hpack import NeverIndexedHeaderTuple
from hyperframe.frame import GoAwayFrame, RstStreamFrame

from prism.server.http2.codec import MAX_BURST, MAX_FRAME_SIZE
from prism.server.http2.events import (
    ClientLeaving,
    DataReceived,
    Event,
    PingAnswered,
    Request,
    RequestEnded,
    RequestMalformed,
    StreamReset,
    WindowOpened,
)
from prism.server.http2.h2_library import (
    CLOSED,
    MEMORABLE,
    NOT_INDEXED,
    REMEMBERED,
    open_connection,
)
from prism.server.http2.limits import ClientError, FrameGuard
from prism.server.http2.request import (
    TOO_LARGE,
    TOO_LONG,
    WRONG_LENGTH,
    Head,
    Malformed,
    check_trailers,
    is_too_large,
    read_head,
)
from prism.server.settings import ServerSettings


class _Incoming:
    """A request that has not ended. ``head`` is set until it is told as an event."""

    __slots__ = ("body", "expected", "head", "received")

    def __init__(self, head: Head) -> None:
        self.head: Head | None = head
        self.body = b""
        self.expected = head.content_length
        self.received = 0


class _Begun(NamedTuple):
    """A request that began in the bytes just received; ``place`` is where in the events."""

    place: int
    incoming: _Incoming


class _Part(NamedTuple):
    """What came of a body in the bytes just received; ``place`` is where in the events."""

    place: int
    data: bytearray


class H2Codec:
    """``codec.HTTP2Codec`` on h2."""

    def __init__(self, settings: ServerSettings, now: float) -> None:
        self._guard = FrameGuard(settings, now)
        self._out = bytearray()
        self._failure: ClientError | None = None
        self._incoming: dict[int, _Incoming] = {}
        self._heads: dict[tuple[object, ...], Head] = {}
        self._refused: set[int] = set()  # malformed, among the bytes just received
        self._bodies: dict[int, _Part] = {}  # what came of each, among these
        self._stream_window = settings.stream_window
        self._max_head = settings.max_header_size, settings.max_header_fields
        self._h2 = open_connection(settings)
        self._collect()

    def __del__(self) -> None:
        self._h2.release()

    @property
    def backlog(self) -> int:
        return len(self._out)

    @property
    def last_stream_id(self) -> int:
        return self._h2.highest_inbound_stream_id

    @property
    def in_header_block(self) -> bool:
        return self._guard.in_header_block

    def take(self) -> bytearray:
        out, self._out = self._out, bytearray()
        return out

    # Receiving.

    def receive(self, data: bytes, now: float) -> tuple[list[Event], int]:
        if self._failure is not None:
            raise self._failure
        try:
            size = self._guard.inspect(data, now)
            received = self._h2.receive_data(data[:size])
        except ClientError as error:
            self._failure = error
            raise
        except h2.exceptions.ProtocolError as broken:
            self._h2.clear_outbound_data_buffer()  # h2's own GOAWAY
            self._failure = ClientError(broken.error_code, type(broken).__name__)
            raise self._failure from broken
        events: list[Event] = []
        self._refused.clear()
        begun: dict[int, _Begun] = {}
        for event in received:
            match event:
                case h2.events.RequestReceived():
                    self._request(event, events, begun)
                case h2.events.DataReceived():
                    self._data(event, events)
                case h2.events.StreamEnded():
                    self._end(event.stream_id, events, begun)
                case h2.events.TrailersReceived():
                    self._trailers(event, events)
                case h2.events.StreamReset():
                    self._incoming.pop(event.stream_id, None)
                    if event.stream_id not in self._refused:
                        events.append(StreamReset(event.stream_id))
                case h2.events.WindowUpdated():
                    events.append(WindowOpened(event.stream_id))
                case h2.events.RemoteSettingsChanged():
                    events.append(WindowOpened(0))
                case h2.events.PingAckReceived():
                    events.append(PingAnswered(event.ping_data))
                case h2.events.ConnectionTerminated():
                    events.append(ClientLeaving())
        self._tell_begun(events, begun)
        for stream_id, part in self._bodies.items():
            events[part.place] = DataReceived(stream_id, bytes(part.data))
        self._bodies.clear()
        self._collect()
        return events, size

    def charge(self, cost: int) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            self._guard.charge(cost)
        except ClientError as error:
            self._failure = error
            raise

    def credit(self, amount: int) -> None:
        self._guard.credit(amount)

    def _request(
        self, event: h2.events.RequestReceived, events: list[Event], begun: dict[int, _Begun]
    ) -> None:
        stream_id = event.stream_id
        if is_too_large(event.headers, *self._max_head):
            events.append(RequestMalformed(stream_id, TOO_LARGE))
            return
        try:
            head = self._read_head(event.headers, ended=event.stream_ended is not None)
        except Malformed as error:
            self._refuse(stream_id, str(error), events)
            return
        incoming = self._incoming[stream_id] = _Incoming(head)
        begun[stream_id] = _Begun(len(events), incoming)
        events.append(RequestEnded(stream_id))  # keeps its place until the body is known

    def _read_head(self, fields: Sequence[tuple[bytes, bytes]], *, ended: bool) -> Head:
        key = (ended, *fields)
        known = self._heads.get(key)
        if known is None:
            known = read_head(fields, ended=ended)
            if sum(len(name) + len(value) for name, value in fields) <= MEMORABLE:
                if len(self._heads) >= REMEMBERED:
                    self._heads.clear()
                self._heads[key] = known
        return known

    def _data(self, event: h2.events.DataReceived, events: list[Event]) -> None:
        stream_id, data = event.stream_id, event.data
        if padding := event.flow_controlled_length - len(data):
            self._h2.acknowledge_received_data(padding, stream_id)
        if not data:
            return
        incoming = self._incoming.get(stream_id)
        if incoming is None:  # received with what made it malformed
            self._h2.acknowledge_received_data(len(data), stream_id)
            return
        incoming.received += len(data)
        if incoming.expected is not None and incoming.received > incoming.expected:
            self._h2.acknowledge_received_data(len(data), stream_id)
            self._refuse(stream_id, TOO_LONG, events)
        elif incoming.head is not None:
            incoming.body += data
        elif (part := self._bodies.get(stream_id)) is not None:
            part.data.extend(data)
        else:
            self._bodies[stream_id] = _Part(len(events), bytearray(data))
            events.append(RequestEnded(stream_id))  # keeps its place until all of it is known

    def _trailers(self, event: h2.events.TrailersReceived, events: list[Event]) -> None:
        if event.stream_id not in self._incoming:
            return
        if is_too_large(event.headers, *self._max_head):
            self._refuse(event.stream_id, "the trailers are too large", events)
            return
        try:
            check_trailers(event.headers)
        except Malformed as error:
            self._refuse(event.stream_id, str(error), events)

    def _end(self, stream_id: int, events: list[Event], begun: dict[int, _Begun]) -> None:
        incoming = self._incoming.pop(stream_id, None)
        if incoming is None:
            return
        if incoming.expected is not None and incoming.received != incoming.expected:
            self._refuse(stream_id, WRONG_LENGTH, events)
        elif incoming.head is not None:
            place = begun.pop(stream_id).place
            events[place] = _told(stream_id, incoming.head, incoming.body, ended=True)
        else:
            events.append(RequestEnded(stream_id))

    def _refuse(self, stream_id: int, reason: str, events: list[Event]) -> None:
        self._incoming.pop(stream_id, None)
        self._refused.add(stream_id)
        events.append(RequestMalformed(stream_id, reason))
        try:
            self._h2.reset_stream(stream_id, ErrorCodes.PROTOCOL_ERROR)
        except h2.exceptions.StreamClosedError:
            # Answered already, and with this frame it has ended; the client is told yet.
            self._collect()
            frame = RstStreamFrame(stream_id, error_code=ErrorCodes.PROTOCOL_ERROR)
            self._out += frame.serialize()

    def _tell_begun(self, events: list[Event], begun: dict[int, _Begun]) -> None:
        for stream_id, (place, incoming) in begun.items():
            if incoming.head is not None:
                events[place] = _told(stream_id, incoming.head, incoming.body, ended=False)
                incoming.head, incoming.body = None, b""

    # Sending.

    def widen(self, stream_id: int, size: int) -> None:
        if self._failure is not None:
            return
        with suppress(*CLOSED):
            self._h2.remote_flow_control_window(stream_id)  # raises where it is closed
            self._h2.increment_flow_control_window(size - self._stream_window, stream_id)
        self._collect()

    def consumed(self, stream_id: int, size: int) -> None:
        if self._failure is None:
            self._h2.acknowledge_received_data(size, stream_id)
            self._collect()

    def window(self, stream_id: int) -> int:
        try:
            return max(0, self._h2.local_flow_control_window(stream_id))
        except h2.exceptions.ProtocolError:
            return 0

    def send_headers(
        self, stream_id: int, headers: Sequence[tuple[bytes, bytes]], end: bool
    ) -> None:
        if self._failure is None:
            with suppress(*CLOSED):
                self._h2.send_headers(stream_id, headers, end_stream=end)
            self._collect()

    def send_data(self, stream_id: int, data: bytes | memoryview, end: bool) -> None:
        if self._failure is None:
            with suppress(*CLOSED):
                self._send_data(stream_id, data, end)
            self._collect()

    def _send_data(self, stream_id: int, data: bytes | memoryview, end: bool) -> None:
        while len(data) > MAX_FRAME_SIZE:
            self._h2.send_data(stream_id, data[:MAX_FRAME_SIZE])
            data = data[MAX_FRAME_SIZE:]
        self._h2.send_data(stream_id, data, end_stream=end)

    def send_response(
        self, stream_id: int, headers: Sequence[tuple[bytes, bytes]], data: bytes, end: bool
    ) -> bool:
        if self._failure is not None:
            return True
        block = [
            NeverIndexedHeaderTuple(*field) if field[0] in NOT_INDEXED else field
            for field in headers
        ]
        try:
            self._h2.send_headers(stream_id, block, end_stream=end and not data)
            fits = len(data) <= MAX_BURST and (
                not data or len(data) <= self._h2.local_flow_control_window(stream_id)
            )
            if fits and data:
                self._send_data(stream_id, memoryview(data), end)
        except CLOSED:
            return True
        self._collect()
        return fits

    def reset(self, stream_id: int, code: int) -> None:
        if self._failure is not None:
            return
        self._incoming.pop(stream_id, None)
        try:
            self._h2.reset_stream(stream_id, code)
        except CLOSED:
            return
        self._collect()

    def ping(self, payload: bytes) -> None:
        if self._failure is None:
            self._h2.ping(payload)
            self._collect()

    def goaway(self, last_stream_id: int, code: int) -> None:
        # Not h2's own, after which h2 would refuse to send the open responses.
        frame = GoAwayFrame(0, last_stream_id=last_stream_id, error_code=code)
        self._out += frame.serialize()

    def _collect(self) -> None:
        self._out += self._h2.data_to_send()


def _told(stream_id: int, head: Head, body: bytes, *, ended: bool) -> Request:
    return Request(stream_id, head.method, head.target, head.protocol, head.headers, body, ended)
