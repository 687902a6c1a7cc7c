import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.contract.errors import LocalProtocolError, RemoteProtocolError
from prism.wire.frames import END, HEADER_SIZE, Codec, FrameType, Header, pack, unpack
from prism.wire.reader import FrameReader


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
    expected = Header(len(payload), stream, kind, flags, codec, method, aux)
    assert unpack(b"??" + frame, 2, 100) == expected


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
        unpack(bytes.fromhex(header), 0, 100)


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
