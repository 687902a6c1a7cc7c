import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.contract.errors import LocalProtocolError, RemoteProtocolError
from prism.wire.frames import END, HEADER_SIZE, Codec, Frame, FrameReader, FrameType, pack
from prism.wire.parts import LARGE

FRAMES = [
    pack(FrameType.OPEN, 1, b"abc", codec=1, method=3),
    pack(FrameType.PING, aux=9),
    pack(FrameType.DATA, 1, b"x" * 100, codec=1),
]


def read_all(chunks, max_frame=1000):
    reader = FrameReader()
    found = []
    for chunk in chunks:
        reader.feed(chunk)
        while (frame := reader.next_frame(max_frame)) is not None:
            found.append((frame.kind, bytes(frame.payload)))
    assert not reader.mid_frame
    return found


def read_one(data, max_frame=100):
    reader = FrameReader()
    reader.feed(data)
    return reader.next_frame(max_frame)


def test_layout_is_the_documented_one():
    frame = pack(FrameType.OPEN, 5, b"{}", flags=END, codec=Codec.JSON, method=3, aux=1500)
    assert frame.hex(" ") == "00 00 00 02 00 00 00 05 02 01 01 03 00 00 05 dc 7b 7d"
    assert len(pack(FrameType.PING)) == HEADER_SIZE


@given(
    kind=st.sampled_from([FrameType.OPEN, FrameType.DATA, FrameType.CLOSE]),
    stream=st.integers(1, 2**32 - 1),
    payload=st.binary(max_size=50),
    small=st.tuples(*[st.integers(0, 255)] * 3),
    aux=st.integers(0, 2**32 - 1),
)
def test_round_trip(kind, stream, payload, small, aux):
    flags, codec, method = small
    frame = pack(kind, stream, payload, flags=flags, codec=codec, method=method, aux=aux)
    assert read_one(frame) == Frame(kind, stream, flags, codec, method, aux, payload)


@pytest.mark.parametrize(
    "values", [{"aux": 2**32}, {"aux": -1}, {"flags": 256}, {"method": 300}, {"codec": -1}]
)
def test_numbers_that_do_not_fit(values):
    with pytest.raises(LocalProtocolError, match="PING frame cannot be packed"):
        pack(FrameType.PING, **values)


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("00000000 00000000 00 00 00 00 00000000", "unknown frame type 0"),
        ("00000000 00000000 0a 00 00 00 00000000", "unknown frame type 10"),
        ("00000065 00000001 02 00 01 03 00000000", "OPEN frame of 101 bytes is over the limit"),
        ("ffffffff 00000001 03 00 01 00 00000000", "of 4294967295 bytes is over the limit of 100"),
        ("00000000 00000000 02 00 00 03 00000000", "OPEN frame on stream 0: it needs a stream"),
        ("00000000 00000001 07 00 00 00 00000000", "stream 1: it belongs to the connection"),
        ("00000001 00000001 05 00 00 00 00000000", "CANCEL frame with a payload of 1 bytes"),
        ("00000001 00000001 06 00 00 00 00000000", "CREDIT frame with a payload"),
        ("00000001 00000000 07 00 00 00 00000000", "PING frame with a payload"),
    ],
)
def test_bad_headers(header, complaint):
    with pytest.raises(RemoteProtocolError, match=complaint):
        read_one(bytes.fromhex(header))


def test_a_claimed_length_allocates_nothing():
    header = bytes.fromhex("ffffffff 00000001 03 00 01 00 00000000")
    reader = FrameReader()
    tracemalloc.start()
    try:
        reader.feed(header)
        with pytest.raises(RemoteProtocolError):
            reader.next_frame(2**20)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_whole_and_bytewise():
    expected = [
        (FrameType.OPEN, b"abc"),
        (FrameType.PING, b""),
        (FrameType.DATA, b"x" * 100),
    ]
    stream = b"".join(FRAMES)
    assert read_all([stream]) == expected
    assert read_all([stream[i : i + 1] for i in range(len(stream))]) == expected
    assert read_all(FRAMES) == expected
    assert read_all([bytearray(stream[i : i + 7]) for i in range(0, len(stream), 7)]) == expected


LARGE_FRAMES = [
    pack(FrameType.OPEN, 1, b"a" * LARGE),
    pack(FrameType.DATA, 1, b"b"),
    pack(FrameType.DATA, 1, bytes(range(256)) * 1000),
    pack(FrameType.CLOSE, 1, b"c" * (LARGE + 1)),
    pack(FrameType.CLOSE, 3, b"d" * (LARGE - 1)),
]


@pytest.mark.parametrize("size", [7, 1000, LARGE, LARGE + HEADER_SIZE, 100_000, 10**6])
def test_large_frames_however_they_are_cut(size):
    stream = b"".join(LARGE_FRAMES)
    chunks = [stream[i : i + size] for i in range(0, len(stream), size)]
    expected = [(frame[8], frame[HEADER_SIZE:]) for frame in LARGE_FRAMES]
    assert read_all(chunks, 10**6) == expected
    assert read_all([bytearray(chunk) for chunk in chunks], 10**6) == expected


def test_what_is_missing_of_a_large_frame_is_known():
    reader, frame = FrameReader(), LARGE_FRAMES[0]
    reader.feed(frame[:15])
    assert reader.next_frame(10**6) is None
    assert reader.missing == 0
    reader.feed(frame[15:1000])
    assert reader.next_frame(10**6) is None
    assert reader.missing == len(frame) - 1000
    assert reader.mid_frame
    reader.feed(frame[1000:] + FRAMES[0][:3])
    assert reader.missing == 0
    assert reader.next_frame(10**6) is not None
    assert reader.next_frame(10**6) is None
    assert reader.mid_frame
    reader.feed(FRAMES[0][3:])
    assert reader.next_frame(10**6) is not None
    assert not reader.mid_frame


@pytest.mark.parametrize("discards", [False, True])
def test_the_end_in_the_middle_of_a_large_frame(discards):
    reader = FrameReader()
    reader.feed(LARGE_FRAMES[0][:-1])
    assert reader.next_frame(10**6) is None
    if discards:
        reader.discard()
        assert reader.next_frame(10**6) is None
        assert not reader.mid_frame
        return
    reader.feed(b"")
    with pytest.raises(RemoteProtocolError, match="middle of a frame"):
        reader.next_frame(10**6)


def test_a_large_payload_is_joined_once():
    """It takes its own size in parts, and once more as a whole; in a buffer that grows, and is
    cut then, it took more."""
    size = 2**20
    reader, frame = FrameReader(), pack(FrameType.OPEN, 1, bytes(size))
    tracemalloc.start()
    try:
        for start in range(0, len(frame), 2**16):
            reader.feed(frame[start : start + 2**16])
            found = reader.next_frame(2 * size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found is not None
    assert len(found.payload) == size
    assert peak < 2.05 * size


@pytest.mark.parametrize("size", [1, 15, 16, 18])
def test_the_end_in_the_middle_of_a_frame(size):
    reader = FrameReader()
    reader.feed(FRAMES[0][:size])
    assert reader.next_frame(1000) is None
    assert reader.mid_frame
    reader.feed(b"")
    with pytest.raises(RemoteProtocolError, match="middle of a frame"):
        reader.next_frame(1000)


def test_nothing_counts_after_the_end():
    reader = FrameReader()
    reader.feed(b"")
    reader.feed(FRAMES[0])
    assert reader.ended
    assert reader.next_frame(1000) is None
    assert not reader.mid_frame


def test_discard_frees_the_buffer():
    reader = FrameReader()
    reader.feed(FRAMES[2][:50])
    reader.next_frame(1000)
    reader.discard()
    assert not reader.mid_frame
    assert len(reader._buffer) == 0


def test_handed_out_bytes_are_not_kept():
    reader = FrameReader()
    for _ in range(1000):
        reader.feed(FRAMES[2])
        assert reader.next_frame(1000) is not None
        assert reader.next_frame(1000) is None
        assert len(reader._buffer) == 0
