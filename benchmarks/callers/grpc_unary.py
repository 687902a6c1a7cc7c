"""The peer: unary calls on grpc.aio over a Unix socket, one channel, a server process."""

import asyncio
import tempfile

import grpc.aio  # type: ignore[import-untyped]

from benchmarks.callers.meter import METADATA, OPERATION, PARAMS, Meter, next_order
from benchmarks.processes import module, server
from benchmarks.sides.grpc_aio import METHOD
from benchmarks.sides.grpc_service import load_messages


async def main(pid: int, path: str) -> None:
    messages = load_messages()
    request = messages.ExecuteRequest(operation=OPERATION, params_json=PARAMS, metadata=METADATA)
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        execute = channel.unary_unary(
            METHOD,
            request_serializer=messages.ExecuteRequest.SerializeToString,
            response_deserializer=messages.ExecuteResponse.FromString,
        )

        async def call() -> None:
            assert (await execute(request)).result_json == PARAMS

        while order := await asyncio.to_thread(next_order):
            in_flight, seconds = order
            meter = Meter(pid, seconds)
            async with asyncio.TaskGroup() as calls:
                for _ in range(in_flight):
                    calls.create_task(meter.keep_calling(call))
            meter.report()


with tempfile.TemporaryDirectory() as folder:
    socket = f"{folder}/echo.sock"
    service = module("sides.grpc_service", f"unix:{socket}")
    with server(service, "(ready)") as (pid, _):
        asyncio.run(main(pid, socket))
