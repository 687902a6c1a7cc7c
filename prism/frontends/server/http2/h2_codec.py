"""The codec on the h2 library: pure Python, always there."""

import base64
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import hpack
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import Frame, GoAwayFrame, RstStreamFrame, SettingsFrame

from prism.frontends.server.http2.codec import MAX_FRAME_SIZE
from prism.frontends.server.http2.events import (
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
from prism.frontends.server.http2.limits import ClientError
from prism.frontends.server.http2.request import (
    TOO_LONG,
    WRONG_LENGTH,
    Head,
    Malformed,
    check_trailers,
    read_head,
)
from prism.frontends.server.settings import ServerSettings

MAX_ENCODER_TABLE = 4096
"""Of the HPACK table kept for responses. A client may offer a larger one, and would
make the server keep every distinct response header (a request id) in memory."""

_UNLIMITED_STREAMS = 2**31 - 1
"""h2 ends a connection that exceeds its stream limit. So h2 is told of none, and the
connection refuses streams above the announced one, one by one."""

_CLOSED = (
    h2.exceptions.StreamClosedError,
    h2.exceptions.NoSuchStreamError,
    h2.exceptions.StreamIDTooLowError,
)
"""What h2 raises when asked to send on a stream that is no more."""

_KNOWN_SETTINGS = frozenset(SettingCodes)


class _Decoder(hpack.Decoder):
    """hpack limits the size of a header section, not how many fields there are."""

    def __init__(self, max_size: int, max_fields: int) -> None:
        super().__init__(max_size)
        self._max_fields = max_fields

    def decode(self, data: bytes, raw: bool = False) -> Iterable[hpack.HeaderTuple]:
        fields = list(super().decode(data, raw))
        if len(fields) > self._max_fields:
            raise hpack.OversizedHeaderListError
        return fields


class _Connection(h2.connection.H2Connection):
    """h2 with some habits changed that a client could turn against the server."""

    _began = False

    def _receive_frame(self, frame: Frame) -> list[h2.events.Event]:
        """h2 does not insist on SETTINGS as a client's first frame (RFC 9113, 3.4)."""
        if not self._began:
            if not isinstance(frame, SettingsFrame) or "ACK" in frame.flags:
                raise h2.exceptions.ProtocolError("the first frame must be SETTINGS")
            self._began = True
        return super()._receive_frame(frame)

    def _begin_new_stream(
        self, stream_id: int, allowed_ids: h2.connection.AllowedStreamIDs
    ) -> H2Stream:
        """h2 ends the connection over one body that is not as long as declared."""
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        stream._initialize_content_length = _ignore  # type: ignore[method-assign]  # noqa: SLF001
        return stream

    def _receive_rst_stream_frame(
        self, frame: RstStreamFrame
    ) -> tuple[list[Frame], list[h2.events.Event]]:
        """h2 lets pass the reset of a stream that never was (RFC 9113, 6.4)."""
        if frame.stream_id > self.highest_inbound_stream_id:
            raise h2.exceptions.ProtocolError("RST_STREAM for an idle stream")
        return super()._receive_rst_stream_frame(frame)

    def _receive_goaway_frame(
        self, frame: GoAwayFrame
    ) -> tuple[list[Frame], list[h2.events.Event]]:
        """h2 forbids sending after the client's GOAWAY, which would lose its responses."""
        return [], [h2.events.ConnectionTerminated()]

    def _receive_settings_frame(
        self, frame: SettingsFrame
    ) -> tuple[list[Frame], list[h2.events.Event]]:
        """h2 keeps every setting, known or not: 65,536 of them take 50 MB of memory."""
        settings = frame.settings.items()
        frame.settings = {key: value for key, value in settings if key in _KNOWN_SETTINGS}
        return super()._receive_settings_frame(frame)


def _ignore(headers: object) -> None:
    pass


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


class H2Codec:
    """``codec.Codec`` on h2.

    ``upgrade`` is the SETTINGS payload of an HTTP/1.1 request that is now stream 1.

    Raises:
        ClientError: ``upgrade`` holds invalid settings.
    """

    def __init__(self, settings: ServerSettings, upgrade: bytes | None = None) -> None:
        self._out = bytearray()
        self._failure: ClientError | None = None
        self._incoming: dict[int, _Incoming] = {}
        self._refused: set[int] = set()  # malformed, among the bytes just received
        self._h2 = _Connection(
            h2.config.H2Configuration(
                client_side=False,
                header_encoding=None,
                # `request` checks what comes, asgi.checked_headers what goes
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        announced = {
            SettingCodes.MAX_CONCURRENT_STREAMS: settings.max_concurrent_streams,
            SettingCodes.MAX_HEADER_LIST_SIZE: settings.max_header_size,
            SettingCodes.INITIAL_WINDOW_SIZE: settings.stream_window,
            SettingCodes.MAX_FRAME_SIZE: MAX_FRAME_SIZE,
            SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,
        }
        self._h2.local_settings = Settings(client=False, initial_values=announced)
        self._h2.decoder = _Decoder(settings.max_header_size, settings.max_header_fields)
        self._h2.max_inbound_frame_size = MAX_FRAME_SIZE
        if upgrade is None:
            self._h2.initiate_connection()
        else:
            self._upgrade(upgrade)
        enforced = {**announced, SettingCodes.MAX_CONCURRENT_STREAMS: _UNLIMITED_STREAMS}
        self._h2.local_settings = Settings(client=False, initial_values=enforced)
        grow = settings.connection_window - self._h2.inbound_flow_control_window
        if grow > 0:
            self._h2.increment_flow_control_window(grow)
        self._collect()

    def _upgrade(self, payload: bytes) -> None:
        try:
            self._h2.initiate_upgrade_connection(base64.urlsafe_b64encode(payload))
        except (h2.exceptions.ProtocolError, HyperframeError) as error:
            raise ClientError(ErrorCodes.PROTOCOL_ERROR, "invalid settings") from error
        self._cap_encoder_table()

    @property
    def backlog(self) -> int:
        return len(self._out)

    @property
    def last_stream_id(self) -> int:
        return self._h2.highest_inbound_stream_id

    def take(self) -> bytearray:
        out, self._out = self._out, bytearray()
        return out

    # Receiving.

    def receive(self, data: bytes) -> list[Event]:
        if self._failure is not None:
            raise self._failure
        try:
            received = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self._h2.clear_outbound_data_buffer()  # h2's own GOAWAY
            self._failure = ClientError(error.error_code, type(error).__name__)
            raise self._failure from error
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
                    self._cap_encoder_table()
                    events.append(WindowOpened(0))
                case h2.events.PingAckReceived():
                    events.append(PingAnswered(event.ping_data))
                case h2.events.ConnectionTerminated():
                    events.append(ClientLeaving())
        self._tell_begun(events, begun)
        self._collect()
        return events

    def _request(
        self, event: h2.events.RequestReceived, events: list[Event], begun: dict[int, _Begun]
    ) -> None:
        stream_id = event.stream_id
        try:
            head = read_head(event.headers, ended=event.stream_ended is not None)
        except Malformed as error:
            self._refuse(stream_id, str(error), events)
            return
        incoming = self._incoming[stream_id] = _Incoming(head)
        begun[stream_id] = _Begun(len(events), incoming)
        events.append(RequestEnded(stream_id))  # keeps its place until the body is known

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
        else:
            events.append(DataReceived(stream_id, data))

    def _trailers(self, event: h2.events.TrailersReceived, events: list[Event]) -> None:
        if event.stream_id not in self._incoming:
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
            with suppress(*_CLOSED):
                self._h2.send_headers(stream_id, headers, end_stream=end)
            self._collect()

    def send_data(self, stream_id: int, data: bytes | memoryview, end: bool) -> None:
        if self._failure is None:
            with suppress(*_CLOSED):
                self._h2.send_data(stream_id, data, end_stream=end)
            self._collect()

    def send_response(
        self, stream_id: int, headers: Sequence[tuple[bytes, bytes]], data: bytes, end: bool
    ) -> bool:
        if self._failure is not None:
            return True
        try:
            self._h2.send_headers(stream_id, headers, end_stream=end and not data)
            fits = len(data) <= MAX_FRAME_SIZE and (
                not data or len(data) <= self._h2.local_flow_control_window(stream_id)
            )
            if fits and data:
                self._h2.send_data(stream_id, data, end_stream=end)
        except _CLOSED:
            return True
        self._collect()
        return fits

    def reset(self, stream_id: int, code: int) -> None:
        if self._failure is not None:
            return
        self._incoming.pop(stream_id, None)
        try:
            self._h2.reset_stream(stream_id, code)
        except _CLOSED:
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

    def _cap_encoder_table(self) -> None:
        encoder = self._h2.encoder
        if encoder.header_table_size > MAX_ENCODER_TABLE:
            encoder.header_table_size = MAX_ENCODER_TABLE
        # Told to the client with the next headers. Of many, the smallest and the last count
        # (RFC 7541, 4.2); hpack would keep, and send, all that a client's SETTINGS cause.
        if len(changes := encoder.table_size_changes) > 2:
            encoder.table_size_changes = [min(changes), changes[-1]]

    def _collect(self) -> None:
        self._out += self._h2.data_to_send()


def _told(stream_id: int, head: Head, body: bytes, *, ended: bool) -> Request:
    return Request(stream_id, head.method, head.target, head.protocol, head.headers, body, ended)
