"""The probe plugin as a stock grpcio server, written from the .proto alone: no Prism here.

usage: python grpc_server.py SCHEMAS [--gzip] [certificate.pem ca.pem]; prints its port
"""

import asyncio
import json
import sys
from pathlib import Path

import grpc

sys.path.insert(0, sys.argv[1])
messages, services = grpc.protos_and_services("prism/plugin.proto")

STREAMING = {"count", "flood", "break_off", "chat"}
UNARY = ("echo", "big", "fail", "seen", "wait", "time_left", "metadata")


class Probe(services.BackendPluginServicer):
    def __init__(self):
        self.initialized = False
        self.cancelled = self.waiting = self.sent = 0
        self.stopped = asyncio.Event()

    async def Initialize(self, request, context):  # noqa: N802 - the .proto's name
        if self.initialized:
            return messages.InitializeResponse(error="a second Initialize", error_code=9)
        self.initialized = True
        return messages.InitializeResponse(
            success=True,
            plugin_version="1.2",
            supported_operations=[*UNARY, *STREAMING],
            operations=[
                messages.OperationDeclaration(name=name, streaming=True) for name in STREAMING
            ],
        )

    async def HealthCheck(self, request, context):  # noqa: N802
        if not self.initialized:
            return messages.HealthCheckResponse(status="UNHEALTHY", message="not initialized")
        return messages.HealthCheckResponse(metrics=messages.PluginMetrics(requests_total=1))

    async def Shutdown(self, request, context):  # noqa: N802
        self.stopped.set()
        return messages.ShutdownResponse(success=True)

    async def Execute(self, request, context):  # noqa: N802
        params = json.loads(request.params_json or "{}")
        if request.operation not in UNARY:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no {request.operation} here")
        if request.operation == "fail":
            return messages.ExecuteResponse(error=params["text"], error_code=5)
        result = await getattr(self, request.operation)(params, context)
        return messages.ExecuteResponse(success=True, result_json=json.dumps(result))

    async def echo(self, params, context):
        return params

    async def big(self, params, context):
        return "x" * params["n"]

    async def seen(self, params, context):
        return {"cancelled": self.cancelled, "sent": self.sent, "waiting": self.waiting}

    async def metadata(self, params, context):
        return dict(context.invocation_metadata())

    async def time_left(self, params, context):
        left = context.time_remaining()
        return 1e6 if left is None else min(left, 1e6)

    async def wait(self, params, context):
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def ExecuteStream(self, requests, context):  # noqa: N802
        first = await anext(requests)
        params = json.loads(first.params_json)
        async for value in getattr(self, first.operation)(params, requests, context):
            yield messages.StreamResponse(result_json=json.dumps(value))

    async def count(self, params, requests, context):
        for n in range(params["n"]):
            yield n

    async def flood(self, params, requests, context):
        while True:
            yield "x" * params["n"]
            self.sent += 1

    async def break_off(self, params, requests, context):
        yield params["n"]
        await context.abort(grpc.StatusCode.DATA_LOSS, "broken off: gr\u00fc\u00dfe")

    async def chat(self, params, requests, context):
        yield params["text"]
        async for request in requests:
            yield json.loads(request.params_json)["text"]
        yield "bye"


async def main(gzip, credentials):
    server = grpc.aio.server(
        compression=grpc.Compression.Gzip if gzip else None,
        options=[("grpc.max_receive_message_length", 300_000)],
    )
    probe = Probe()
    services.add_BackendPluginServicer_to_server(probe, server)
    if credentials is not None:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await probe.stopped.wait()
    await server.stop(5)


def credentials_of(certificate, authority):
    pem = Path(certificate).read_bytes()
    roots = Path(authority).read_bytes()
    return grpc.ssl_server_credentials([(pem, pem)], roots, require_client_auth=True)


files = [argument for argument in sys.argv[2:] if not argument.startswith("--")]
asyncio.run(main("--gzip" in sys.argv, credentials_of(*files) if files else None))
