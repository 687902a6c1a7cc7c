"""Frames as they are read along."""

import pytest

from prism.channels.frames.tap import FrameTap
from prism.wire.frames import FrameReader, FrameType, pack

FRAMES = [
    pack(FrameType.OPEN, 1, b'{"a":1}', codec=1, method=3),
    pack(FrameType.CANCEL, 1, aux=1),
    pack(FrameType.DATA, 3, b'"' + b"x" * 200_000 + b'"', codec=1),
    pack(FrameType.PING, aux=7),
]
KINDS = [FrameType.OPEN, FrameType.CANCEL, FrameType.DATA, FrameType.PING]


def tap(*begun):
    told = []
    return FrameTap(lambda sender, frame: told.append((sender, frame.kind)), *begun), told


@pytest.mark.parametrize("chunk", [1, 15, 16, 17, 1000, 1 << 20])
def test_frames_are_told_however_they_are_cut(chunk):
    data = b"".join(FRAMES)
    reader, told = tap()
    for at in range(0, len(data), chunk):
        reader.received(data[at : at + chunk])
    assert told == [("plugin", kind) for kind in KINDS]


def test_what_is_sent_comes_whole_or_in_pieces():
    reader, told = tap()
    reader.sent(FRAMES[0] + FRAMES[1])
    reader.sent((FRAMES[2][:16], FRAMES[2][16:], FRAMES[3]))
    assert told == [("proxy", kind) for kind in KINDS]


@pytest.mark.parametrize("cut", [0, 5, 16, 20])
def test_it_begins_in_the_middle_of_a_frame(cut):
    first = FrameReader()
    first.feed(FRAMES[0][:cut])
    assert first.next_frame(1 << 20) is None
    reader, told = tap(first.begun, first.missing)
    reader.received(FRAMES[0][cut:] + FRAMES[1])
    assert told == [("plugin", FrameType.OPEN), ("plugin", FrameType.CANCEL)]


def test_a_large_frame_that_has_begun_is_passed_over():
    first = FrameReader()
    first.feed(FRAMES[2][:70_000])
    assert first.next_frame(1 << 20) is None
    assert first.missing > 0
    reader, told = tap(first.begun, first.missing)
    reader.received(FRAMES[2][70_000:100_000])
    reader.received(FRAMES[2][100_000:] + FRAMES[3])
    assert told == [("plugin", FrameType.PING)]


def test_what_is_no_frame_ends_one_direction():
    reader, told = tap()
    reader.received(bytes(32))
    reader.received(FRAMES[0])
    reader.sent(FRAMES[0])
    assert told == [("proxy", FrameType.OPEN)]
