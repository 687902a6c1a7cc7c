import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from prism.sdk import Call, PluginError, Value

JSON = Call("set", "ns", {}, binary=False)
BINARY = Call("set", "ns", {}, binary=True)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.parametrize(
    "text", [b"null", b"1.50", b"123456789012345678901234567890", b'{"b": 1,\n "a":2}', b'""']
)
def test_json_comes_back_byte_for_byte(text: bytes) -> None:
    raw, encoding = Value.read(Raw(text), UNSET, JSON).write(JSON)
    assert (bytes(raw), encoding) == (text, UNSET)


@given(st.binary())
def test_bytes_in_both_forms(data: bytes) -> None:
    value = Value.read(Raw(msgspec.json.encode(data)), "base64", JSON)
    assert value == Value.read(Raw(msgspec.msgpack.encode(data)), UNSET, BINARY)
    assert value == Value(data, binary=True)
    shown, encoding = value.write(JSON)
    assert msgspec.json.decode(shown, type=bytes) == data
    assert encoding == "base64"
    packed, encoding = value.write(BINARY)
    assert msgspec.msgpack.decode(packed) == data
    assert encoding is UNSET


@given(json_values)
def test_json_shown_to_messagepack_and_back(data: object) -> None:
    value = Value.read(Raw(msgspec.json.encode(data)), UNSET, JSON)
    packed, encoding = value.write(BINARY)
    assert encoding is UNSET
    assert msgspec.msgpack.decode(packed) == data
    again = Value.read(packed, UNSET, BINARY)
    assert msgspec.json.decode(again.data) == data


def test_json_that_messagepack_cannot_hold() -> None:
    value = Value(b"123456789012345678901234567890", binary=False)
    packed, encoding = value.write(BINARY)
    assert encoding == "json"
    assert msgspec.msgpack.decode(packed) == value.data
    assert Value.read(packed, encoding, BINARY) == value


@pytest.mark.parametrize(
    ("raw", "encoding", "call"),
    [
        (b"5", "base64", JSON),
        (b'"***"', "base64", JSON),
        (b'"abc"', "base64", JSON),
        (b'"abc"', "json", JSON),
        (msgspec.msgpack.encode({"a": b"x"}), UNSET, BINARY),
        (msgspec.msgpack.encode([float("nan")]), UNSET, BINARY),
        (msgspec.msgpack.encode([float("inf")]), UNSET, BINARY),
        (msgspec.msgpack.encode({1: 2}), UNSET, BINARY),
        (msgspec.msgpack.encode(b"{"), "json", BINARY),
        (msgspec.msgpack.encode(b'"\xff"'), "json", BINARY),
        (b"\xa1\xff", UNSET, BINARY),
        (b"\x91" * 5000, UNSET, BINARY),
        (b"\xd6\xff\x00\x00\x00\x00", UNSET, BINARY),
    ],
)
def test_what_is_refused(raw: bytes, encoding: object, call: Call) -> None:
    with pytest.raises(PluginError):
        Value.read(Raw(raw), encoding, call)
