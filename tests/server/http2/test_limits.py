"""The guard, as part of either codec: both judge the same frames alike."""

import pytest
from h2.errors import ErrorCodes
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from prism.server.http2.implementation import choose
from prism.server.http2.limits import FRAMES_AT_ONCE, RESET_COST, ClientError
from prism.server.settings import ServerSettings

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()
PING = PingFrame(0, opaque_data=bytes(8)).serialize()
HEAD = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
BLOCK = Encoder().encode(HEAD)
"""Encoded once more, the same would be shorter: it would refer to this one."""


def head(stream_id, *, cut=False, **more):
    """HEADERS of a request, without its end, and if ``cut`` without the end of the section."""
    flags = [] if cut else ["END_HEADERS"]
    if "pad_length" in more:
        flags.append("PADDED")
    return HeadersFrame(stream_id, BLOCK[:4] if cut else BLOCK, flags=flags, **more).serialize()


def rest(stream_id):
    """The end of a section that was cut."""
    return ContinuationFrame(stream_id, BLOCK[4:], flags=["END_HEADERS"]).serialize()


def made(implementation, budget, refill):
    """A codec whose client has begun, and has its whole budget, and 200 bytes for headers."""
    limits = ServerSettings(flood_budget=budget, flood_refill=refill, max_header_size=200)
    codec = implementation.codec(limits, 0.0)
    codec.receive(PREFACE, 0.0)
    codec.credit(1)  # SETTINGS
    return codec


@pytest.fixture
def make_codec(implementation):
    return lambda budget=10, refill=5: made(implementation, budget, refill)


def feed(codec, data, step):
    """Returns how many bytes were taken at a time."""
    portions, start = [], 0
    while start < len(data):
        _, size = codec.receive(data[start : start + step], 0.0)
        portions.append(size)
        start += size
    return portions


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_the_same_frames_cost_the_same_however_they_are_cut(make_codec, step):
    feed(make_codec(), PING * 10, step)
    with pytest.raises(ClientError, match="ENHANCE_YOUR_CALM"):
        feed(make_codec(), PING * 11, step)


def test_time_and_responses_fill_the_account_up_to_the_budget(make_codec):
    codec = make_codec()
    codec.receive(PING * 10, 0.0)
    codec.receive(PING * 5, 1.0)
    codec.credit(3)
    codec.receive(PING * 3, 1.0)
    codec.receive(PING * 10, 1000.0)
    with pytest.raises(ClientError):
        codec.receive(PING, 1000.0)


@pytest.mark.parametrize(
    ("frame", "cost"),
    [
        (PingFrame(0, opaque_data=bytes(8), flags=["ACK"]).serialize(), 1),
        (SettingsFrame(0, flags=["ACK"]).serialize(), 1),
        (SettingsFrame(0).serialize(), 1),
        (DataFrame(1, b"x").serialize(), 0),
        (DataFrame(1, flags=["END_STREAM"]).serialize(), 0),
        (DataFrame(1).serialize(), 1),
        (DataFrame(1, pad_length=5, flags=["PADDED"]).serialize(), 1),
        (DataFrame(1, pad_length=5, flags=["PADDED", "END_STREAM"]).serialize(), 0),
        (DataFrame(1, b"x", pad_length=5, flags=["PADDED"]).serialize(), 0),
        (RstStreamFrame(1).serialize(), RESET_COST),
        (head(3), 0),
        (head(3, cut=True) + rest(3), 1),
        (b"\0\0\0\xfd\0\0\0\0\0", 1),  # of a type that nobody knows
    ],
)
@pytest.mark.parametrize("step", [1, 10_000])
def test_what_a_frame_costs(make_codec, frame, cost, step):
    codec = make_codec(budget=4, refill=0)
    feed(codec, head(1) + frame, step)
    codec.charge(4 - cost)
    with pytest.raises(ClientError, match="too many frames that carry nothing"):
        codec.charge(1)


def test_an_account_that_is_empty_ends_the_codec(make_codec):
    codec = make_codec(budget=1, refill=1)
    codec.take()
    with pytest.raises(ClientError):
        codec.charge(2)
    codec.credit(2)
    codec.ping(bytes(8))
    assert codec.take() == b""
    for call in (lambda: codec.charge(1), lambda: codec.receive(PING, 9.0)):
        with pytest.raises(ClientError, match="too many frames that carry nothing"):
            call()


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_many_frames_come_in_portions(make_codec, step):
    codec = make_codec()
    feed(codec, head(1), step)
    data = DataFrame(1, b"x").serialize() * 1000
    portions = feed(codec, data, step)
    assert sum(portions) == len(data)
    assert max(portions) <= 2 * FRAMES_AT_ONCE * 10  # in C they are twice as many


def test_a_header_section_that_goes_on_is_refused(make_codec):
    codec = make_codec()
    codec.receive(head(1, pad_length=255), 0.0)
    codec.receive(head(3, pad_length=255, cut=True), 0.0)
    with pytest.raises(ClientError, match="header section"):
        codec.receive(ContinuationFrame(3, bytes(200)).serialize()[:9], 0.0)


def test_a_frame_that_announces_too_much_is_refused_by_its_header(make_codec):
    with pytest.raises(ClientError) as caught:
        make_codec().receive(b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", 0.0)
    assert caught.value.code == ErrorCodes.FRAME_SIZE_ERROR


@pytest.mark.parametrize("step", [1, 10_000])
def test_a_header_block_is_open_until_its_last_byte(make_codec, step):
    codec = make_codec()
    first, last = head(1, cut=True), rest(1)
    assert not codec.in_header_block
    feed(codec, first[:-1], step)
    assert codec.in_header_block
    feed(codec, first[-1:] + last[:-1], step)
    assert codec.in_header_block
    feed(codec, last[-1:], step)
    assert not codec.in_header_block


def frames(kinds):
    """A client's frames; those of a stream are on the one that was opened last."""
    stream_id, is_open = -1, False
    for kind in kinds:
        if kind == "open" or kind == "open in parts":
            stream_id, is_open = stream_id + 2, True
            cut = kind != "open"
            yield head(stream_id, cut=cut) + (rest(stream_id) if cut else b"")
        elif kind in FRAMES:
            yield FRAMES[kind]
        elif is_open:
            is_open = kind not in {"reset", "end"}
            yield ON_A_STREAM[kind](stream_id)


FRAMES = {
    "ping": PING,
    "settings": SettingsFrame(0).serialize(),
    "too large": b"\x00\x40\x01\x06\x00\x00\x00\x00\x00",
    "unknown": b"\0\0\2\xfd\0\0\0\0\0xx",
}
ON_A_STREAM = {
    "data": lambda stream_id: DataFrame(stream_id, b"x" * 50).serialize(),
    "empty": lambda stream_id: DataFrame(stream_id).serialize(),
    "end": lambda stream_id: DataFrame(stream_id, flags=["END_STREAM"]).serialize(),
    "padding": lambda stream_id: DataFrame(stream_id, pad_length=9, flags=["PADDED"]).serialize(),
    "reset": lambda stream_id: RstStreamFrame(stream_id).serialize(),
}
KINDS = ["open", "open in parts", *FRAMES, *ON_A_STREAM]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(KINDS)), st.integers(1, 50) | st.just(10_000))
def test_both_guards_judge_any_frames_alike(nghttp2, kinds, step):
    data, outcomes = b"".join(frames(kinds)), []
    for implementation in (choose("h2"), nghttp2):
        codec, seen = made(implementation, 20, 5), []
        try:
            for number, start in enumerate(range(0, len(data), step)):
                portion = data[start : start + step]
                while portion:
                    _, taken = codec.receive(portion, number / 10)
                    seen.append((taken, codec.in_header_block))
                    portion = portion[taken:]
        except ClientError as error:
            seen.append(str(error))
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1]
