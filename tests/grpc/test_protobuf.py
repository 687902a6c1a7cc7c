import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.contract import messages
from prism.contract.errors import LocalProtocolError, RemoteProtocolError
from prism.contract.messages import (
    FIELD_NUMBERS,
    ExecuteRequest,
    HealthCheckRequest,
    HealthCheckResponse,
    HealthStatus,
    InitializeRequest,
    Message,
    PluginMetrics,
    ProxyCapabilities,
)
from prism.grpc import protobuf

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)


def values(kind: msgspec.inspect.Type) -> st.SearchStrategy:
    match kind:
        case msgspec.inspect.UnionType(types=types):
            return st.one_of([values(one) for one in types])
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.DictType():
            return st.dictionaries(TEXT, TEXT, max_size=3)
        case msgspec.inspect.ListType():
            return st.lists(values(kind.item_type), max_size=3)
        case msgspec.inspect.StructType():
            return structs(kind.cls)
        case msgspec.inspect.EnumType():
            return st.sampled_from(kind.cls)
        case msgspec.inspect.IntType(le=le):
            return INT32 if le == 2**31 - 1 else INT64
        case msgspec.inspect.FloatType():
            return st.floats(allow_nan=False)
        case msgspec.inspect.StrType():
            return TEXT
        case msgspec.inspect.BytesType():
            return st.binary(max_size=20)
        case msgspec.inspect.BoolType():
            return st.booleans()
    raise AssertionError(kind)


def structs(kind: type[Message]) -> st.SearchStrategy[Message]:
    fields = msgspec.inspect.type_info(kind).fields  # type: ignore[attr-defined]
    return st.builds(kind, **{field.name: values(field.type) for field in fields})


@pytest.mark.parametrize("kind", FIELD_NUMBERS, ids=lambda kind: kind.__name__)
def test_what_is_encoded_is_decoded_again(kind):
    @given(structs(kind))
    def check(message):
        assert protobuf.decode(kind, protobuf.encode(message)) == message

    check()


def test_bytes_are_those_of_the_protocol_buffer_specification():
    assert protobuf.encode(ExecuteRequest(operation="get", params_raw=b"\x80")) == (
        b"\x0a\x03get\x22\x01\x80"
    )
    nested = InitializeRequest(capabilities=ProxyCapabilities(supports_hot_reload=True))
    assert protobuf.encode(nested) == b"\x2a\x02\x18\x01"
    assert protobuf.decode(InitializeRequest, b"\x2a\x02\x18\x01\xfa\x01\x01x") == nested


def test_presence_is_kept_where_the_schema_has_it():
    assert protobuf.encode(HealthCheckRequest(connection_id="")) == b"\x0a\x00"
    assert protobuf.decode(HealthCheckRequest, b"") == HealthCheckRequest(connection_id=None)
    empty = HealthCheckResponse(status=HealthStatus.DEGRADED, metrics=PluginMetrics())
    assert protobuf.decode(HealthCheckResponse, protobuf.encode(empty)) == empty


def test_health_without_a_status_is_what_a_grpc_server_means_by_it():
    assert protobuf.decode(HealthCheckResponse, b"").status is HealthStatus.HEALTHY
    assert protobuf.encode(HealthCheckResponse()) == b"\x08\x02"


@given(st.sampled_from(list(FIELD_NUMBERS)), st.binary(max_size=60))
def test_any_bytes_are_a_message_or_one_error(kind, payload):
    try:
        message = protobuf.decode(kind, payload)
    except RemoteProtocolError:
        pass
    else:
        protobuf.encode(message)


@pytest.mark.parametrize("payload", [b"\x08\x07", b"\x12\x01\xff", b"\x0a", b"\xff" * 12], ids=repr)
def test_what_is_no_health_is_refused(payload):
    with pytest.raises(RemoteProtocolError):
        protobuf.decode(HealthCheckResponse, payload)


def test_text_that_is_no_unicode_cannot_be_encoded():
    with pytest.raises(LocalProtocolError, match="ExecuteRequest"):
        protobuf.encode(ExecuteRequest(operation="\ud800"))
    with pytest.raises(LocalProtocolError):
        protobuf.encode(messages.ShutdownRequest(timeout_seconds=2**40))
