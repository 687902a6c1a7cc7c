"""Helpers for tests of keepers and the supervisor: an in-process plugin that misbehaves at will."""

import json
from contextlib import asynccontextmanager

import trio

from prism.contract.messages import ExecuteRequest
from prism.sdk import Health, Plugin, operation
from prism.supervision.supervisor import Supervisor


async def eventually(check, limit=30):
    """Wait until a plain ``check`` returns something true."""
    with trio.fail_after(limit):
        while not (found := check()):  # noqa: ASYNC110 - the plugin is another process
            await trio.sleep(0.01)
    return found


async def call(instance, name):
    answer = await instance.channel.execute(ExecuteRequest(operation=name, params_json="{}"))
    assert answer.success, answer.error
    return json.loads(answer.result_json)


async def leased_call(slot, name):
    with slot.lease() as instance:
        return await call(instance, name)


@asynccontextmanager
async def supervised(*specs):
    """A supervisor that has started; stopped on leaving."""
    supervisor = Supervisor(specs)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        try:
            yield supervisor
        finally:
            supervisor.stop()


class Model(Plugin):
    """Fails as its class attributes say; notes when each instance was made."""

    made: list[float]
    failures: int = 0
    sick = False
    degraded = False
    hang = ""

    def __init__(self):
        super().__init__()
        type(self).made.append(trio.current_time())
        self.number = len(self.made)

    async def start(self):
        if self.hang == "start":
            await trio.sleep_forever()
        if len(self.made) <= self.failures:
            raise ValueError("no backend")

    async def stop(self):
        if self.hang == "stop":
            await trio.sleep_forever()

    async def health(self):
        if self.hang == "health":
            await trio.sleep_forever()
        if self.degraded:
            return Health.degraded("so so")
        return Health.unhealthy("sick") if self.sick else Health.healthy()

    @operation
    async def wait(self, params: dict[str, int]) -> str:
        await trio.sleep(20)
        return "done"

    @operation
    async def which(self, params: dict[str, int]) -> int:
        return self.number
