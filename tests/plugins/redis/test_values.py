"""How values are kept, as Redis has no note of what they are."""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.contract.errors import PluginError
from prism.sdk import Value
from prism_plugins.redis.values import MARK, argument, pack, shown, unpack

TEXTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
BYTES = st.binary() | st.builds(lambda tail: MARK + tail, st.binary()) | st.just(b"[1]")


@given(TEXTS)
def test_json_is_kept_as_its_text(value: Any) -> None:
    text = json.dumps(value).encode()
    kept = pack(Value(text, binary=False))
    assert kept == text
    assert unpack(kept) == Value(text, binary=False)


@given(BYTES)
def test_bytes_come_back_as_bytes(data: bytes) -> None:
    assert unpack(pack(Value(data, binary=True))) == Value(data, binary=True)


@pytest.mark.parametrize("byte", range(256))
def test_each_byte_is_kept_as_it_is(byte: int) -> None:
    data = bytes([byte])
    assert unpack(pack(Value(data, binary=True))) == Value(data, binary=True)


@pytest.mark.parametrize("data", [b"\x89PNG\r\n", b"plain text", b'"\xff"', b"", b"nul", b"1 2"])
def test_bytes_that_are_no_json_are_kept_without_a_mark(data: bytes) -> None:
    assert pack(Value(data, binary=True)) == data


@pytest.mark.parametrize("data", [b"123", b'"text"', b" null ", b"[1]"])
def test_bytes_that_look_like_json_have_a_mark(data: bytes) -> None:
    assert pack(Value(data, binary=True)) == MARK + data


def test_deep_json_of_another_program_is_bytes() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert unpack(deep) == Value(deep, binary=True)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"text", '"text"'),
        (b"\xff", '{"value":"/w==","encoding":"base64"}'),
        ([1, None, True, 1.5], "[1,null,true,1.5]"),
        ({b"a": b"b"}, '{"a":"b"}'),
        ({b"\xff": 1}, '[[{"value":"/w==","encoding":"base64"},1]]'),
        (math.inf, '{"value":"Infinity","encoding":"float"}'),
        (-math.inf, '{"value":"-Infinity","encoding":"float"}'),
        (math.nan, '{"value":"NaN","encoding":"float"}'),
        (2**63 - 1, "9223372036854775807"),
    ],
)
def test_a_reply_is_shown_as_json(reply: Any, expected: str) -> None:
    assert msgspec.json.encode(shown(reply)).decode() == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ü", "ü".encode()),
        (2**63, b"9223372036854775808"),
        (1.5, b"1.5"),
        (b"\x00", b"\x00"),
        ({"value": "/w==", "encoding": "base64"}, b"\xff"),
    ],
)
def test_an_argument_is_text_a_number_or_marked_bytes(value: Any, expected: bytes) -> None:
    assert argument(value) == expected


@pytest.mark.parametrize(
    "value", [None, True, [], {"value": "!", "encoding": "base64"}, {"value": "a"}]
)
def test_what_else_is_an_argument_is_refused(value: Any) -> None:
    with pytest.raises(PluginError, match="an argument is text"):
        argument(value)
