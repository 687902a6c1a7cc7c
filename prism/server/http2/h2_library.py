"""The h2 library set up as a server, with the habits changed that a client could abuse."""

from collections.abc import Iterable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import hpack
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream
from hyperframe.frame import Frame, GoAwayFrame, RstStreamFrame, SettingsFrame

from prism.server.http2.codec import MAX_FRAME_SIZE
from prism.server.settings import ServerSettings

MAX_ENCODER_TABLE = 4096
"""Of the HPACK table kept for responses. A client may offer a larger one, and would
make the server keep every distinct response header (a request id) in memory."""

HARD_HEADER_LIMIT = 4
"""How much of a header section that is refused is still decoded, in limits: HPACK's state is the
connection's, and ends with the first section that is not decoded whole."""

_UNLIMITED_STREAMS = 2**31 - 1
"""h2 ends a connection that exceeds its stream limit. So h2 is told of none, and the
connection refuses streams above the announced one, one by one."""

CLOSED = (
    h2.exceptions.StreamClosedError,
    h2.exceptions.NoSuchStreamError,
    h2.exceptions.StreamIDTooLowError,
)
"""What h2 raises when asked to send on a stream that is no more."""

_KNOWN_SETTINGS = frozenset(SettingCodes)


REMEMBERED = 16
"""How many header sections of a connection are remembered ..."""
MEMORABLE = 512
"""... and up to how many bytes, compressed: clients repeat what they have asked before."""
MEMORABLE_FIELDS = 32
"""Each may be a single byte, compressed."""

NOT_INDEXED = frozenset({b"x-request-id", b"ratelimit"})
"""Headers that hardly two responses share. In HPACK's table they would only drive out others, and
hpack searches the whole of it for each header."""


class _Decoder(hpack.Decoder):
    """hpack limits the size of a header section, not how many fields there are; and decodes the
    same one, some hundred times slower than it is found here, over and over.

    What a section means depends on the table. So those that have changed nothing in it are
    remembered, for as long as it stays the same: each entry that is added is a new object.
    """

    def __init__(self, max_size: int, max_fields: int) -> None:
        super().__init__(max_size)
        self._max_fields = max_fields
        self._known: dict[bytes, list[hpack.HeaderTuple]] = {}
        self._newest: object = None
        self._shape = (0, 0)

    def decode(self, data: bytes, raw: bool = False) -> Iterable[hpack.HeaderTuple]:
        if self._has_changed():
            self._known.clear()
        elif (known := self._known.get(data)) is not None:
            return known
        fields = list(super().decode(data, raw))
        if len(fields) > self._max_fields:
            raise hpack.OversizedHeaderListError
        if self._has_changed():
            self._known.clear()
        elif len(data) <= MEMORABLE and len(fields) <= MEMORABLE_FIELDS:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[data] = fields
        return fields

    def _has_changed(self) -> bool:
        """Whether the table is another one than when this was asked before."""
        table = self.header_table
        newest = table.dynamic_entries[0] if table.dynamic_entries else None
        shape = (len(table.dynamic_entries), table.maxsize)
        if newest is self._newest and shape == self._shape:
            return False
        self._newest, self._shape = newest, shape
        return True


class _Encoder(hpack.Encoder):
    """Leaves out Huffman's code, which saves a response some ten bytes, and in Python costs a
    twentieth of a call."""

    def encode(self, headers: Any, huffman: bool = False) -> bytes:
        return super().encode(headers, huffman)


class AdjustedH2Connection(h2.connection.H2Connection):
    """h2's connection. What each method changes stands in its docstring."""

    MAX_CLOSED_STREAMS = 2**12
    """Of how many ended streams h2 remembers how they ended. It would keep 65,536, which are
    7 MB; what still comes for a stream that was reset is a matter of a round trip."""

    COUNT_EVERY = 32
    """Streams begun between two counts of the open ones."""

    _began = False
    _uncounted = 0

    @property
    def open_inbound_streams(self) -> int:
        """h2 counts its streams with each new one, and forgets the closed ones by the way. None
        is too many for it here (see ``_UNLIMITED_STREAMS``), so it may do so now and then."""
        self._uncounted -= 1
        if self._uncounted <= 0:
            self._uncounted = self.COUNT_EVERY
            return super().open_inbound_streams
        return 0

    def release(self) -> None:
        """Let go of itself: h2 keeps its own methods in a table, a cycle for each connection."""
        self._frame_dispatch_table.clear()

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
        # h2 has no switch for it.
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
        """h2 keeps every setting, known or not: 65,536 of them take 50 MB of memory.

        And a client may make its encoder's table as large as it likes.
        """
        settings = frame.settings.items()
        frame.settings = {key: value for key, value in settings if key in _KNOWN_SETTINGS}
        received = super()._receive_settings_frame(frame)
        self._cap_encoder_table()
        return received

    def _cap_encoder_table(self) -> None:
        encoder = self.encoder
        if encoder.header_table_size > MAX_ENCODER_TABLE:
            encoder.header_table_size = MAX_ENCODER_TABLE
        # Told to the client with the next headers. Of many, the smallest and the last count
        # (RFC 7541, 4.2); hpack would keep, and send, all that a client's SETTINGS cause.
        if len(changes := encoder.table_size_changes) > 2:
            encoder.table_size_changes = [min(changes), changes[-1]]


def _ignore(headers: object) -> None:
    pass


def open_connection(settings: ServerSettings) -> AdjustedH2Connection:
    """A server's connection, its SETTINGS ready to be sent."""
    connection = AdjustedH2Connection(
        h2.config.H2Configuration(
            client_side=False,
            header_encoding=None,
            # `request` checks what comes; what goes is the front ends' (`server.exchange.Headers`)
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
    connection.local_settings = Settings(client=False, initial_values=announced)
    connection.encoder = _Encoder()
    connection.decoder = _Decoder(
        HARD_HEADER_LIMIT * settings.max_header_size,
        HARD_HEADER_LIMIT * settings.max_header_fields,
    )
    connection.max_inbound_frame_size = MAX_FRAME_SIZE
    connection.initiate_connection()
    enforced = {**announced, SettingCodes.MAX_CONCURRENT_STREAMS: _UNLIMITED_STREAMS}
    connection.local_settings = Settings(client=False, initial_values=enforced)
    grow = settings.connection_window - connection.inbound_flow_control_window
    if grow > 0:
        connection.increment_flow_control_window(grow)
    return connection
