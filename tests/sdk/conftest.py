from collections.abc import AsyncIterator

import anyio
import msgspec
import pytest

from prism.sdk import Call, Health, Plugin, PluginError, StatusCode, operation


class EchoConfig(msgspec.Struct, forbid_unknown_fields=True):
    greeting: str = "hello"


class Key(msgspec.Struct, forbid_unknown_fields=True):
    key: str


class Times(msgspec.Struct):
    times: int = 1


class EchoPlugin(Plugin):
    name = "echo"
    version = "1.2.3"
    Config = EchoConfig
    config: EchoConfig

    started = 0
    stopped = 0

    def __init__(self) -> None:
        super().__init__()
        self.release = anyio.Event()

    async def start(self) -> None:
        self.started += 1
        if self.config.greeting == "crash":
            raise ValueError(f"cannot connect with {self.credentials['password']}")
        if self.config.greeting == "refuse":
            raise PluginError(StatusCode.UNAUTHENTICATED, "the backend said no")

    async def stop(self) -> None:
        self.stopped += 1

    async def health(self) -> Health:
        if self.config.greeting == "sick":
            raise OSError("backend gone")
        return Health.degraded("slow", lag="3 s")

    @operation(idempotent=True)
    async def get(self, params: Key) -> dict[str, str]:
        return {"key": params.key, "greeting": self.config.greeting}

    @operation
    async def nothing(self, params: dict[str, int]) -> None:
        self.metrics.custom["nothing"] = len(params)

    @operation
    async def raw(self, params: Key) -> msgspec.Raw:
        return msgspec.Raw(b'{"n":123456789012345678901234567890}')

    @operation
    async def who(self, params: Key, call: Call) -> dict[str, object]:
        return {
            "namespace": call.namespace,
            "principal": call.principal,
            "request_id": call.request_id,
            "traceparent": call.traceparent,
            "operation": call.operation,
            "binary": call.binary,
        }

    @operation
    async def fail(self, params: Key) -> None:
        raise PluginError(StatusCode.NOT_FOUND, f"no {params.key}")

    @operation
    async def bug(self, params: Key) -> None:
        raise KeyError(f"secret detail {self.credentials.get('password')}")

    @operation
    async def grouped(self, params: Key) -> None:
        async def child() -> None:
            raise PluginError(StatusCode.ABORTED, "in a child")

        async with anyio.create_task_group() as group:
            group.start_soon(child)

    @operation
    async def unencodable(self, params: Key) -> object:
        return object()

    @operation
    async def wait(self, params: Key) -> None:
        await self.release.wait()

    @operation
    async def count(self, params: Times) -> AsyncIterator[dict[str, int]]:
        for n in range(params.times):
            yield {"n": n}
        if params.times == 13:
            raise PluginError(StatusCode.OUT_OF_RANGE, "unlucky")

    @operation(name="chat")
    async def talk(self, params: Key, call: Call) -> AsyncIterator[str]:
        try:
            yield f"first {params.key}"
            async for message in call.messages(Times):
                yield f"times {message.times}"
        finally:
            self.metrics.custom["closed"] = 1


@pytest.fixture
def echo() -> type[EchoPlugin]:
    return EchoPlugin
