"""A key-value plugin that is a stock gRPC server: it knows nothing of Prism but the .proto.

    pip install grpcio grpcio-tools
    python examples/plugins/grpc/echo.py schemas 20100

and in the proxy's configuration (examples/config/grpc.yaml):

    plugin:
      type: grpc
      endpoint: 127.0.0.1:20100
      insecure: true
"""

import asyncio
import json
import sys
from typing import Any

import grpc

if len(sys.argv) != 3:
    sys.exit("usage: python echo.py SCHEMAS PORT, as in: python echo.py schemas 20100")
sys.path.insert(0, sys.argv[1])
messages, services = grpc.protos_and_services("prism/plugin.proto")  # type: ignore[attr-defined]


class Echo(services.BackendPluginServicer):
    def __init__(self) -> None:
        self.store: dict[str, Any] = {}

    async def Initialize(self, request, context):  # noqa: N802 - the .proto's name
        declared = [
            messages.OperationDeclaration(name="get", idempotent=True, access="READ"),
            messages.OperationDeclaration(name="set", access="WRITE"),
        ]
        return messages.InitializeResponse(
            success=True, plugin_version="1.0.0", operations=declared
        )

    async def Execute(self, request, context):  # noqa: N802
        params = json.loads(request.params_json)
        if request.operation == "set":
            self.store[params["key"]] = params["value"]
            result = {"stored": True}
        elif request.operation == "get" and params["key"] in self.store:
            result = {"found": True, "value": self.store[params["key"]]}
        elif request.operation == "get":
            result = {"found": False}
        else:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no {request.operation!r} here")
        return messages.ExecuteResponse(success=True, result_json=json.dumps(result))

    async def HealthCheck(self, request, context):  # noqa: N802
        return messages.HealthCheckResponse(status="HEALTHY")

    async def Shutdown(self, request, context):  # noqa: N802
        # The proxy leaves; this server serves others on, so it does not stop.
        return messages.ShutdownResponse(success=True)


async def main(port: str) -> None:
    server = grpc.aio.server()
    services.add_BackendPluginServicer_to_server(Echo(), server)
    print("listening on", server.add_insecure_port(f"127.0.0.1:{port}"), flush=True)
    await server.start()
    await server.wait_for_termination()


asyncio.run(main(sys.argv[2]))
