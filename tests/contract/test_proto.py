"""The .proto and the Structs must say the same, in both directions."""

from pathlib import Path

import msgspec
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from grpc_tools import protoc

from prism.contract import messages
from prism.contract.messages import FIELD_NUMBERS, HealthStatus, Message, OperationAccess
from prism.contract.service import REQUEST_TYPE, RESPONSE_TYPE, Method

SCHEMAS = Path(__file__).parents[2] / "schemas"
ENUMS = {"Status": HealthStatus, "Access": OperationAccess}


@pytest.fixture(scope="module")
def proto(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pb2.FileDescriptorProto:
    out = tmp_path_factory.mktemp("proto") / "plugin.pb"
    arguments = ["protoc", f"-I{SCHEMAS}", f"--descriptor_set_out={out}", "prism/plugin.proto"]
    assert protoc.main(arguments) == 0
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]


def struct_fields(struct: type[Message]) -> dict[str, tuple[int, str]]:
    """name -> (number, proto type) as the Struct has it."""
    numbers = FIELD_NUMBERS[struct]
    return {
        field.name: (numbers[field.name], proto_type(field.type))
        for field in msgspec.inspect.type_info(struct).fields  # type: ignore[attr-defined]
    }


def proto_type(kind: msgspec.inspect.Type) -> str:
    match kind:
        case msgspec.inspect.UnionType(types=types):
            inner = [t for t in types if not isinstance(t, msgspec.inspect.NoneType)]
            assert len(inner) == 1
            name = proto_type(inner[0])
            return name if isinstance(inner[0], msgspec.inspect.StructType) else f"optional {name}"
        case msgspec.inspect.DictType():
            return f"map<{proto_type(kind.key_type)}, {proto_type(kind.value_type)}>"
        case msgspec.inspect.ListType():
            return f"repeated {proto_type(kind.item_type)}"
        case msgspec.inspect.StructType():
            return kind.cls.__name__
        case msgspec.inspect.EnumType():
            return f"enum {kind.cls.__name__}"
        case msgspec.inspect.IntType(le=le):
            return {2**31 - 1: "int32", 2**63 - 1: "int64"}[le]
        case msgspec.inspect.FloatType():
            return "double"
        case msgspec.inspect.StrType():
            return "string"
        case msgspec.inspect.BytesType():
            return "bytes"
        case msgspec.inspect.BoolType():
            return "bool"
    raise AssertionError(f"no proto type for {kind}")


def proto_fields(message: descriptor_pb2.DescriptorProto) -> dict[str, tuple[int, str]]:
    """name -> (number, proto type) as the .proto has it."""
    maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    scalars = {
        Field.TYPE_STRING: "string",
        Field.TYPE_BYTES: "bytes",
        Field.TYPE_BOOL: "bool",
        Field.TYPE_INT32: "int32",
        Field.TYPE_INT64: "int64",
        Field.TYPE_DOUBLE: "double",
    }
    found = {}
    for field in message.field:
        type_name = field.type_name.rpartition(".")[2]
        if field.type == Field.TYPE_MESSAGE and type_name in maps:
            key, value = (scalars[f.type] for f in maps[type_name].field)
            name = f"map<{key}, {value}>"
        elif field.type == Field.TYPE_MESSAGE:
            name = type_name
        elif field.type == Field.TYPE_ENUM:
            name = f"enum {ENUMS[type_name].__name__}"
        else:
            name = scalars[field.type]
        if field.label == Field.LABEL_REPEATED and not name.startswith("map<"):
            name = f"repeated {name}"
        if field.proto3_optional:
            name = f"optional {name}"
        found[field.name] = (field.number, name)
    return found


def test_every_message_has_its_struct_and_every_struct_its_message(
    proto: descriptor_pb2.FileDescriptorProto,
) -> None:
    in_proto = {message.name for message in proto.message_type}
    in_python = {struct.__name__ for struct in Message.__subclasses__()}
    assert in_proto == in_python
    assert in_python == {struct.__name__ for struct in FIELD_NUMBERS}


def test_names_numbers_and_types_agree(proto: descriptor_pb2.FileDescriptorProto) -> None:
    assert proto.package == "prism.plugin"
    for message in proto.message_type:
        assert proto_fields(message) == struct_fields(getattr(messages, message.name)), message.name


def test_enums_agree(proto: descriptor_pb2.FileDescriptorProto) -> None:
    enums = {
        f"{message.name}.{enum.name}": {value.name: value.number for value in enum.value}
        for message in proto.message_type
        for enum in message.enum_type
    }
    assert enums == {
        "HealthCheckResponse.Status": {status.name: status.value for status in HealthStatus},
        "OperationDeclaration.Access": {access.name: access.value for access in OperationAccess},
    }
    assert not proto.enum_type


def test_service_agrees(proto: descriptor_pb2.FileDescriptorProto) -> None:
    (service,) = proto.service
    assert service.name == "BackendPlugin"
    declared = {
        rpc.name: (
            rpc.input_type.rpartition(".")[2],
            rpc.output_type.rpartition(".")[2],
            rpc.client_streaming,
            rpc.server_streaming,
        )
        for rpc in service.method
    }
    expected = {}
    for method in Method:
        name = "".join(part.capitalize() for part in method.name.split("_"))
        streaming = method is Method.EXECUTE_STREAM
        expected[name] = (
            REQUEST_TYPE[method].__name__,
            RESPONSE_TYPE[method].__name__,
            streaming,
            streaming,
        )
    assert declared == expected


@pytest.mark.parametrize("struct", FIELD_NUMBERS, ids=lambda struct: struct.__name__)
def test_absent_is_default_and_unknown_is_ignored(struct: type[Message]) -> None:
    assert msgspec.json.decode(b'{"no_such_field": [1]}', type=struct) == struct()
    with pytest.raises(AttributeError):
        setattr(struct(), struct.__struct_fields__[0], None)


def test_silence_is_not_health() -> None:
    answer = msgspec.json.decode(b"{}", type=messages.HealthCheckResponse)
    assert answer.status is HealthStatus.UNHEALTHY
    healthy = messages.HealthCheckResponse(status=HealthStatus.HEALTHY)
    assert b'"status":0' in msgspec.json.encode(healthy)


def test_repr_of_initialize_shows_no_secret() -> None:
    request = messages.InitializeRequest(
        namespace="n", config_json='{"a":"canary1"}', credentials={"password": "canary2"}
    )
    assert "canary" not in repr(request)
    assert "password" in repr(request)
