"""Both codecs, driven with the same frames and the same calls, are seen to do the same.

Compared after every step: the events, the frames sent (header sections decoded), the
windows. Two things are left to each library, and not compared: when WINDOW_UPDATE is sent,
and RST_STREAM(STREAM_CLOSED) for frames that crossed our own reset on their way. What
breaks the protocol must be refused by both; whether the stream or the connection bears it,
and with which words, may differ, and ends the comparison.
"""

import hpack
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from prism.server.http2.codec import MAX_BURST, MAX_FRAME_SIZE
from prism.server.http2.events import DataReceived, Request, RequestMalformed
from prism.server.http2.implementation import choose
from prism.server.http2.limits import ClientError
from prism.server.settings import ServerSettings

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()
DEFAULTS = {1: 4096, 2: 0, 8: 0}  # h2 announces them too; a server pushes nothing anyway
LIMITS = ServerSettings(max_header_size=2000, max_concurrent_streams=3, flood_budget=10_000)

PSEUDO = [
    *((b":method", value) for value in (b"GET", b"POST", b"CONNECT", b"G\xff", b"")),
    *((b":scheme", value) for value in (b"http", b"https")),
    *((b":path", value) for value in (b"/", b"/a?b", b"*", b"", b" /")),
    *((b":authority", value) for value in (b"a", b"b", b"")),
    (b":protocol", b"websocket"),
    (b":status", b"200"),
]
REGULAR = [
    *((b"host", value) for value in (b"a", b"b")),
    *((b"cookie", value) for value in (b"x=1", b"y=2")),
    *((b"content-length", value) for value in (b"0", b"4", b"-1", b"", b"4 ", b"9" * 19)),
    *((b"te", value) for value in (b"trailers", b"Trailers", b"gzip")),
    *((name, b"x") for name in (b"a", b"A", b"", b"a b", b"a:b", b"\xff", b"x-" + b"n" * 40)),
    *((name, b"x") for name in (b"connection", b"keep-alive", b"upgrade")),
    *((name, b"x") for name in (b"proxy-connection", b"transfer-encoding")),
    *((b"v", value) for value in (b"", b" x", b"x\t", b"a\nb", b"a\rb", b"a\0b", b"\xff")),
    (b"large", b"x" * 400),
]
GOOD = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]

fields = st.lists(st.sampled_from(PSEUDO), max_size=6).flatmap(
    lambda pseudo: st.lists(st.sampled_from(REGULAR), max_size=6).map(lambda rest: pseudo + rest)
)
good_fields = st.lists(
    st.sampled_from([(b"a", b"b"), (b"cookie", b"x=1"), (b"cookie", b"y=2"), (b"te", b"trailers")]),
    max_size=4,
).map(lambda rest: GOOD + rest)
mixed_fields = st.permutations([*GOOD, (b"content-length", b"4"), (b"a", b"b")]) | fields


class Side:
    """One codec, and what a client learns from its bytes."""

    def __init__(self, name: str) -> None:
        self.codec = choose(name).codec(LIMITS, 0.0)
        self.decoder = hpack.Decoder()
        self.decoder.max_allowed_table_size = 9000
        self.we_reset: set[int] = set()
        self.failed = False

    def receive(self, data: bytes) -> list[object]:
        events: list[object] = []
        try:
            while data:
                told, size = self.codec.receive(data, 0.0)
                events += told
                data = data[size:]
        except ClientError:
            self.failed = True
        return events

    def frames(self) -> list[tuple[object, ...]]:
        """What was sent, without what is not compared."""
        data, seen = memoryview(bytes(self.codec.take())), []
        while data:
            frame, length = Frame.parse_frame_header(data[:9])
            frame.parse_body(data[9 : 9 + length])
            data = data[9 + length :]
            if isinstance(frame, WindowUpdateFrame):
                continue
            if isinstance(frame, RstStreamFrame):
                crossed = frame.error_code == ErrorCodes.STREAM_CLOSED
                if crossed and frame.stream_id in self.we_reset:
                    continue
            what: object = frame.serialize()
            if isinstance(frame, SettingsFrame):
                what = DEFAULTS | frame.settings
            if isinstance(frame, HeadersFrame):
                assert "END_HEADERS" in frame.flags
                what = tuple(self.decoder.decode(frame.data, raw=True))
            flags = {flag for flag in frame.flags if flag != "END_HEADERS"}
            seen.append((type(frame).__name__, frame.stream_id, frozenset(flags), what))
        return seen


def joined(events: list[object]) -> list[object]:
    """``events``, but parts of one DATA frame as one: h2 waits until it is there whole."""
    found: list[object] = []
    for event in events:
        last = found[-1] if found else None
        if (
            isinstance(event, DataReceived)
            and isinstance(last, DataReceived)
            and last.stream_id == event.stream_id
        ):
            found[-1] = DataReceived(event.stream_id, last.data + event.data)
        else:
            found.append(event)
    return found


class Pair:
    """Both codecs; every call goes to both, and what comes of it is compared."""

    def __init__(self) -> None:
        self.sides = [Side("h2"), Side("nghttp2")]
        self.encoder = hpack.Encoder()
        self.next_id = 1
        self.bodies: dict[int, int] = {}  # streams told as requests, and bytes to give back
        self.sending: set[int] = set()  # streams the client has not ended
        self.headed: set[int] = set()
        self.wide: set[int] = set()
        self.receive(PREFACE)

    def receive(self, data: bytes, step: int = 2**20) -> bool:
        """Whether both still serve. ``step``: how many bytes come at once."""
        portions = [data[start : start + step] for start in range(0, len(data), step)]
        first, second = (
            joined([event for portion in portions for event in side.receive(portion)])
            for side in self.sides
        )
        if any(side.failed for side in self.sides):
            return False
        malformed = [event.stream_id for event in first if isinstance(event, RequestMalformed)]
        # Of a DATA frame that goes beyond content-length, nghttp2 tells what came before.
        first, second = (
            [
                event
                for event in events
                if not (isinstance(event, DataReceived) and event.stream_id in malformed)
            ]
            for events in (first, second)
        )
        assert first == second
        dropped: list[DataReceived] = []
        for event in first:
            if isinstance(event, Request):
                self.bodies[event.stream_id] = len(event.body)
            elif isinstance(event, DataReceived) and event.stream_id in self.bodies:
                self.bodies[event.stream_id] += len(event.data)
            elif isinstance(event, DataReceived):
                dropped.append(event)
            elif isinstance(event, RequestMalformed):
                self.bodies.pop(event.stream_id, None)
                for side in self.sides:
                    side.we_reset.add(event.stream_id)
            elif type(event).__name__ == "StreamReset":
                self.bodies.pop(event.stream_id, None)
        for event in dropped:  # their stream is answered, so nobody reads them
            self.call("consumed", event.stream_id, len(event.data))
        self.compare()
        return True

    def call(self, name: str, *arguments: object) -> object:
        first, second = (getattr(side.codec, name)(*arguments) for side in self.sides)
        assert first == second
        self.compare()
        return first

    def reset(self, stream_id: int, code: int) -> None:
        for side in self.sides:
            side.we_reset.add(stream_id)
        self.bodies.pop(stream_id, None)
        self.call("reset", stream_id, code)

    def compare(self) -> None:
        first, second = self.sides
        assert first.frames() == second.frames()
        assert first.codec.last_stream_id == second.codec.last_stream_id
        for stream_id in self.bodies:
            assert first.codec.window(stream_id) == second.codec.window(stream_id)

    # What a client does.

    def open(self, headers: list[tuple[bytes, bytes]], *, end: bool, cut: bool = False) -> bytes:
        stream_id, self.next_id = self.next_id, self.next_id + 2
        if not end:
            self.sending.add(stream_id)
        return self.headers(stream_id, headers, end=end, cut=cut)

    def headers(
        self, stream_id: int, headers: list[tuple[bytes, bytes]], *, end: bool, cut: bool = False
    ) -> bytes:
        block = self.encoder.encode(headers)
        flags = ["END_STREAM"] if end else []
        if not cut:
            return HeadersFrame(stream_id, block, flags=["END_HEADERS", *flags]).serialize()
        first = HeadersFrame(stream_id, block[:3], flags=flags).serialize()
        return first + ContinuationFrame(stream_id, block[3:], flags=["END_HEADERS"]).serialize()


numbers = st.integers(0, 5)
client_steps = st.one_of(
    st.tuples(st.just("open"), good_fields, st.booleans(), st.booleans()),
    st.tuples(st.just("open"), mixed_fields, st.booleans(), st.booleans()),
    st.tuples(st.just("data"), numbers, st.integers(0, 300), st.integers(-1, 9), st.booleans()),
    st.tuples(st.just("trailers"), numbers, st.sampled_from([[], [(b"a", b"b")]])),
    st.tuples(st.just("trailers"), numbers, st.sampled_from([[(b":a", b"b")], [(b"A", b"b")]])),
    st.tuples(st.just("rst"), numbers, st.sampled_from([0, 8])),
    st.tuples(st.just("window"), st.integers(-1, 5), st.integers(1, 1000)),
    st.tuples(st.just("settings"), st.sampled_from([{4: 0}, {4: 70_000}, {1: 0}, {1: 9000}])),
    st.tuples(st.just("ping")),
    st.tuples(st.just("priority"), numbers),
    st.tuples(st.just("goaway")),
)
server_steps = st.one_of(
    st.tuples(st.just("respond"), numbers, st.integers(0, 600), st.booleans()),
    st.tuples(st.just("respond"), numbers, st.sampled_from([16_385, 65_536]), st.booleans()),
    st.tuples(st.just("head"), numbers, st.sampled_from([b"100", b"200"])),
    st.tuples(st.just("send"), numbers, st.integers(0, 66_000), st.booleans()),
    st.tuples(st.just("end"), numbers),
    st.tuples(st.just("reset"), numbers),
    st.tuples(st.just("consume"), numbers),
    st.tuples(st.just("widen"), numbers),
    st.tuples(st.just("say ping")),
    st.tuples(st.just("say goaway")),
)


def client_bytes(pair: Pair, step: tuple) -> bytes:
    """The frames of a client's step; none if it has no place now."""
    kind = step[0]
    if kind == "open":
        return pair.open(step[1], end=step[2], cut=step[3])
    if kind == "settings":
        return SettingsFrame(0, settings=step[1]).serialize()
    if kind == "ping":
        return PingFrame(0, opaque_data=b"12345678").serialize()
    if kind == "goaway":
        return GoAwayFrame(0).serialize()
    if kind == "window" and step[1] < 0:
        return WindowUpdateFrame(0, window_increment=step[2]).serialize()
    if kind == "priority":
        return PriorityFrame(2 * step[1] + 1, depends_on=0, stream_weight=3).serialize()
    known = sorted(pair.sending)
    if not known:
        return b""
    stream_id = known[step[1] % len(known)]
    if kind == "window":
        return WindowUpdateFrame(stream_id, window_increment=step[2]).serialize()
    if kind == "rst":
        pair.sending.discard(stream_id)
        return RstStreamFrame(stream_id, error_code=step[2]).serialize()
    if kind == "trailers":
        pair.sending.discard(stream_id)
        return pair.headers(stream_id, step[2], end=True)
    _, _, size, padding, end = step
    if end:
        pair.sending.discard(stream_id)
    flags = ["END_STREAM"] if end else []
    if padding >= 0:
        flags.append("PADDED")
    return DataFrame(stream_id, b"d" * size, pad_length=max(0, padding), flags=flags).serialize()


def serve(pair: Pair, step: tuple) -> None:
    """A step of the server, if it has a place now."""
    kind = step[0]
    if kind == "say ping":
        pair.call("ping", b"lastcall")
    elif kind == "say goaway":
        pair.call("goaway", 2**31 - 1, 0)
    known = sorted(pair.bodies)
    if not known or len(step) == 1:
        return
    stream_id = known[step[1] % len(known)]
    headed = stream_id in pair.headed
    if kind == "reset":
        pair.reset(stream_id, ErrorCodes.CANCEL)
    elif kind == "widen" and stream_id not in pair.wide:
        pair.wide.add(stream_id)
        pair.call("widen", stream_id, 2**18)
    elif kind == "consume":
        pair.call("consumed", stream_id, pair.bodies[stream_id])
        pair.bodies[stream_id] = 0
    elif kind == "respond" and not headed:
        fits = step[2] <= min(MAX_BURST, pair.sides[0].codec.window(stream_id))
        begun(pair, stream_id, ended=fits and step[3])
        assert pair.call("send_response", stream_id, HEAD, bytes(step[2]), step[3]) == fits
    elif kind == "head" and not headed:
        if step[2] != b"100":
            begun(pair, stream_id, ended=False)
        pair.call("send_headers", stream_id, [(b":status", step[2])], False)
    elif kind == "send" and headed:
        size = min(step[2], MAX_BURST, pair.sides[0].codec.window(stream_id))
        if size > 0 or step[3]:
            begun(pair, stream_id, ended=step[3])
            pair.call("send_data", stream_id, bytes(size), step[3])
    elif kind == "end" and headed:
        begun(pair, stream_id, ended=True)
        pair.call("send_headers", stream_id, [(b"grpc-status", b"0")], True)


HEAD = [(b":status", b"200"), (b"content-type", b"text/plain")]


def begun(pair: Pair, stream_id: int, *, ended: bool) -> None:
    pair.headed.add(stream_id)
    if ended:
        pair.bodies.pop(stream_id)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.lists(client_steps, max_size=4) | server_steps, max_size=25), st.booleans())
def test_what_the_protocol_allows_is_the_same_on_both(nghttp2, steps, bytewise):
    pair = Pair()
    for step in steps:
        if isinstance(step, tuple):
            serve(pair, step)
            continue
        data = b"".join(client_bytes(pair, part) for part in step)
        if not pair.receive(data, 1 if bytewise else 2**20):
            # only a header section that is too large
            assert all(side.failed for side in pair.sides)
            return


def completed(data: bytes) -> bytes:
    """``data`` whose last frame is as long as it says: h2 judges no frame before its end."""
    position = 0
    while position < len(data):
        position += 9 + int.from_bytes(data[position : position + 3], "big")
    return data + bytes(min(position - len(data), MAX_FRAME_SIZE))


@settings(max_examples=400, deadline=None)
@given(st.lists(client_steps, max_size=8), st.data())
def test_what_it_forbids_is_refused_by_both_or_by_neither(nghttp2, steps, data):
    """One byte of a frame's header is wrong. h2 notices later: at the end of the frame, or
    of the header section, which the PING at the end forces."""
    pair = Pair()
    refused = [False, False]
    for step in [*steps, ("ping",)]:
        frames = bytearray(client_bytes(pair, step))
        if frames and step != ("ping",) and data.draw(st.booleans()):
            place, value = data.draw(st.integers(0, 8)), data.draw(st.integers(0, 255))
            if (place, value) != (3, 10):  # h2 parses ALTSVC, which a server ignores
                frames[place] = value
        for number, side in enumerate(pair.sides):
            if side.failed:
                continue
            events = side.receive(completed(bytes(frames)))
            refused[number] |= side.failed or any(
                isinstance(event, RequestMalformed) for event in events
            )
            if not side.failed:
                refused[number] |= any(frame[0] == "RstStreamFrame" for frame in side.frames())
    assert refused[0] == refused[1]
