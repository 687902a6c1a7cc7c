import base64
from math import ceil

import pytest
from google.protobuf import any_pb2, descriptor_pb2, duration_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from prism.contract.errors import RemoteProtocolError
from prism.contract.status import StatusCode
from prism.grpc.status import (
    decode_message,
    encode_message,
    encode_retry_info,
    format_timeout,
    parse_status,
    parse_timeout,
    status_of_http,
)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_messages_survive(text):
    encoded = encode_message(text)
    assert encoded.isascii()
    assert "\n" not in encoded
    assert decode_message(encoded) == text


def test_messages_are_written_as_grpc_writes_them():
    assert encode_message("50% of \u00fc\n") == "50%25 of %C3%BC%0A"
    assert decode_message("100% %zz %C3") == "100% %zz \ufffd"


@pytest.mark.parametrize(
    ("value", "status"),
    [("0", StatusCode.OK), ("5", StatusCode.NOT_FOUND)]
    + [(value, StatusCode.UNKNOWN) for value in ("17", "", "-1", "x", "9" * 5000, "\u0665")],
)
def test_statuses(value, status):
    assert parse_status(value) is status


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1H", 3600),
        ("2M", 120),
        ("3S", 3),
        ("250m", 0.25),
        ("5u", 5e-6),
        ("99999999n", 0.099999999),
    ],
)
def test_timeouts(value, seconds):
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "S", "1", "1s", "-1S", "1.5S", "123456789S", "1S ", "\u0661S"]
)
def test_what_is_no_timeout_is_refused(value):
    with pytest.raises(RemoteProtocolError, match="grpc-timeout"):
        parse_timeout(value)


@given(st.floats(0, 1e9))
def test_a_timeout_is_rounded_up_by_little(seconds):
    written = parse_timeout(format_timeout(seconds))
    assert seconds <= written * (1 + 1e-12)
    assert written <= seconds * 1.0001 + 1e-6


def test_a_timeout_beyond_measure_is_the_longest():
    assert format_timeout(1e15) == "99999999H"


def test_http_statuses_have_grpc_ones():
    assert status_of_http(404) is StatusCode.UNIMPLEMENTED
    assert status_of_http(503) is StatusCode.UNAVAILABLE
    assert status_of_http(418) is StatusCode.UNKNOWN


@pytest.fixture(scope="module")
def google_rpc():
    """protobuf's classes for google.rpc's Status and RetryInfo, whose files are not installed."""
    pool = DescriptorPool()
    for known in (any_pb2, duration_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="rpc.proto", package="google.rpc", syntax="proto3"
    )
    file.dependency.extend(["google/protobuf/any.proto", "google/protobuf/duration.proto"])
    kinds = descriptor_pb2.FieldDescriptorProto
    status = file.message_type.add(name="Status")
    status.field.add(name="code", number=1, type=kinds.TYPE_INT32, label=kinds.LABEL_OPTIONAL)
    status.field.add(name="message", number=2, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    status.field.add(
        name="details",
        number=3,
        type=kinds.TYPE_MESSAGE,
        type_name=".google.protobuf.Any",
        label=kinds.LABEL_REPEATED,
    )
    file.message_type.add(name="RetryInfo").field.add(
        name="retry_delay",
        number=1,
        type=kinds.TYPE_MESSAGE,
        type_name=".google.protobuf.Duration",
        label=kinds.LABEL_OPTIONAL,
    )
    pool.Add(file)
    names = ("google.rpc.Status", "google.rpc.RetryInfo")
    return [GetMessageClass(pool.FindMessageTypeByName(name)) for name in names]


@given(st.sampled_from(StatusCode), st.text(max_size=300), st.floats(0, 1e6))
def test_when_to_come_again_is_told_as_google_tells_it(google_rpc, status, message, seconds):
    status_class, retry_info = google_rpc
    encoded = encode_retry_info(status, message, seconds)
    told = status_class.FromString(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))
    assert (told.code, told.message) == (status, message)
    (detail,) = told.details
    assert detail.type_url == "type.googleapis.com/google.rpc.RetryInfo"
    delay = retry_info.FromString(detail.value).retry_delay
    assert delay.seconds * 10**9 + delay.nanos == ceil(seconds * 1e9)
