"""One end of a frame connection, as a value: bytes in, events out, no I/O.

Theory of operation. Received bytes collect in a ``FrameReader``; ``next_event``
takes one frame from it, moves the connection's and the stream's state machine
(``_state.py``), and returns the event. The first broken rule ends the
connection: the peer is told why by a GOAWAY, and every later ``next_event``
raises the same error again.

``send`` checks an event against the same tables, encodes it and queues the
frame in the ``Outbox``, which has two lanes. Short frames that carry no message (CANCEL, CREDIT,
PING, GOAWAY) are written before messages, so that a cancel never waits behind
megabytes of DATA. Messages stay in order among themselves, and a CANCEL whose
OPEN is still queued stays behind it.

Two things are forgiven, since they can happen without anyone's fault or cost
only a counter: frames for calls that are over (a cancel may cross a close on the
way), and DATA beyond the credit, which ends that call only. A peer that sends
too many of the former loses the connection.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from msgspec.structs import replace

from prism.contract.exceptions import (
    LocalProtocolError,
    PayloadTooLarge,
    RemoteProtocolError,
)
from prism.contract.messages import Message
from prism.contract.service import REQUEST_TYPE, RESPONSE_TYPE, Method
from prism.contract.status import StatusCode
from prism.wire import codecs, frames, handshake
from prism.wire._state import (
    CALLER,
    CONNECTION,
    HANDLER,
    ConnectionState,
    Role,
    StreamState,
    Trigger,
)
from prism.wire.events import (
    PROTOCOL_VERSION,
    Cancel,
    Close,
    Credit,
    Data,
    Event,
    GoAway,
    GoAwayReason,
    Hello,
    Note,
    Open,
    Overrun,
    Ping,
)
from prism.wire.frames import ACK, END, HEADER_SIZE, NOT_STARTED, Codec, FrameType, Header
from prism.wire.outbox import Outbox
from prism.wire.reader import FrameReader

MAX_HELLO = 64 * 1024
"""Largest HELLO: nobody is trusted with more before they have been greeted."""
MAX_STRAY_FRAMES = 1000
"""Frames for closed or unknown calls that a connection survives in its lifetime."""

Payload = bytes | bytearray

_METHODS = {int(method): method for method in Method}


class _Stream:
    """One open call, seen from this side."""

    __slots__ = ("epoch", "method", "mine", "receive_credit", "send_credit", "state")

    def __init__(
        self, method: Method, mine: bool, state: StreamState, send_credit: int, receive_credit: int
    ) -> None:
        self.method = method
        self.mine = mine
        self.state = state
        self.send_credit = send_credit
        self.receive_credit = receive_credit
        self.epoch = 0


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
        self.stray_frames = 0
        self.last_peer_stream = 0
        self._table = CONNECTION[role]
        self._state = ConnectionState.START
        self._row = self._table[self._state]
        self._streams: dict[int, _Stream] = {}
        self._mine_open = 0
        self._peer_max_frame = self._peer_window = self._peer_max_streams = 0
        self._next_stream = 1 if role is Role.HOST else 2
        self._peer_parity = 0 if role is Role.HOST else 1
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
        """May this side begin a call now?"""
        return Trigger.SENT_OPEN in self._row and self._mine_open < self._peer_max_streams

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

    def send_credit(self, stream: int) -> int:
        """Bytes of DATA the peer has room for; DATA may be sent while it is above 0."""
        entry = self._streams.get(stream)
        return entry.send_credit if entry is not None else 0

    def next_stream(self) -> int:
        """The id for this side's next Open."""
        return self._next_stream

    # -- bytes in, events out -------------------------------------------------

    def receive_data(self, data: bytes | bytearray) -> None:
        """Take in bytes from the peer; ``b""`` says that no more will come."""
        if self._state is not ConnectionState.CLOSED:
            self._reader.feed(data)

    def next_event(self) -> Event | None:
        """What happened next, or ``None`` until more bytes come.

        After the end of the stream, ``None`` comes with ``state`` CLOSED.

        Raises:
            RemoteProtocolError: the peer broke the protocol. A GOAWAY with the
                reason is queued; write what is queued and close.
        """
        if self._error is not None:
            raise self._error
        try:
            while True:
                limit = MAX_HELLO if self.peer_hello is None else self.local_hello.max_frame
                frame = self._reader.next_frame(limit)
                if frame is None:
                    if self._reader.ended:
                        self._move(Trigger.ENDED)
                    return None
                header, payload = frame
                event = self._RECEIVE[header.type](self, header, payload)
                if event is not None:
                    return event
        except RemoteProtocolError as error:
            self._error = error
            self._say_goodbye(str(error))
            raise

    def _say_goodbye(self, reason: str) -> None:
        if Trigger.SENT_GOAWAY in self._row:
            self.send(GoAway(self.last_peer_stream, reason))
        self._state = ConnectionState.CLOSED
        self._row = self._table[self._state]

    # -- events in, bytes out -------------------------------------------------

    def send(self, event: Event) -> None:
        """Queue one event for the peer.

        Raises:
            LocalProtocolError: the event is illegal now; nothing was queued.
            PayloadTooLarge: the encoded message is larger than the peer takes;
                nothing was queued, and the connection is as before.
        """
        try:
            act = self._SEND[type(event)]
        except KeyError:
            raise LocalProtocolError(f"{type(event).__name__} cannot be sent") from None
        act(self, event)

    def data_to_send(self) -> bytes:
        """Take queued frames, urgent ones first; ``b""`` when there are none.

        Returns some 256 KiB at a time, more only where one frame is larger.
        """
        return self._outbox.take()

    def _encode(self, message: Message | Note) -> bytes:
        payload = codecs.encode(self.codec, message)
        if len(payload) > self._peer_max_frame:
            raise PayloadTooLarge(self._peer_max_frame, f"a {type(message).__name__}")
        return payload

    # -- the state machines ---------------------------------------------------

    def _check(self, trigger: Trigger) -> None:
        if trigger not in self._row:
            self._refuse(trigger, f"connection state {self._state.name}")

    def _move(self, trigger: Trigger) -> None:
        self._check(trigger)
        self._state = self._row[trigger]
        self._row = self._table[self._state]

    def _step(self, stream: _Stream, trigger: Trigger) -> None:
        row = (CALLER if stream.mine else HANDLER)[stream.state]
        if trigger not in row:
            self._refuse(trigger, f"stream state {stream.state.name} of {stream.method.name}")
        stream.state = row[trigger]

    @staticmethod
    def _refuse(trigger: Trigger, where: str) -> NoReturn:
        who, _, what = trigger.name.partition("_")
        if who == "RECEIVED":
            raise RemoteProtocolError(f"{what} is not allowed in {where}")
        raise LocalProtocolError(f"cannot send {what} in {where}")

    # -- sending, one kind of event each --------------------------------------

    def _send_hello(self, event: Hello) -> None:
        self._move(Trigger.SENT_HELLO)
        self.local_hello = event
        if self.role is Role.HOST:
            self.codec = codecs.CODEC_NAMES[event.codec]
        payload = codecs.encode(Codec.JSON, event)
        version = event.protocol_max or PROTOCOL_VERSION
        self._outbox.put_urgent(
            frames.pack(FrameType.HELLO, 0, payload, codec=Codec.JSON, aux=version)
        )

    def _send_open(self, event: Open) -> None:
        self._check(Trigger.SENT_OPEN)
        if event.stream != self._next_stream:
            raise LocalProtocolError(f"the next stream is {self._next_stream}, not {event.stream}")
        if not self.can_open:
            raise LocalProtocolError("the peer takes no more calls at a time")
        payload = self._encode(event.message)
        method = event.method
        entry = self._new_stream(method, mine=True, ended=event.end)
        entry.epoch = self._outbox.epoch
        self._streams[event.stream] = entry
        self._mine_open += 1
        self._next_stream += 2
        self._outbox.put(
            frames.pack(
                FrameType.OPEN,
                event.stream,
                payload,
                flags=END if event.end else 0,
                codec=self.codec if payload else Codec.NONE,
                method=method,
                aux=event.deadline_ms,
            ),
        )

    def _new_stream(self, method: Method, *, mine: bool, ended: bool) -> _Stream:
        if method is not Method.EXECUTE_STREAM:
            return _Stream(method, mine, StreamState.ENDED, 0, 0)
        state = StreamState.OPEN
        if ended:
            state = StreamState.SENT_END if mine else StreamState.RECEIVED_END
        return _Stream(method, mine, state, self._peer_window, self.local_hello.window)

    def _send_data(self, event: Data) -> None:
        entry = self._mine_or_theirs(event.stream)
        self._check(Trigger.SENT_DATA)
        if entry.send_credit <= 0:
            raise LocalProtocolError(f"stream {event.stream} has no credit")
        payload = self._encode(event.message)
        self._step(entry, Trigger.SENT_DATA_END if event.end else Trigger.SENT_DATA)
        entry.send_credit -= HEADER_SIZE + len(payload)
        self._outbox.put(
            frames.pack(
                FrameType.DATA,
                event.stream,
                payload,
                flags=END if event.end else 0,
                codec=self.codec if payload else Codec.NONE,
            ),
        )

    def _send_close(self, event: Close) -> None:
        entry = self._mine_or_theirs(event.stream)
        self._check(Trigger.SENT_CLOSE)
        payload = self._encode(event.message) if event.message is not None else b""
        self._step(entry, Trigger.SENT_CLOSE)
        del self._streams[event.stream]
        self._outbox.put(
            frames.pack(
                FrameType.CLOSE,
                event.stream,
                payload,
                flags=NOT_STARTED if event.not_started else 0,
                codec=self.codec if payload else Codec.NONE,
                aux=event.status,
            ),
        )

    def _send_cancel(self, event: Cancel) -> None:
        entry = self._mine_or_theirs(event.stream)
        self._check(Trigger.SENT_CANCEL)
        repeated = entry.state is StreamState.CANCELLED
        self._step(entry, Trigger.SENT_CANCEL)
        if not repeated:
            frame = frames.pack(FrameType.CANCEL, event.stream, aux=event.status)
            on_its_way = entry.epoch < self._outbox.epoch
            (self._outbox.put_urgent if on_its_way else self._outbox.put)(frame)

    def _send_credit(self, event: Credit) -> None:
        entry = self._mine_or_theirs(event.stream)
        self._check(Trigger.SENT_CREDIT)
        self._step(entry, Trigger.SENT_CREDIT)
        entry.receive_credit += event.size
        self._outbox.put_urgent(frames.pack(FrameType.CREDIT, event.stream, aux=event.size))

    def _send_ping(self, event: Ping) -> None:
        self._check(Trigger.SENT_PING)
        flags = ACK if event.ack else 0
        self._outbox.put_urgent(frames.pack(FrameType.PING, flags=flags, aux=event.token))

    def _send_goaway(self, event: GoAway) -> None:
        self._move(Trigger.SENT_GOAWAY)
        reason = GoAwayReason(event.reason[:1000].encode(errors="replace").decode())
        payload = codecs.encode(Codec.JSON, reason)
        self._outbox.put_urgent(
            frames.pack(FrameType.GOAWAY, 0, payload, codec=Codec.JSON, aux=event.last_stream),
        )

    def _send_note(self, event: Note) -> None:
        self._check(Trigger.SENT_NOTE)
        payload = self._encode(event)
        self._outbox.put(frames.pack(FrameType.NOTE, 0, payload, codec=self.codec))

    def _mine_or_theirs(self, stream: int) -> _Stream:
        entry = self._streams.get(stream)
        if entry is None:
            raise LocalProtocolError(f"stream {stream} is not open")
        return entry

    # -- receiving, one kind of frame each ------------------------------------

    def _decode(self, header: Header, kind: type[Any], payload: Payload) -> Any:
        if payload and header.codec != self.codec:
            raise RemoteProtocolError(
                f"{header.type.name} frame in codec {header.codec}; "
                f"this connection agreed on {int(self.codec)} ({self.codec.name})"
            )
        return codecs.decode(self.codec, kind, payload)

    def _decode_json(self, header: Header, kind: type[Any], payload: Payload) -> Any:
        if payload and header.codec != Codec.JSON:
            raise RemoteProtocolError(
                f"{header.type.name} frame in codec {header.codec}; it is always JSON (1)"
            )
        return codecs.decode(Codec.JSON, kind, payload)

    def _stray(self, header: Header) -> None:
        self.stray_frames += 1
        if self.stray_frames > MAX_STRAY_FRAMES:
            raise RemoteProtocolError(
                f"more than {MAX_STRAY_FRAMES} frames for calls that are not open, "
                f"the last a {header.type.name} for stream {header.stream}"
            )

    def _receive_hello(self, header: Header, payload: Payload) -> Event:
        self._check(Trigger.RECEIVED_HELLO)
        hello: Hello = self._decode_json(header, Hello, payload)
        for name in ("max_frame", "window", "max_streams"):
            if not 0 < getattr(hello, name) < 2**32:
                raise RemoteProtocolError(f"HELLO with {name}={getattr(hello, name)}")
        hello = replace(hello, protocol_max=header.aux)
        if self.role is Role.PLUGIN:
            self.codec = handshake.check_answer(self.local_hello, hello)
        self._move(Trigger.RECEIVED_HELLO)
        self.peer_hello = hello
        self._peer_max_frame = hello.max_frame
        self._peer_window = hello.window
        self._peer_max_streams = hello.max_streams
        return hello

    def _receive_open(self, header: Header, payload: Payload) -> Event:
        self._check(Trigger.RECEIVED_OPEN)
        stream = header.stream
        if stream % 2 != self._peer_parity or stream <= self.last_peer_stream:
            raise RemoteProtocolError(
                f"OPEN for stream {stream}: ids of this peer are "
                f"{'odd' if self._peer_parity else 'even'} and above {self.last_peer_stream}"
            )
        method = _METHODS.get(header.method)
        if method is None:
            raise RemoteProtocolError(f"OPEN for unknown method {header.method} (known: 1 to 5)")
        message = self._decode(header, REQUEST_TYPE[method], payload)
        ended = bool(header.flags & END) or method is not Method.EXECUTE_STREAM
        self.last_peer_stream = stream
        self._streams[stream] = self._new_stream(method, mine=False, ended=ended)
        return Open(stream, method, message, header.aux, ended)

    def _receive_data(self, header: Header, payload: Payload) -> Event | None:
        self._check(Trigger.RECEIVED_DATA)
        entry = self._streams.get(header.stream)
        if entry is None:
            self._stray(header)
            return None
        ended = bool(header.flags & END)
        overrun = entry.receive_credit <= 0
        cancelled = entry.state is StreamState.CANCELLED
        self._step(entry, Trigger.RECEIVED_DATA_END if ended else Trigger.RECEIVED_DATA)
        if cancelled:
            return None
        if overrun:
            self._stray(header)
            return Overrun(header.stream)
        size = HEADER_SIZE + len(payload)
        entry.receive_credit -= size
        types = RESPONSE_TYPE if entry.mine else REQUEST_TYPE
        return Data(header.stream, self._decode(header, types[entry.method], payload), ended, size)

    def _receive_close(self, header: Header, payload: Payload) -> Event | None:
        self._check(Trigger.RECEIVED_CLOSE)
        entry = self._streams.get(header.stream)
        if entry is None:
            self._stray(header)
            return None
        self._step(entry, Trigger.RECEIVED_CLOSE)
        message = None
        if payload:
            message = self._decode(header, RESPONSE_TYPE[entry.method], payload)
        del self._streams[header.stream]
        self._mine_open -= 1
        status = StatusCode.from_wire(header.aux)
        return Close(header.stream, status, message, bool(header.flags & NOT_STARTED))

    def _receive_cancel(self, header: Header, _payload: Payload) -> Event | None:
        self._check(Trigger.RECEIVED_CANCEL)
        entry = self._streams.get(header.stream)
        if entry is None:
            self._stray(header)
            return None
        repeated = entry.state is StreamState.CANCELLED
        self._step(entry, Trigger.RECEIVED_CANCEL)
        if repeated:
            self._stray(header)
            return None
        return Cancel(header.stream, StatusCode.from_wire(header.aux))

    def _receive_credit(self, header: Header, _payload: Payload) -> Event | None:
        self._check(Trigger.RECEIVED_CREDIT)
        entry = self._streams.get(header.stream)
        if entry is None:
            self._stray(header)
            return None
        self._step(entry, Trigger.RECEIVED_CREDIT)
        entry.send_credit += header.aux
        if entry.send_credit >= 2**32:
            raise RemoteProtocolError(f"CREDIT on stream {header.stream} adds up to over 2^32")
        return Credit(header.stream, header.aux)

    def _receive_ping(self, header: Header, _payload: Payload) -> Event:
        self._check(Trigger.RECEIVED_PING)
        return Ping(header.aux, bool(header.flags & ACK))

    def _receive_goaway(self, header: Header, payload: Payload) -> Event:
        reason: GoAwayReason = self._decode_json(header, GoAwayReason, payload)
        self._move(Trigger.RECEIVED_GOAWAY)
        return GoAway(header.aux, reason.reason)

    def _receive_note(self, header: Header, payload: Payload) -> Event:
        self._check(Trigger.RECEIVED_NOTE)
        note: Note = self._decode(header, Note, payload)
        return note

    _SEND: ClassVar[dict[type[Event], Callable[["Connection", Any], None]]] = {
        Hello: _send_hello,
        Open: _send_open,
        Data: _send_data,
        Close: _send_close,
        Cancel: _send_cancel,
        Credit: _send_credit,
        Ping: _send_ping,
        GoAway: _send_goaway,
        Note: _send_note,
    }

    _RECEIVE: ClassVar[dict[FrameType, Callable[["Connection", Header, Payload], Event | None]]] = {
        FrameType.HELLO: _receive_hello,
        FrameType.OPEN: _receive_open,
        FrameType.DATA: _receive_data,
        FrameType.CLOSE: _receive_close,
        FrameType.CANCEL: _receive_cancel,
        FrameType.CREDIT: _receive_credit,
        FrameType.PING: _receive_ping,
        FrameType.GOAWAY: _receive_goaway,
        FrameType.NOTE: _receive_note,
    }
