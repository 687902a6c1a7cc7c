"""One end of a frame connection, as a value: bytes in, events out, no I/O.

Theory of operation. Received bytes collect in a ``FrameReader``; ``next_event``
takes one frame from it, moves the connection's and the stream's state machine
(``_state.py``), and returns the event. The first broken rule ends the
connection: the peer is told why by a GOAWAY, and every later ``next_event``
raises the same error again.

``send`` checks an event against the same tables, encodes it, and only then
changes anything: an event that cannot be sent leaves no trace. The frame goes
to the ``Outbox``, which has two lanes. Short frames that carry no message
(CANCEL, CREDIT, PING, GOAWAY) are written before messages, so that a cancel
never waits behind megabytes of DATA. Messages stay in order among themselves,
and a CANCEL or CREDIT whose OPEN is still queued stays behind it.

Two things are forgiven. Frames for calls that are over happen without anyone's
fault, since a cancel may cross a close on the way: they are dropped. DATA
beyond the credit ends that call only. A few things more are a plugin's mistake and do no harm:
``faults`` has them, for who wants to tell.
"""

from collections.abc import Callable
from typing import Any, Final

from prism.contract.errors import (
    LocalProtocolError,
    PayloadTooLarge,
    ProtocolError,
    RemoteProtocolError,
)
from prism.contract.service import RESPONSE_TYPE, Method
from prism.wire import codecs, handshake, serialization
from prism.wire._state import (
    CONNECTION,
    ConnectionState,
    Role,
    StreamState,
    Trigger,
    refusal,
)
from prism.wire.events import (
    MAX_CONTROL_CALLS,
    MAX_LOG_RECORDS,
    Cancel,
    Close,
    Credit,
    Data,
    Event,
    Fault,
    GoAway,
    Hello,
    Note,
    Open,
    Overrun,
    Ping,
)
from prism.wire.frames import (
    ACK,
    END,
    MAX_STREAM_ID,
    Codec,
    Frame,
    FrameReader,
    FrameType,
    pack_pieces,
)
from prism.wire.outbox import Outbox, Packed
from prism.wire.parts import Pieces, size_of
from prism.wire.serialization import MAX_HELLO
from prism.wire.stream import Stream, stream_of

# Every call comes by these: on Python 3.11 an enum's attribute is a Python call.
_CLOSED = ConnectionState.CLOSED
_RECEIVED_OPEN = Trigger.RECEIVED_OPEN
_SENT_CLOSE = Trigger.SENT_CLOSE
_SENT_OPEN = Trigger.SENT_OPEN
_RECEIVED_CLOSE = Trigger.RECEIVED_CLOSE
_EXECUTE = Method.EXECUTE
_CALLS = (_EXECUTE, Method.EXECUTE_STREAM)
_ENDED = StreamState.ENDED
_OPEN = FrameType.OPEN

MAX_UNANSWERED_PINGS = 1000
"""PINGs taken in while no answer leaves: a peer that asks without reading would
otherwise make this side hold answers without bound. An honest one asks rarely."""
MAX_FAULTS = 100
"""Faults kept until they are looked at, which is after each read."""


class Connection:
    """A frame connection for either role.

    ``hello`` is what this side says of itself and the limits it sets. The
    handshake is the caller's: the plugin sends its offer, the host answers what
    ``handshake.answer`` makes of it.
    """

    def __init__(self, role: Role, hello: Hello) -> None:
        self.role = role
        self.local_hello = hello
        self.peer_hello: Hello | None = None
        self.codec = Codec.NONE
        self.faults: list[Fault] = []
        self.last_peer_stream = 0
        self._table = CONNECTION[role]
        self._state = ConnectionState.START
        self._row = self._table[self._state]
        self._streams: dict[int, Stream] = {}
        self._mine_open = 0
        self._mine_control = 0
        self._next_stream = 1 if role is Role.HOST else 2
        self._peer_parity = 0 if role is Role.HOST else 1
        self._max_frame = MAX_HELLO
        self._peer_max_frame = MAX_HELLO
        self._peer_window = 0
        self._peer_max_streams = 0
        self._unanswered = 0
        self._error: RemoteProtocolError | None = None
        self._reader = FrameReader()
        self._outbox = Outbox()

    # -- what a caller may ask ------------------------------------------------

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self._state

    @property
    def can_open(self) -> bool:
        """May this side begin an Execute now? Never again once its ids are used up."""
        return (
            _SENT_OPEN in self._row
            and self._mine_open - self._mine_control < self._peer_max_streams
            and self._next_stream <= MAX_STREAM_ID
        )

    @property
    def can_open_control(self) -> bool:
        """May this side begin an Initialize, HealthCheck or Shutdown now?"""
        return (
            Trigger.SENT_OPEN in self._row
            and self._mine_control < MAX_CONTROL_CALLS
            and self._next_stream <= MAX_STREAM_ID
        )

    @property
    def open_streams(self) -> int:
        """Calls opened by either side and not yet closed."""
        return len(self._streams)

    @property
    def mid_frame(self) -> bool:
        """Has the peer begun a frame and not finished it?"""
        return self._reader.mid_frame

    @property
    def queued_bytes(self) -> int:
        """Bytes that ``data_to_send`` has yet to hand out."""
        return self._outbox.size

    def is_open(self, stream: int) -> bool:
        """Is this call still without its CLOSE?"""
        return stream in self._streams

    def method_of(self, stream: int) -> Method:
        """What was called; of a call that ``is_open``."""
        return self._streams[stream].method

    def is_cancelled(self, stream: int) -> bool:
        """Does this call, not yet closed, have its CANCEL?"""
        entry = self._streams.get(stream)
        return entry is not None and entry.state is StreamState.CANCELLED

    def send_credit(self, stream: int) -> int:
        """Bytes of DATA the peer has room for; DATA may be sent while it is above 0.

        It is 0 once no more may be sent, as after the peer's CANCEL.
        """
        entry = self._streams.get(stream)
        return entry.send_credit if entry is not None and entry.may_send_data else 0

    def next_stream(self) -> int:
        """The id for this side's next Open."""
        return self._next_stream

    @property
    def is_broken(self) -> bool:
        """Has the peer broken a rule? What it had sent before may have been handed out last."""
        return self._error is not None

    # -- bytes in, events out -------------------------------------------------

    def receive_data(self, data: bytes | bytearray) -> None:
        """Take in bytes from the peer; ``b""`` says that no more will come.

        What comes after that, or after the connection was CLOSED, is ignored.
        """
        self._reader.feed(data)

    def next_event(self) -> Event | None:
        """What happened next, or ``None`` until more bytes come.

        After the end of the stream, ``None`` comes with ``state`` CLOSED.

        Raises:
            RemoteProtocolError: the peer broke the protocol. A GOAWAY with the
                reason is queued; write what is queued and close.
        """
        self._raise_error()
        try:
            return self._next_event()
        except RemoteProtocolError as error:
            self._break(error)
            raise

    def next_events(self) -> list[Event]:
        """All that ``next_event`` would tell now, in one go.

        Raises:
            RemoteProtocolError: as ``next_event``, once what came before it was handed out, and
                could be answered: only then is the connection CLOSED.
        """
        self._raise_error()
        events: list[Event] = []
        try:
            while (event := self._next_event()) is not None:
                events.append(event)
        except RemoteProtocolError as error:
            if not events:
                self._break(error)
                raise
            self._error = error
        return events

    def _next_event(self) -> Event | None:
        while self._state is not _CLOSED:
            frame = self._reader.next_frame(self._max_frame)
            if frame is None:
                if self._reader.ended:
                    self._enter(self._after(Trigger.ENDED))
                return None
            event = _RECEIVE[frame.kind](self, frame)
            if event is not None:
                return event
        return None

    def _raise_error(self) -> None:
        """The peer broke a rule, and what came before that was handed out."""
        if self._error is None:
            return
        if self._state is not _CLOSED:
            self._break(self._error)
        raise self._error

    def _break(self, error: RemoteProtocolError) -> None:
        """The peer broke a rule: tell it why, and be closed."""
        self._error = error
        if Trigger.SENT_GOAWAY in self._row:
            self.send(GoAway(self.last_peer_stream, str(error)))
        self._enter(_CLOSED)

    # -- events in, bytes out -------------------------------------------------

    def send(self, event: Event) -> None:
        """Queue one event for the peer.

        Raises:
            LocalProtocolError: the event is illegal now, or a value in it is;
                nothing was queued or changed.
            PayloadTooLarge: the encoded message is larger than the peer takes;
                nothing was queued or changed.
        """
        try:
            act = _SEND[type(event)]
        except KeyError:
            raise LocalProtocolError(f"{type(event).__name__} cannot be sent") from None
        act(self, event)

    def data_to_send(self) -> bytes:
        """Take queued frames, urgent ones first; ``b""`` when there are none.

        Returns some 256 KiB at a time, more only where one frame is larger.
        """
        taken = self.pieces_to_send()
        return taken if isinstance(taken, bytes) else b"".join(taken)

    def pieces_to_send(self) -> bytes | Pieces:
        """As ``data_to_send``, for who can send pieces one after another: what is large is not
        copied."""
        self._unanswered = 0
        return self._outbox.take()

    @property
    def bytes_begun(self) -> bytes:
        """What has come of a frame that is incomplete; nothing where that is large."""
        return self._reader.begun

    @property
    def bytes_missing(self) -> int:
        """How many bytes are known to be missing of a large frame that the peer has begun."""
        return self._reader.missing

    # -- the state machine of the connection ----------------------------------

    def _after(self, trigger: Trigger) -> ConnectionState:
        """The state that ``trigger`` leads to; raises where it is illegal."""
        state = self._row.get(trigger)
        if state is None:
            raise self._refusal(trigger)
        return state

    def _refusal(self, trigger: Trigger) -> ProtocolError:
        return refusal(trigger, f"connection state {self._state.name}")

    def _enter(self, state: ConnectionState) -> None:
        self._state = state
        self._row = self._table[state]
        if state is ConnectionState.CLOSED:
            self._reader.discard()

    # -- sending: check, encode, and only then change something ---------------

    def _open_stream(self, stream: int) -> Stream:
        entry = self._streams.get(stream)
        if entry is None:
            raise LocalProtocolError(f"stream {stream} is not open")
        return entry

    def _send_hello(self, event: Hello) -> None:
        after = self._after(Trigger.SENT_HELLO)
        if wrong := handshake.wrong_limit(event):
            raise LocalProtocolError(wrong)
        if self.role is Role.HOST:
            offered = self.peer_hello.codecs if self.peer_hello is not None else ()
            if event.codec not in offered or event.codec not in codecs.CODEC_NAMES:
                raise LocalProtocolError(f"codec {event.codec!r}; offered were {list(offered)}")
        self._outbox.put_urgent(serialization.pack_hello(event))
        self.local_hello = event
        if self.role is Role.HOST:
            self.codec = codecs.CODEC_NAMES[event.codec]
        self._enter(after)

    def _send_open(self, event: Open) -> None:
        self._after(Trigger.SENT_OPEN)
        if event.stream != self._next_stream:
            raise LocalProtocolError(f"the next stream is {self._next_stream}, not {event.stream}")
        control = event.method not in _CALLS
        if control and self._mine_control >= MAX_CONTROL_CALLS:
            raise LocalProtocolError(f"{MAX_CONTROL_CALLS} calls of this kind are open already")
        if not control and self._mine_open - self._mine_control >= self._peer_max_streams:
            raise LocalProtocolError(f"the peer takes {self._peer_max_streams} calls at a time")
        frame = serialization.pack_open(event, self.codec, self._peer_max_frame)
        entry = stream_of(event, True, self._peer_window, self.local_hello.window)
        self._opened(event.stream, entry, frame)
        self._mine_control += control

    def _opened(self, stream: int, entry: Stream, frame: Packed) -> None:
        entry.ticket = self._outbox.put(frame)
        self._streams[stream] = entry
        self._mine_open += 1
        self._next_stream = stream + 2

    def open_execute(self, payload: Pieces, deadline_ms: int) -> int:
        """As ``send`` of an ``Open`` of EXECUTE whose request is encoded already in this
        connection's codec, and comes in pieces; returns the call's id.

        Raises:
            LocalProtocolError: a call may not be opened now, or not with this deadline.
            PayloadTooLarge: the peer takes no message of this size.
        """
        if not self.can_open:
            raise LocalProtocolError("a call may not be opened now")
        if size_of(payload) > self._peer_max_frame:
            whose = ", which the plugin's HELLO names as max_frame"
            raise PayloadTooLarge(self._peer_max_frame, "the call with its metadata", whose)
        stream = self._next_stream
        frame = pack_pieces(
            _OPEN,
            stream,
            payload,
            flags=END,
            codec=self.codec,
            method=_EXECUTE,
            aux=deadline_ms,
        )
        self._opened(stream, Stream(_EXECUTE, True, _ENDED), frame)
        return stream

    def _send_data(self, event: Data) -> None:
        self._after(Trigger.SENT_DATA)
        entry = self._open_stream(event.stream)
        after = entry.after(Trigger.SENT_DATA_END if event.end else Trigger.SENT_DATA)
        if entry.send_credit <= 0:
            raise LocalProtocolError(f"stream {event.stream} has no credit")
        frame = serialization.pack_data(event, entry.sends, self.codec, self._peer_max_frame)
        self._outbox.put(frame)
        entry.send_credit -= size_of(frame)
        entry.state = after

    def _send_close(self, event: Close) -> None:
        if _SENT_CLOSE not in self._row:
            raise self._refusal(_SENT_CLOSE)
        entry = self._open_stream(event.stream)
        entry.after(_SENT_CLOSE)
        kind = RESPONSE_TYPE[entry.method]
        frame = serialization.pack_close(event, kind, self.codec, self._peer_max_frame)
        self._outbox.put(frame)
        del self._streams[event.stream]

    def _send_cancel(self, event: Cancel) -> None:
        self._after(Trigger.SENT_CANCEL)
        entry = self._open_stream(event.stream)
        after = entry.after(Trigger.SENT_CANCEL)
        frame = serialization.pack_cancel(event)
        if entry.state is StreamState.CANCELLED:
            return
        self._outbox.put_after(entry.ticket, frame)
        entry.state = after

    def _send_credit(self, event: Credit) -> None:
        self._after(Trigger.SENT_CREDIT)
        entry = self._open_stream(event.stream)
        entry.after(Trigger.SENT_CREDIT)
        credit = entry.receive_credit + event.size
        if credit >= 2**32:
            raise LocalProtocolError(f"credit of stream {event.stream} would be {credit}")
        self._outbox.put_after(entry.ticket, serialization.pack_credit(event))
        entry.receive_credit = credit

    def _send_ping(self, event: Ping) -> None:
        self._after(Trigger.SENT_PING)
        self._outbox.put_urgent(serialization.pack_ping(event))

    def _send_goaway(self, event: GoAway) -> None:
        after = self._after(Trigger.SENT_GOAWAY)
        self._outbox.put_urgent(serialization.pack_goaway(event, self._peer_max_frame))
        self._enter(after)

    def _send_note(self, event: Note) -> None:
        self._after(Trigger.SENT_NOTE)
        self._outbox.put(serialization.pack_note(event, self.codec, self._peer_max_frame))

    # -- receiving, one kind of frame each ------------------------------------

    def _find_stream(self, frame: Frame) -> Stream | None:
        """The call a frame belongs to; ``None`` for one that is over.

        Raises:
            RemoteProtocolError: there never was such a call.
        """
        entry = self._streams.get(frame.stream)
        if entry is None:
            theirs = frame.stream % 2 == self._peer_parity
            newest = self.last_peer_stream if theirs else self._next_stream - 2
            if frame.stream > newest:
                raise RemoteProtocolError(
                    f"{frame.name} for stream {frame.stream}, which was never opened"
                )
            if not theirs and self.role is Role.HOST:
                # A cancelled call is not over: here there was a CLOSE, and nothing may follow it.
                what = f"{frame.name} for call {frame.stream} after its CLOSE"
                self._forgive("after_close", what)
        return entry

    def _forgive(self, rule: str, what: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(rule, what))

    def _expect_reading(self) -> None:
        self._unanswered += 1
        if self._unanswered > MAX_UNANSWERED_PINGS + self.local_hello.max_streams:
            raise RemoteProtocolError(
                f"{self._unanswered} PINGs and OPENs arrived while no answer could leave"
            )

    def _receive_hello(self, frame: Frame) -> Event:
        after = self._after(Trigger.RECEIVED_HELLO)
        hello = serialization.unpack_hello(frame)
        if wrong := handshake.wrong_limit(hello):
            raise RemoteProtocolError(wrong)
        if self.role is Role.PLUGIN:
            self.codec = handshake.check_answer(self.local_hello, hello)
        self.peer_hello = hello
        self._max_frame = self.local_hello.max_frame
        self._peer_max_frame = hello.max_frame
        self._peer_window = hello.window
        self._peer_max_streams = hello.max_streams
        self._enter(after)
        return hello

    def _receive_open(self, frame: Frame) -> Event:
        if _RECEIVED_OPEN not in self._row:
            raise self._refusal(_RECEIVED_OPEN)
        stream = frame.stream
        if stream % 2 != self._peer_parity or stream <= self.last_peer_stream:
            raise RemoteProtocolError(
                f"OPEN for stream {stream}: ids of this peer are "
                f"{'odd' if self._peer_parity else 'even'} and above {self.last_peer_stream}"
            )
        if len(self._streams) - self._mine_open >= self.local_hello.max_streams + MAX_CONTROL_CALLS:
            raise RemoteProtocolError(
                f"OPEN beyond the {self.local_hello.max_streams} calls this side takes at a time"
            )
        self._expect_reading()
        event = serialization.unpack_open(frame, self.codec)
        self.last_peer_stream = stream
        self._streams[stream] = stream_of(event, False, self._peer_window, self.local_hello.window)
        return event

    def _receive_data(self, frame: Frame) -> Event | None:
        self._after(Trigger.RECEIVED_DATA)
        entry = self._find_stream(frame)
        if entry is None:
            return None
        ended = frame.flags & END
        entry.state = entry.after(Trigger.RECEIVED_DATA_END if ended else Trigger.RECEIVED_DATA)
        if entry.state is StreamState.CANCELLED or entry.overrun:
            return None
        if entry.receive_credit <= 0:
            entry.overrun = True
            return Overrun(frame.stream)
        event = serialization.unpack_data(frame, entry.receives, self.codec)
        entry.receive_credit -= event.size
        return event

    def _receive_close(self, frame: Frame) -> Event | None:
        if _RECEIVED_CLOSE not in self._row:
            raise self._refusal(_RECEIVED_CLOSE)
        entry = self._find_stream(frame)
        if entry is None:
            return None
        entry.after(_RECEIVED_CLOSE)
        event = serialization.unpack_close(frame, RESPONSE_TYPE[entry.method], self.codec)
        del self._streams[frame.stream]
        self._mine_open -= 1
        if entry.method not in _CALLS:
            self._mine_control -= 1
        return event

    def _receive_cancel(self, frame: Frame) -> Event | None:
        self._after(Trigger.RECEIVED_CANCEL)
        entry = self._find_stream(frame)
        if entry is None:
            return None
        after = entry.after(Trigger.RECEIVED_CANCEL)
        if entry.state is StreamState.CANCELLED:
            return None
        entry.state = after
        return serialization.unpack_cancel(frame)

    def _receive_credit(self, frame: Frame) -> Event | None:
        self._after(Trigger.RECEIVED_CREDIT)
        entry = self._find_stream(frame)
        if entry is None:
            return None
        entry.after(Trigger.RECEIVED_CREDIT)
        entry.send_credit += frame.aux
        if entry.send_credit >= 2**32:
            raise RemoteProtocolError(f"CREDIT on stream {frame.stream} adds up to over 2^32")
        return Credit(frame.stream, frame.aux)

    def _receive_ping(self, frame: Frame) -> Event:
        self._after(Trigger.RECEIVED_PING)
        answered = bool(frame.flags & ACK)
        if not answered:
            self._expect_reading()
        return Ping(frame.aux, answered)

    def _receive_goaway(self, frame: Frame) -> Event:
        after = self._after(Trigger.RECEIVED_GOAWAY)
        event = serialization.unpack_goaway(frame)
        self._enter(after)
        return event

    def _receive_note(self, frame: Frame) -> Event:
        self._after(Trigger.RECEIVED_NOTE)
        note, whole = serialization.unpack_note(frame, self.codec)
        if not whole:
            self._forgive("long_note", f"a NOTE with more than {MAX_LOG_RECORDS} log records")
        return note


_SEND: Final[dict[type[Event], Callable[[Connection, Any], None]]] = {
    Hello: Connection._send_hello,
    Open: Connection._send_open,
    Data: Connection._send_data,
    Close: Connection._send_close,
    Cancel: Connection._send_cancel,
    Credit: Connection._send_credit,
    Ping: Connection._send_ping,
    GoAway: Connection._send_goaway,
    Note: Connection._send_note,
}

_RECEIVE: Final[dict[int, Callable[[Connection, Frame], Event | None]]] = {
    FrameType.HELLO: Connection._receive_hello,
    FrameType.OPEN: Connection._receive_open,
    FrameType.DATA: Connection._receive_data,
    FrameType.CLOSE: Connection._receive_close,
    FrameType.CANCEL: Connection._receive_cancel,
    FrameType.CREDIT: Connection._receive_credit,
    FrameType.PING: Connection._receive_ping,
    FrameType.GOAWAY: Connection._receive_goaway,
    FrameType.NOTE: Connection._receive_note,
}
