"""The same echo as a gRPC service on grpc.aio, with the messages of plugin.proto.

Usage: python -m benchmarks.sides.grpc_service ADDRESS; it prints "ready PORT".
"""

import asyncio
import importlib
import sys
import tempfile
from typing import Any

import grpc.aio  # type: ignore[import-untyped]
import msgspec
from grpc_tools import protoc  # type: ignore[import-untyped]

from benchmarks.callers.meter import OPERATION
from benchmarks.processes import ROOT
from benchmarks.sides.grpc_aio import SERVICE

Handlers = dict[str, grpc.RpcMethodHandler]


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


def echo_handlers() -> Handlers:
    messages = load_messages()

    def method(name: str, answer: Any) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=getattr(messages, f"{name}Request").FromString,
            response_serializer=getattr(messages, f"{name}Response").SerializeToString,
        )

    async def execute(request: Any, _context: object) -> Any:
        # Decodes and encodes its params with the library that the SDK uses.
        params = msgspec.json.decode(request.params_json)
        return messages.ExecuteResponse(
            success=True, result_json=msgspec.json.encode(params).decode()
        )

    async def initialize(_request: Any, _context: object) -> Any:
        return messages.InitializeResponse(success=True, supported_operations=[OPERATION])

    async def health_check(_request: Any, _context: object) -> Any:
        return messages.HealthCheckResponse()

    async def shutdown(_request: Any, _context: object) -> Any:
        return messages.ShutdownResponse(success=True)

    return {
        "Execute": method("Execute", execute),
        "Initialize": method("Initialize", initialize),
        "HealthCheck": method("HealthCheck", health_check),
        "Shutdown": method("Shutdown", shutdown),
    }


async def serve(handlers: Handlers, address: str) -> None:
    """Serve the contract's methods, by name, for ever."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port(address)
    await server.start()
    print("ready", port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(echo_handlers(), sys.argv[1]))
