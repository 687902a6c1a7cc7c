import pytest

from prism.contract.errors import RemoteProtocolError
from prism.wire.frames import FrameType, pack
from prism.wire.reader import FrameReader

FRAMES = [
    pack(FrameType.OPEN, 1, b"abc", codec=1, method=3),
    pack(FrameType.PING, aux=9),
    pack(FrameType.DATA, 1, b"x" * 100, codec=1),
]


def read_all(chunks):
    reader = FrameReader()
    found = []
    for chunk in chunks:
        reader.feed(chunk)
        while (frame := reader.next_frame(1000)) is not None:
            header, payload = frame
            found.append((header.type, bytes(payload)))
    assert not reader.mid_frame
    return found


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
