import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.contract.errors import LocalProtocolError, RemoteProtocolError
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    HealthCheckResponse,
    HealthStatus,
    InitializeResponse,
    StreamResponse,
)
from prism.contract.service import REQUEST_TYPE, RESPONSE_TYPE
from prism.wire.codecs import decode, encode
from prism.wire.events import Hello, Note
from prism.wire.frames import Codec

KINDS = [*REQUEST_TYPE.values(), *RESPONSE_TYPE.values(), Hello, Note]
BOTH = [Codec.JSON, Codec.MSGPACK]


@pytest.mark.parametrize("codec", BOTH)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_empty_payload_is_the_message_with_all_defaults(codec, kind):
    assert decode(codec, kind, b"") == kind()
    assert decode(codec, kind, encode(codec, kind())) == kind()


@pytest.mark.parametrize("codec", BOTH)
@given(text=st.text(), raw=st.binary(), code=st.integers(-(2**31), 2**31 - 1))
def test_round_trip(codec, text, raw, code):
    message = ExecuteResponse(error=text, result_raw=raw, error_code=code, result_json=text)
    assert decode(codec, ExecuteResponse, encode(codec, message)) == message


def test_unknown_fields_are_ignored_and_the_last_duplicate_counts():
    assert decode(Codec.JSON, ExecuteRequest, b'{"new":[{}],"operation":"a"}') == ExecuteRequest(
        operation="a"
    )
    twice = decode(Codec.JSON, ExecuteRequest, b'{"operation":"a","operation":"b"}')
    assert twice.operation == "b"
    twice = decode(Codec.MSGPACK, ExecuteRequest, b"\x82\xa9operation\xa1a\xa9operation\xa1b")
    assert twice.operation == "b"


def test_a_silent_health_check_is_unhealthy():
    assert decode(Codec.JSON, HealthCheckResponse, b"{}").status is HealthStatus.UNHEALTHY
    assert b"status" in encode(Codec.JSON, HealthCheckResponse(status=HealthStatus.HEALTHY))


BAD_JSON = {
    "not JSON": b"{operation:",
    "trailing bytes": b"{} {}",
    "another type": b"[]",
    "null": b"null",
    "wrong field type": b'{"operation":1}',
    "invalid UTF-8": b'{"operation":"\xff\xfe"}',
    "lone surrogate": b'{"operation":"\\ud800"}',
    "deep": b'{"x":' * 100_000,
    "deep arrays": b'{"x":' + b"[" * 100_000,
    "number in metadata": b'{"metadata":{"a":1}}',
    "not base64": b'{"params_raw":"***"}',
    "byte order mark": b"\xef\xbb\xbf{}",
}
BAD_MSGPACK = {
    "not MessagePack": b"\xc1",
    "trailing bytes": b"\x80\x80",
    "another type": b"\x90",
    "nil": b"\xc0",
    "wrong field type": b"\x81\xa9operation\x01",
    "invalid UTF-8": b"\x81\xa9operation\xa2\xff\xfe",
    "deep": b"\x81\xa1x" * 100_000,
    "deep arrays": b"\x81\xa1x" + b"\x91" * 100_000,
    "huge map": b"\xdf\xff\xff\xff\xff",
    "huge string": b"\x81\xa9operation\xdb\xff\xff\xff\xff",
    "huge bytes": b"\x81\xaaparams_raw\xc6\xff\xff\xff\xff",
    "huge unknown array": b"\x81\xa1x\xdd\xff\xff\xff\xff",
    "huge metadata": b"\x81\xa8metadata\xdf\xff\xff\xff\xff",
    "huge extension": b"\x81\xa1x\xc9\xff\xff\xff\xff\x01",
    "number as key": b"\x81\x01\x01",
}


@pytest.mark.parametrize("payload", BAD_JSON.values(), ids=BAD_JSON)
def test_bad_json(payload):
    with pytest.raises(RemoteProtocolError, match="payload is not a ExecuteRequest in JSON"):
        decode(Codec.JSON, ExecuteRequest, payload)


@pytest.mark.parametrize("payload", BAD_MSGPACK.values(), ids=BAD_MSGPACK)
def test_bad_messagepack(payload):
    with pytest.raises(RemoteProtocolError, match="payload is not a ExecuteRequest in Message"):
        decode(Codec.MSGPACK, ExecuteRequest, payload)


@pytest.mark.parametrize(
    "digits", [str(2**31), str(-(2**31) - 1), str(2**64), "1" + "0" * 400, "1" + "0" * 5000]
)
def test_numbers_out_of_range(digits):
    with pytest.raises(RemoteProtocolError):
        decode(Codec.JSON, StreamResponse, b'{"error_code":%s}' % digits.encode())
    with pytest.raises(RemoteProtocolError):
        decode(Codec.JSON, StreamResponse, b'{"error_code":1.5}')


@pytest.mark.parametrize("claim", [b"\xdd\xff\xff\xff\xff", b"\xdd\x00\xff\xff\xff"])
def test_a_claimed_array_allocates_nothing(claim):
    payload = b"\x81\xb4supported_operations" + claim
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decode(Codec.MSGPACK, InitializeResponse, payload)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_note_holds_a_bounded_number_of_records():
    with pytest.raises(RemoteProtocolError, match="length <= 1000"):
        decode(Codec.MSGPACK, Note, b"\x81\xa4logs\xdc\xff\xff" + b"\x80" * 65535)


@pytest.mark.parametrize("codec", BOTH)
def test_what_cannot_be_encoded_is_a_local_error(codec):
    with pytest.raises(LocalProtocolError, match="cannot encode ExecuteRequest"):
        encode(codec, ExecuteRequest(operation="\ud800"))
    with pytest.raises(LocalProtocolError, match="cannot encode Loose"):
        encode(codec, Loose(value=object()))


class Loose(msgspec.Struct):
    value: object
