from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from prism.grpc.descriptors import FILES, SERVICES, file_of, message_class

SCHEMAS = Path(__file__).parents[2] / "schemas"
PROTO_FILES = (
    "prism/plugin.proto",
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
    "grpc/reflection/v1alpha/reflection.proto",
)


def test_the_compiled_files_are_the_schemas(tmp_path):
    out = tmp_path / "descriptors.binpb"
    arguments = ["protoc", f"-I{SCHEMAS}", f"--descriptor_set_out={out}", *PROTO_FILES]
    assert protoc.main(arguments) == 0
    compiled = FileDescriptorSet.FromString(out.read_bytes()).file
    assert {file.name: file.SerializeToString() for file in compiled} == FILES, "run: make generate"
    assert {str(path.relative_to(SCHEMAS)) for path in SCHEMAS.rglob("*.proto")} == set(PROTO_FILES)


def test_services_and_symbols_are_found():
    assert set(SERVICES) == {
        "prism.plugin.BackendPlugin",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    for symbol in ("prism.plugin.BackendPlugin", "prism.plugin.BackendPlugin.Execute"):
        found = file_of(symbol)
        assert found is not None
        assert FileDescriptorProto.FromString(found).name == "prism/plugin.proto"
    assert file_of("prism.plugin.Nothing") is None


def test_messages_are_those_of_the_wire():
    check = message_class("grpc.health.v1.HealthCheckRequest")
    assert check(service="kv").SerializeToString() == b"\x0a\x02kv"
