"""Two connections talk over a lossless pipe that cuts bytes at will.

A model with plain booleans, written apart from the tables in ``_state.py``, says
which sends are legal. Legal ones must arrive as equal events; others must raise
LocalProtocolError and change nothing.
"""

from dataclasses import dataclass, field
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from prism.contract.errors import LocalProtocolError, PayloadTooLarge
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    InitializeRequest,
    StreamRequest,
    StreamResponse,
)
from prism.contract.service import Method
from prism.contract.status import StatusCode
from prism.wire.connection import Connection
from prism.wire.events import (
    MAX_CONTROL_CALLS,
    Cancel,
    Close,
    Credit,
    Data,
    Event,
    GoAway,
    Hello,
    LogRecord,
    Note,
    Open,
    Overrun,
    Ping,
)

MAX_STREAMS = 3
WINDOW = 120
MAX_FRAME = 400
TOO_LARGE = "x" * (MAX_FRAME + 1)

texts = st.one_of(st.text(max_size=15), st.just("x" * 150), st.just(TOO_LARGE))
statuses = st.sampled_from(StatusCode)


@dataclass
class Call:
    mine: bool
    streaming: bool
    may_send: bool
    credit: int
    given: int
    cancelled: bool = False
    control: bool = False


def is_control(event: Open) -> bool:
    return event.method not in (Method.EXECUTE, Method.EXECUTE_STREAM)


@dataclass
class Side:
    """What one side knows, by the model."""

    connection: Connection
    next_id: int
    calls: dict[int, Call] = field(default_factory=dict)
    may_open: bool = True
    sent: list[Event] = field(default_factory=list)
    opened: int = 0
    closed: int = 0
    pipe: bytearray = field(default_factory=bytearray)

    def has_room(self, *, control: bool) -> bool:
        limit = MAX_CONTROL_CALLS if control else MAX_STREAMS
        open_now = sum(call.mine and call.control is control for call in self.calls.values())
        return self.may_open and open_now < limit

    def allows(self, event: Event) -> bool:
        if isinstance(event, Open):
            return self.has_room(control=is_control(event)) and event.stream == self.next_id
        if isinstance(event, Ping | Note | GoAway):
            return True
        if isinstance(event, Hello | Overrun):
            return False
        call = self.calls.get(event.stream)
        if call is None:
            return False
        if isinstance(event, Data):
            return call.streaming and call.may_send and not call.cancelled and call.credit > 0
        if isinstance(event, Close):
            return not call.mine
        if isinstance(event, Cancel):
            return call.mine
        return call.given + event.size < 2**32

    def did_send(self, event: Event, size: int) -> None:
        if isinstance(event, Open):
            streaming = event.method is Method.EXECUTE_STREAM
            window = WINDOW if streaming else 0
            may_send = streaming and not event.end
            self.calls[event.stream] = Call(
                True, streaming, may_send, window, window, control=is_control(event)
            )
            self.next_id += 2
            self.opened += 1
        elif isinstance(event, Data):
            call = self.calls[event.stream]
            call.credit -= size
            call.may_send = not event.end
        elif isinstance(event, Close):
            del self.calls[event.stream]
        elif isinstance(event, Credit):
            self.calls[event.stream].given += event.size
        elif isinstance(event, Cancel):
            repeated, self.calls[event.stream].cancelled = self.calls[event.stream].cancelled, True
            if repeated:
                return
        self.sent.append(event)

    def did_receive(self, event: Event) -> None:
        if isinstance(event, Open):
            streaming = event.method is Method.EXECUTE_STREAM
            window = WINDOW if streaming else 0
            self.calls[event.stream] = Call(False, streaming, streaming, window, window)
        elif isinstance(event, Data):
            self.calls[event.stream].given -= event.size
        elif isinstance(event, Close):
            del self.calls[event.stream]
            self.closed += 1
        elif isinstance(event, Cancel):
            self.calls[event.stream].cancelled = True
        elif isinstance(event, Credit):
            self.calls[event.stream].credit += event.size
        elif isinstance(event, GoAway):
            self.may_open = False


def picture(connection: Connection) -> object:
    """Everything that a refused send must leave as it was."""
    streams = {
        number: (entry.state, entry.send_credit, entry.receive_credit, entry.overrun)
        for number, entry in connection._streams.items()
    }
    return (
        streams,
        connection.state,
        connection.queued_bytes,
        connection.next_stream(),
        connection.can_open,
        connection.codec,
        connection.local_hello,
        connection._mine_open,
        connection._mine_control,
    )


class Conversation(RuleBasedStateMachine):
    codec = "json"
    connected = None

    def __init__(self) -> None:
        super().__init__()
        # Small writes, so that frames stay queued over several of them.
        self.small_writes = mock.patch("prism.wire.outbox.MAX_WRITE", 100)
        self.small_writes.start()

    @initialize()
    def connect(self) -> None:
        hello = Hello(name="x", max_streams=MAX_STREAMS, window=WINDOW, max_frame=MAX_FRAME)
        host, plugin = type(self).connected(self.codec, host=hello, plugin=hello)
        self.sides = (Side(host, 1), Side(plugin, 2))

    def send(self, which: int, event: Event) -> None:
        side = self.sides[which]
        connection = side.connection
        before = picture(connection)
        if not side.allows(event):
            with pytest.raises(LocalProtocolError):
                connection.send(event)
            assert picture(connection) == before
            return
        queued = connection.queued_bytes
        try:
            connection.send(event)
        except PayloadTooLarge:
            assert TOO_LARGE in repr(event)
            assert picture(connection) == before
            return
        size = connection.queued_bytes - queued
        side.did_send(event, size)

    which = st.integers(0, 1)
    # Mostly ids that may well be in use, some that are not.
    number = st.integers(1, 12)

    @rule(which=which, text=texts, ms=st.integers(0, 2**32 - 1))
    def open_unary(self, which: int, text: str, ms: int) -> None:
        request = ExecuteRequest(operation="get", params_json=text, metadata={"a": text[:3]})
        self.send(which, Open(self.sides[which].next_id, Method.EXECUTE, request, ms))

    @rule(which=which, text=texts, end=st.booleans())
    def open_stream(self, which: int, text: str, end: bool) -> None:
        request = StreamRequest(operation="watch", params_json=text)
        number = self.sides[which].next_id
        self.send(which, Open(number, Method.EXECUTE_STREAM, request, end=end))

    @rule(which=which, number=number)
    def open_any_id(self, which: int, number: int) -> None:
        self.send(which, Open(number, Method.INITIALIZE, InitializeRequest(namespace="n")))

    @rule(which=which, number=number, text=texts, end=st.booleans())
    def data(self, which: int, number: int, text: str, end: bool) -> None:
        call = self.sides[which].calls.get(number)
        mine = call.mine if call is not None else True
        message = StreamRequest(params_json=text) if mine else StreamResponse(result_json=text)
        self.send(which, Data(number, message, end))

    @rule(which=which, number=number, status=statuses, text=texts, not_started=st.booleans())
    def close(
        self, which: int, number: int, status: StatusCode, text: str, not_started: bool
    ) -> None:
        message: ExecuteResponse | StreamResponse | None = None
        entry = self.sides[which].connection._streams.get(number)
        if entry is not None and entry.method is Method.EXECUTE:
            message = ExecuteResponse(success=True, result_json=text)
        elif entry is not None and entry.method is Method.EXECUTE_STREAM:
            message = StreamResponse(error=text)
        self.send(which, Close(number, status, message, not_started))

    @rule(which=which, number=number, status=statuses)
    def cancel(self, which: int, number: int, status: StatusCode) -> None:
        self.send(which, Cancel(number, status))

    @rule(which=which, number=number, size=st.one_of(st.integers(0, 300), st.just(2**32 - 1)))
    def credit(self, which: int, number: int, size: int) -> None:
        self.send(which, Credit(number, size))

    @rule(which=which, token=st.integers(0, 2**32 - 1), ack=st.booleans())
    def ping(self, which: int, token: int, ack: bool) -> None:
        self.send(which, Ping(token, ack))

    @rule(which=which, text=texts)
    def note(self, which: int, text: str) -> None:
        self.send(which, Note(logs=[LogRecord(text)]))

    @rule(which=which, rare=st.integers(0, 9))
    def goaway(self, which: int, rare: int) -> None:
        if rare == 0:
            self.send(which, GoAway(self.sides[which].connection.last_peer_stream, "drain"))

    @rule(which=which)
    def never_legal(self, which: int) -> None:
        for event in (Hello(name="again"), Overrun(1), Data(1, InitializeRequest())):
            if not self.sides[which].allows(event):
                self.send(which, event)

    @rule(which=which)
    def values_that_do_not_fit(self, which: int) -> None:
        side = self.sides[which]
        connection = side.connection
        before = picture(connection)
        wrong: list[Event] = [
            Ping(2**32),
            GoAway(-1, "x"),
            Note(logs=[LogRecord("\ud800")]),
            Open(side.next_id, Method.EXECUTE, ExecuteRequest(), deadline_ms=2**32),
            Open(side.next_id, Method.EXECUTE, StreamRequest()),
            Open(side.next_id, Method.EXECUTE, ExecuteRequest(params_json="\ud800")),
            *(Credit(number, -1) for number in side.calls),
            *(Close(number, StatusCode.OK, ExecuteRequest()) for number in side.calls),
        ]
        for event in wrong:
            with pytest.raises(LocalProtocolError):
                connection.send(event)
            assert picture(connection) == before

    @rule(which=which)
    def write(self, which: int) -> None:
        side = self.sides[which]
        side.pipe += side.connection.data_to_send()

    @rule(which=which, count=st.integers(1, 200))
    def deliver(self, which: int, count: int) -> None:
        side, peer = self.sides[which], self.sides[1 - which]
        chunk = bytes(side.pipe[:count])
        del side.pipe[:count]
        if chunk:
            peer.connection.receive_data(chunk)
            self.read(side, peer)

    def read(self, side: Side, peer: Side) -> None:
        while (event := peer.connection.next_event()) is not None:
            bare = replace(event, size=0) if isinstance(event, Data) else event
            place = side.sent.index(bare)
            if isinstance(event, Data | Open | Close | Note):
                # Messages keep their order; DATA for calls that are over drops out.
                for skipped in side.sent[:place]:
                    assert isinstance(skipped, Ping | GoAway | Cancel | Credit) or (
                        isinstance(skipped, Data) and self.is_over(skipped.stream, peer)
                    )
            del side.sent[place]
            peer.did_receive(event)

    @staticmethod
    def is_over(number: int, side: Side) -> bool:
        return number not in side.calls or side.calls[number].cancelled

    @invariant()
    def sides_agree_with_the_model(self) -> None:
        for side in getattr(self, "sides", ()):
            connection = side.connection
            assert set(connection._streams) == set(side.calls)
            assert connection.open_streams == len(side.calls)
            assert connection.can_open == side.has_room(control=False)
            assert connection.can_open_control == side.has_room(control=True)
            for number, call in side.calls.items():
                assert connection.is_open(number)
                if call.streaming:
                    may_send = call.may_send and not call.cancelled
                    assert connection.send_credit(number) == (call.credit if may_send else 0)

    def carry_all(self) -> None:
        while any(side.pipe or side.connection.queued_bytes for side in self.sides):
            for which in (0, 1):
                self.write(which)
                self.deliver(which, 10**6)

    def teardown(self) -> None:
        try:
            if hasattr(self, "sides"):
                self.carry_all()
                for which, side in enumerate(self.sides):
                    for number in [n for n, call in side.calls.items() if not call.mine]:
                        self.send(which, Close(number, StatusCode.OK))
                self.carry_all()
                for side in self.sides:
                    assert side.connection.open_streams == 0
                    assert side.opened == side.closed
                    assert all(isinstance(event, Data | Cancel | Credit) for event in side.sent)
        finally:
            self.small_writes.stop()


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("examples", [100, pytest.param(10_000, marks=pytest.mark.soak)])
def test_conversation(codec, examples, connected):
    machine = type(
        "Machine", (Conversation,), {"codec": codec, "connected": staticmethod(connected)}
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
