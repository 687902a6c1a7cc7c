"""The same echo as a gRPC service on grpc.aio, with the messages of plugin.proto.

Usage: python -m benchmarks.grpc_service SOCKET
"""

import asyncio
import importlib
import sys
import tempfile
from typing import Any

import grpc.aio  # type: ignore[import-untyped]
import msgspec
from grpc_tools import protoc  # type: ignore[import-untyped]

from benchmarks.processes import ROOT

METHOD = "/prism.plugin.BackendPlugin/Execute"


def load_messages() -> Any:
    """The module that protoc makes of the contract."""
    with tempfile.TemporaryDirectory() as folder:
        status = protoc.main(
            ["protoc", f"-I{ROOT / 'schemas/prism'}", f"--python_out={folder}", "plugin.proto"]
        )
        if status:
            raise RuntimeError(f"protoc ended with {status}")
        sys.path.insert(0, folder)
        try:
            return importlib.import_module("plugin_pb2")
        finally:
            sys.path.remove(folder)


async def main(path: str) -> None:
    messages = load_messages()

    async def execute(request: Any, _context: object) -> Any:
        # Decodes and encodes its params with the library that the SDK uses.
        params = msgspec.json.decode(request.params_json)
        return messages.ExecuteResponse(
            success=True, result_json=msgspec.json.encode(params).decode()
        )

    handler = grpc.unary_unary_rpc_method_handler(
        execute,
        request_deserializer=messages.ExecuteRequest.FromString,
        response_serializer=messages.ExecuteResponse.SerializeToString,
    )
    service, name = METHOD.strip("/").split("/")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {name: handler})]
    )
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
