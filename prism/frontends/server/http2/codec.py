"""The HTTP/2 wire format on the h2 library: bytes in, events out; calls in, bytes out.

The connection uses nothing of h2 but what this class offers, so that another
implementation can stand in its place.
"""

import base64
from collections.abc import Iterable
from typing import NamedTuple

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import Frame, GoAwayFrame, SettingsFrame

from prism.frontends.server.asgi import Headers
from prism.frontends.server.http2.limits import ClientError
from prism.frontends.server.settings import ServerSettings

MAX_FRAME_SIZE = 16 * 1024
"""Of DATA both ways, HTTP/2's default: streams take turns by frames of this size."""

MAX_ENCODER_TABLE = 4096
"""Of the HPACK table kept for responses. A client may offer a larger one, and would
make the server keep every distinct response header (a request id) in memory."""

_HARD_STREAM_LIMIT = 2
"""h2 ends a connection that exceeds its stream limit. So h2 is told this multiple of
the announced limit, and streams above the announced one are refused one by one."""


class RequestStarted(NamedTuple):
    """A request's header section is complete."""

    stream_id: int
    headers: Headers


class DataReceived(NamedTuple):
    """``size`` counts padding too; give it back with ``Codec.consumed``."""

    stream_id: int
    data: bytes
    size: int


class RequestEnded(NamedTuple):
    """Nothing more of the request comes (its trailers, if any, are dropped)."""

    stream_id: int


class StreamReset(NamedTuple):
    """The client wants no response any more."""

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
    RequestStarted
    | DataReceived
    | RequestEnded
    | StreamReset
    | WindowOpened
    | PingAnswered
    | ClientLeaving
)


_KNOWN_SETTINGS = frozenset(SettingCodes)


class _Connection(h2.connection.H2Connection):
    """h2 with two habits changed that a client could turn against the server."""

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


class Codec:
    """One server-side HTTP/2 connection, sans-I/O.

    ``upgrade`` is the SETTINGS payload of an HTTP/1.1 request that is now stream 1.

    Raises:
        ClientError: ``upgrade`` holds invalid settings.
    """

    def __init__(self, settings: ServerSettings, upgrade: bytes | None = None) -> None:
        self._out = bytearray()
        self._h2 = _Connection(
            h2.config.H2Configuration(
                client_side=False,
                header_encoding=None,
                # checked by asgi.checked_headers, at a fraction of the cost
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        announced = {
            SettingCodes.MAX_CONCURRENT_STREAMS: settings.max_concurrent_streams,
            SettingCodes.MAX_HEADER_LIST_SIZE: settings.max_header_size,
            SettingCodes.INITIAL_WINDOW_SIZE: settings.stream_window,
            SettingCodes.MAX_FRAME_SIZE: MAX_FRAME_SIZE,
        }
        self._h2.local_settings = Settings(client=False, initial_values=announced)
        self._h2.decoder.max_header_list_size = settings.max_header_size
        self._h2.max_inbound_frame_size = MAX_FRAME_SIZE
        if upgrade is None:
            self._h2.initiate_connection()
        else:
            self._upgrade(upgrade)
        enforced = {**announced}
        enforced[SettingCodes.MAX_CONCURRENT_STREAMS] *= _HARD_STREAM_LIMIT
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
        """Bytes produced and not yet taken."""
        return len(self._out)

    @property
    def last_stream_id(self) -> int:
        """The highest stream the client has opened."""
        return self._h2.highest_inbound_stream_id

    def take(self) -> bytearray:
        """All bytes that are to be sent now."""
        out, self._out = self._out, bytearray()
        return out

    def receive(self, data: bytes) -> list[Event]:
        """Take in bytes, cut anywhere; answers PING and SETTINGS by itself.

        Raises:
            ClientError: the client broke the protocol; GOAWAY is not yet sent.
        """
        try:
            received = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self._h2.clear_outbound_data_buffer()  # h2's own GOAWAY
            raise ClientError(error.error_code, type(error).__name__) from error
        events: list[Event] = []
        for event in received:
            match event:
                case h2.events.RequestReceived():
                    events.append(RequestStarted(event.stream_id, event.headers))
                case h2.events.DataReceived():
                    size = event.flow_controlled_length
                    events.append(DataReceived(event.stream_id, event.data, size))
                case h2.events.StreamEnded():
                    events.append(RequestEnded(event.stream_id))
                case h2.events.StreamReset():
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
        self._collect()
        return events

    def consumed(self, stream_id: int, size: int) -> None:
        """``size`` bytes, counted as in ``DataReceived``, were used or dropped.

        The client may send more in exchange: on a stream already closed, on others only.
        """
        self._h2.acknowledge_received_data(size, stream_id)
        self._collect()

    def window(self, stream_id: int) -> int:
        """How many body bytes the client takes now on an open stream; may be negative."""
        return self._h2.local_flow_control_window(stream_id)

    def send_headers(
        self, stream_id: int, headers: Iterable[tuple[bytes, bytes]], *, end: bool
    ) -> None:
        self._h2.send_headers(stream_id, headers, end_stream=end)
        self._collect()

    def send_data(self, stream_id: int, data: bytes | memoryview, *, end: bool) -> None:
        """One DATA frame: at most ``MAX_FRAME_SIZE`` bytes, and within the window."""
        self._h2.send_data(stream_id, data, end_stream=end)
        self._collect()

    def reset(self, stream_id: int, code: ErrorCodes) -> None:
        """RST_STREAM, unless the stream is closed already."""
        try:
            self._h2.reset_stream(stream_id, code)
        except h2.exceptions.StreamClosedError:
            return
        self._collect()

    def ping(self, payload: bytes) -> None:
        self._h2.ping(payload)
        self._collect()

    def goaway(self, last_stream_id: int, code: ErrorCodes) -> None:
        """GOAWAY. Not h2's own, after which h2 would refuse to send the open responses."""
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
