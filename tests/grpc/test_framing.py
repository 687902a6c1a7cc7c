import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.contract.errors import PayloadTooLarge, RemoteProtocolError
from prism.grpc.framing import Encoding, MessageReader, pack

GZIPPED = gzip.compress(b"x", mtime=0)


def read_all(reader, data, step):
    found = []
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
        while (message := reader.next_message()) is not None:
            found.append(message)
    return found


@given(
    st.lists(st.binary(max_size=300), max_size=5),
    st.integers(1, 400),
    st.sampled_from(Encoding),
)
def test_messages_arrive_as_they_were_sent_however_they_are_cut(sent, step, encoding):
    reader = MessageReader(300, encoding)
    data = b"".join(pack(message, encoding) for message in sent)
    assert read_all(reader, data, step) == sent
    assert not reader.incomplete


def test_the_wire_is_grpcs():
    assert pack(b"abc") == b"\x00\x00\x00\x00\x03abc"
    assert gzip.decompress(pack(b"abc", Encoding.GZIP)[5:]) == b"abc"


def test_an_encoding_may_be_agreed_on_and_not_used():
    assert read_all(MessageReader(10, Encoding.GZIP), pack(b"plain"), 1) == [b"plain"]


@pytest.mark.parametrize("cut", [1, 4, 5, 7])
def test_a_torn_message_shows(cut):
    reader = MessageReader(10)
    assert read_all(reader, pack(b"abc")[:cut], 1) == []
    assert reader.incomplete


def test_the_length_is_checked_before_the_message_comes():
    reader = MessageReader(10)
    reader.feed(b"\x00\xff\xff\xff\xff")
    with pytest.raises(PayloadTooLarge, match="4294967295 bytes is larger than the limit of 10"):
        reader.next_message()


def test_a_bomb_is_not_inflated():
    reader = MessageReader(100_000, Encoding.GZIP)
    reader.feed(pack(bytes(50_000_000), Encoding.GZIP))
    with pytest.raises(PayloadTooLarge, match="decompressed"):
        reader.next_message()


@pytest.mark.parametrize(
    ("data", "encoding", "why"),
    [
        (b"\x02\x00\x00\x00\x00", Encoding.IDENTITY, "begins with 2"),
        (pack(b"x", Encoding.GZIP), Encoding.IDENTITY, "no grpc-encoding"),
        (b"\x01\x00\x00\x00\x03abc", Encoding.GZIP, "not gzip"),
        (b"\x01\x00\x00\x00\x00", Encoding.GZIP, "not exactly one"),
        (
            b"\x01\x00\x00\x00%c" % len(GZIPPED * 2) + GZIPPED * 2,
            Encoding.GZIP,
            "not exactly one",
        ),
        (
            b"\x01\x00\x00\x00%c" % len(zlib.compress(b"x")) + zlib.compress(b"x"),
            Encoding.GZIP,
            "not gzip",
        ),
    ],
)
def test_what_is_no_message_is_refused(data, encoding, why):
    reader = MessageReader(1000, encoding)
    reader.feed(data)
    with pytest.raises(RemoteProtocolError, match=why):
        reader.next_message()


@given(st.binary(max_size=60), st.sampled_from(Encoding))
def test_any_bytes_give_messages_or_an_error(data, encoding):
    reader = MessageReader(50, encoding)
    reader.feed(data)
    try:
        while reader.next_message() is not None:
            pass
    except (RemoteProtocolError, PayloadTooLarge):
        pass
