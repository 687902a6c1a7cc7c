"""The stream plugin as a stock grpcio server, written from the .proto alone: no Prism here.

usage: python stream_grpc_plugin.py SCHEMAS PORT
"""

import asyncio
import json
import os
import sys
from typing import Any, NamedTuple

import grpc

sys.path.insert(0, sys.argv[1])
messages, services = grpc.protos_and_services("prism/plugin.proto")

STREAMING = ("count", "fail", "chat", "total", "told", "deaf", "die", "flood", "quiet")
UNARY = ("echo", "seen", "wake")


class More(NamedTuple):
    """What follows the first message, and the metadata that came in that."""

    requests: Any
    metadata: dict[str, str]


class Streams(services.BackendPluginServicer):
    def __init__(self):
        self.begun = self.cancelled = self.sent = 0
        self.awake = asyncio.Event()

    async def Initialize(self, request, context):  # noqa: N802 - the .proto's name
        return messages.InitializeResponse(
            success=True,
            plugin_version="1.0",
            supported_operations=[*UNARY, *STREAMING],
            operations=[
                messages.OperationDeclaration(name=name, streaming=True) for name in STREAMING
            ],
        )

    async def HealthCheck(self, request, context):  # noqa: N802
        return messages.HealthCheckResponse(status="HEALTHY")

    async def Shutdown(self, request, context):  # noqa: N802
        return messages.ShutdownResponse(success=True)

    async def Execute(self, request, context):  # noqa: N802
        params = json.loads(request.params_json or "{}")
        result = {"begun": self.begun, "cancelled": self.cancelled, "sent": self.sent}
        if request.operation == "echo":
            result = params
        elif request.operation == "wake":
            self.awake.set()
            self.awake = asyncio.Event()
        return messages.ExecuteResponse(success=True, result_json=json.dumps(result))

    async def ExecuteStream(self, requests, context):  # noqa: N802
        first = await anext(requests)
        params = json.loads(first.params_json)
        if not isinstance(params.get("n", 3), int):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "n is a number")
        more = More(requests, dict(first.metadata))
        async for value in getattr(self, first.operation)(params, more, context):
            position = ""
            if isinstance(value, tuple):
                value, position = value
            yield messages.StreamResponse(result_json=json.dumps(value), position=position)

    async def count(self, params, more, context):
        after = more.metadata.get("prism-last-event-id") or "0"
        for n in range(int(after), params.get("n", 3)):
            yield "x" * params.get("size", 0) or n, str(n + 1)

    async def fail(self, params, more, context):
        for n in range(params.get("n", 3)):
            yield n
        await context.abort(grpc.StatusCode.DATA_LOSS, "broken off")

    async def chat(self, params, more, context):
        yield params["text"]
        async for request in more.requests:
            yield json.loads(request.params_json)["text"].upper()
        yield "bye"

    async def total(self, params, more, context):
        total = params["n"]
        async for request in more.requests:
            total += json.loads(request.params_json)["n"]
        yield total

    async def told(self, params, more, context):
        yield dict(more.metadata)

    async def deaf(self, params, more, context):
        yield "I take nothing"
        await self.awake.wait()
        yield len([request async for request in more.requests])

    async def die(self, params, more, context):
        yield "last words"
        await asyncio.sleep(0.1)  # for them to leave
        os._exit(9)

    async def flood(self, params, more, context):
        self.begun += 1
        try:
            while True:
                yield "x" * params["size"]
                self.sent += 1
        finally:
            self.cancelled += 1

    async def quiet(self, params, more, context):
        self.begun += 1
        try:
            await asyncio.sleep(3600)
            yield "never"
        finally:
            self.cancelled += 1


async def main(port):
    server = grpc.aio.server()
    services.add_BackendPluginServicer_to_server(Streams(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


asyncio.run(main(sys.argv[2]))
