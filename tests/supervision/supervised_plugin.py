"""Plugins that misbehave at will: in this process, and scripted behind a connector."""

import json
from collections import Counter
from contextlib import asynccontextmanager, contextmanager

import trio

from prism.config.types import PluginConfig
from prism.contract.errors import CallError, ChannelClosed, PluginCrashed
from prism.contract.messages import (
    ExecuteRequest,
    HealthCheckResponse,
    HealthStatus,
    InitializeResponse,
    ShutdownResponse,
)
from prism.sdk import Health, Plugin, operation
from prism.streams.errors import LaunchError
from prism.supervision.events import Journal
from prism.supervision.generation import Generation
from prism.supervision.instance import InstanceSpec
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


@contextmanager
def held(slot):
    """The slot's instance, held as a call holds it."""
    instance = slot.choose()
    instance.acquire()
    ending = None
    try:
        yield instance
    except CallError as error:
        ending = error
        raise
    finally:
        instance.release(ending)


async def leased_call(slot, name):
    with held(slot) as instance:
        return await call(instance, name)


async def numbers(slot, calls=60):
    """Which of the models answer, and how often."""
    counts = Counter()
    for _ in range(calls):
        with held(slot) as instance:
            counts[await call(instance, "which")] += 1
    return counts


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
    start_takes = 0.0

    def __init__(self):
        super().__init__()
        type(self).made.append(trio.current_time())
        self.number = len(self.made)

    async def start(self):
        if self.hang == "start":
            await trio.sleep_forever()
        await trio.sleep(self.start_takes)
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


GOOD = HealthCheckResponse(status=HealthStatus.HEALTHY)


class ScriptedChannel:
    """A channel whose plugin answers Initialize, health checks and Shutdown as it is told."""

    def __init__(self, connector, health):
        self.connector = connector
        self.health = health
        self.checks = 0
        self.ended = None
        self.end_at_check = None
        self.given_up = []
        self._broken = trio.Event()

    def end(self, error):
        """The channel carries no more calls."""
        self.ended = self.ended or error
        self._broken.set()

    async def wait_broken(self):
        await self._broken.wait()
        return self.ended

    async def initialize(self, request):
        await trio.lowlevel.checkpoint()
        self.connector.said.append("initialize")
        return InitializeResponse(success=True, plugin_version="1.0")

    async def health_check(self, request):
        await trio.lowlevel.checkpoint()
        self.checks += 1
        if self.end_at_check is not None:
            self.end(self.end_at_check)
        if isinstance(self.health, Exception):
            raise self.health
        return self.health

    def go_away(self, reason):
        self.connector.said.append("go_away")

    def cancel_calls(self, error):
        self.given_up.append(error)

    async def shutdown(self, request):
        self.connector.said.append(f"shutdown: {request.reason}")
        await trio.lowlevel.checkpoint()
        match self.connector.shuts_down:
            case "hangs":
                await trio.sleep_forever()
            case "fails":
                raise PluginCrashed("gone")
            case "is not clean":
                return ShutdownResponse(success=False, error="a reason")
        return ShutdownResponse(success=True)


class ScriptedConnector:
    """Stands in for a ``Connector``. ``said`` is what its plugin was told.

    ``opening`` is awaited and ``refuses`` raised instead of a channel; leaving takes
    ``closing`` seconds, adds ``explanation`` to an error, or raises ``closes_with``.
    """

    pid = 99
    ending = ""

    def __init__(
        self,
        *,
        opening=trio.lowlevel.checkpoint,
        refuses=None,
        health=GOOD,
        closing=0.0,
        explanation="",
        closes_with=None,
    ):
        self.opening, self.refuses, self.health = opening, refuses, health
        self.closing, self.explanation, self.closes_with = closing, explanation, closes_with
        self.shuts_down = "well"
        self.said = []
        self.channel = None

    def bind(self, spec, *, on_note, on_goaway, plugin_log, **_keywords):
        """Called as ``Connector`` is: this one."""
        self.on_note, self.on_goaway, self.on_line = on_note, on_goaway, plugin_log.line
        return self

    def generation(self, on_leaving, **keywords):
        """A generation of which this is the connector."""
        spec = InstanceSpec("ns", "memory", "small", PluginConfig(), "{}", dict)
        generation = Generation(spec, 1, Journal("ns"), on_leaving=on_leaving, **keywords)
        generation._connector = self.bind(
            spec,
            on_note=generation._take_note,
            on_goaway=generation._take_goaway,
            plugin_log=generation._plugin_log,
        )
        return generation

    @asynccontextmanager
    async def connect(self, nursery):
        await self.opening()
        if self.refuses is not None:
            raise self.refuses
        self.channel = ScriptedChannel(self, self.health)
        try:
            yield self.channel
        except LaunchError as error:
            if self.explanation:
                raise LaunchError(f"{error}; {self.explanation}", crashed=error.crashed) from error
            raise
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.closing)
            self.channel.end(ChannelClosed("closed"))
            self.said.append("closed")
        if self.closes_with is not None:
            raise self.closes_with
