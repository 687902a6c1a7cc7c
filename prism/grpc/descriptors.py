"""The compiled ``.proto`` files of ``schemas/``: protobuf's view of what is spoken here.

``descriptors.binpb`` is what protoc made of them (a test compares the two). Server
reflection hands the files out as they are.
"""

from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_set = FileDescriptorSet.FromString(files(__package__).joinpath("descriptors.binpb").read_bytes())

FILES: dict[str, bytes] = {file.name: file.SerializeToString() for file in _set.file}
"""Serialized ``FileDescriptorProto`` by the file's name."""

SERVICES: tuple[str, ...] = tuple(
    f"{file.package}.{service.name}" for file in _set.file for service in file.service
)
"""Full names of all services."""

_pool = DescriptorPool()
for _file in FILES.values():
    _pool.AddSerializedFile(_file)


def message_class(full_name: str) -> Any:
    """protobuf's class for a message, such as ``grpc.health.v1.HealthCheckRequest``."""
    return GetMessageClass(_pool.FindMessageTypeByName(full_name))


def file_of(symbol: str) -> bytes | None:
    """The file that defines a service, method, message, field or enum; ``None`` if none does."""
    # The library's pool does not know methods by their names.
    for name in (symbol, symbol.rpartition(".")[0]):
        try:
            return FILES[_pool.FindFileContainingSymbol(name).name]
        except KeyError:
            continue
    return None
