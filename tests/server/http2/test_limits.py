import pytest
from h2.errors import ErrorCodes
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

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PING = PingFrame(0, opaque_data=bytes(8)).serialize()
FRAMES = [
    PING,
    SettingsFrame(0).serialize(),
    DataFrame(1).serialize(),
    DataFrame(1, b"x" * 50).serialize(),
    DataFrame(1, pad_length=9, flags=["PADDED"]).serialize(),
    RstStreamFrame(1).serialize(),
    HeadersFrame(1, b"abc").serialize(),
    ContinuationFrame(1, bytes(600)).serialize(),
    ContinuationFrame(1, b"def", flags=["END_HEADERS"]).serialize(),
]


@pytest.fixture
def make_guard(implementation):
    def make_guard(budget=10, refill=5):
        guard = implementation.guard(16384, 1000, budget, refill, 0.0)
        guard.inspect(PREFACE, 0.0)
        return guard

    return make_guard


def feed(guard, data, step):
    for start in range(0, len(data), step):
        guard.inspect(data[start : start + step], 0.0)


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_the_same_frames_cost_the_same_however_they_are_cut(make_guard, step):
    feed(make_guard(), PING * 10, step)
    with pytest.raises(ClientError, match="ENHANCE_YOUR_CALM"):
        feed(make_guard(), PING * 11, step)


def test_time_and_responses_fill_the_account_up_to_the_budget(make_guard):
    guard = make_guard()
    guard.inspect(PING * 10, 0.0)
    guard.inspect(PING * 5, 1.0)
    guard.credit(3)
    guard.inspect(PING * 3, 1.0)
    guard.inspect(PING * 10, 1000.0)
    with pytest.raises(ClientError):
        guard.inspect(PING, 1000.0)


@pytest.mark.parametrize(
    ("frame", "cost"),
    [
        (PingFrame(0, opaque_data=bytes(8), flags=["ACK"]), 1),
        (SettingsFrame(0, flags=["ACK"]), 1),
        (SettingsFrame(0), 1),
        (DataFrame(1, b"x"), 0),
        (DataFrame(1, flags=["END_STREAM"]), 0),
        (DataFrame(1), 1),
        (DataFrame(1, pad_length=5, flags=["PADDED"]), 1),
        (DataFrame(1, pad_length=5, flags=["PADDED", "END_STREAM"]), 0),
        (DataFrame(1, b"x", pad_length=5, flags=["PADDED"]), 0),
        (RstStreamFrame(1), RESET_COST),
        (HeadersFrame(1, b"x", flags=["END_HEADERS"]), 0),
        (ContinuationFrame(1, b"x"), 1),
    ],
)
def test_what_a_frame_costs(make_guard, frame, cost):
    guard = make_guard(budget=4, refill=0)
    guard.inspect(frame.serialize(), 0.0)
    guard.charge(4 - cost)
    with pytest.raises(ClientError):
        guard.charge(1)


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_many_frames_come_in_portions(make_guard, step):
    guard, data = make_guard(), DataFrame(1, b"x").serialize() * 1000
    portions, start = [], 0
    while start < len(data):
        portions.append(guard.inspect(data[start : start + step], 0.0))
        start += portions[-1]
    assert sum(portions) == len(data)
    assert max(portions) <= FRAMES_AT_ONCE * 10


def test_a_header_section_that_goes_on_is_refused(make_guard):
    guard = make_guard()
    guard.inspect(HeadersFrame(1, bytes(900)).serialize(), 0.0)
    guard.inspect(HeadersFrame(3, bytes(900)).serialize(), 0.0)
    with pytest.raises(ClientError, match="header section"):
        guard.inspect(ContinuationFrame(3, bytes(101)).serialize(), 0.0)


def test_a_frame_that_announces_too_much_is_refused_by_its_header(make_guard):
    with pytest.raises(ClientError) as caught:
        make_guard().inspect(b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", 0.0)
    assert caught.value.code == ErrorCodes.FRAME_SIZE_ERROR


@pytest.mark.parametrize("step", [1, 10_000])
def test_a_header_block_is_open_until_its_last_byte(make_guard, step):
    guard = make_guard()
    first = HeadersFrame(1, b"abc").serialize()
    last = ContinuationFrame(1, b"def", flags=["END_HEADERS"]).serialize()
    assert not guard.in_header_block
    feed(guard, first[:-1], step)
    assert guard.in_header_block
    feed(guard, first[-1:] + last[:-1], step)
    assert guard.in_header_block
    feed(guard, last[-1:], step)
    assert not guard.in_header_block


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=30) | st.sampled_from(FRAMES)), st.integers(1, 50))
def test_both_guards_judge_any_bytes_alike(nghttp2, pieces, step):
    data = b"".join(pieces)
    outcomes = []
    for make in (choose("h2").guard, nghttp2.guard):
        guard = make(16384, 1000, 20, 5, 0.0)
        guard.inspect(PREFACE, 0.0)
        seen = []
        try:
            for number, start in enumerate(range(0, len(data), step)):
                portion = data[start : start + step]
                while portion:
                    taken = guard.inspect(portion, number / 10)
                    seen.append((taken, guard.in_header_block))
                    portion = portion[taken:]
        except ClientError as error:
            seen.append(str(error))
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1]
