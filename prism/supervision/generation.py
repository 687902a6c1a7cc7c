"""A generation: one instance of a plugin from the start of its process to its end.

Theory of operation. A generation is a task. It opens the door to the plugin,
calls Initialize, waits for health, and is *settled* then; its owner puts the
instance into the slot, or does not. It watches itself: a broken channel, failed
health checks, the plugin's own GOAWAY or its owner's ``retire`` make it *leave*, of
which its owner is told at once and in plain code, so that no further call gets
to it. Then it drains (unless its channel broke), shuts the plugin down, and
ends. Whatever happens, ``run`` returns only when the plugin's process is reaped.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from prism.config.errors import ConfigError
from prism.contract.errors import PrismError
from prism.contract.messages import HealthCheckResponse, HealthStatus
from prism.streams import unix
from prism.streams.errors import LaunchError
from prism.supervision.doors import open_door
from prism.supervision.farewell import REPLACED, drain, shut_down
from prism.supervision.greeting import declared_operations, initialize
from prism.supervision.health import HealthMonitor
from prism.supervision.instance import Instance
from prism.supervision.journal import Journal
from prism.supervision.lifecycle import OVER, SERVING, TRANSITIONS, Lifecycle, State, Trigger
from prism.supervision.news import News
from prism.supervision.spec import InstanceSpec

log = logging.getLogger("prism.supervision")


class Generation:
    """One attempt at an instance. Run ``run`` in a task; it raises only Cancelled.

    ``delay`` is waited before the start. ``fresh`` loads a Python plugin's code anew.
    ``on_leaving`` is called, at most once, when the instance must get no more calls.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        number: int,
        journal: Journal,
        *,
        delay: float = 0.0,
        reason: str = "",
        fresh: bool = False,
        listener: unix.UnixListener | None = None,
        on_leaving: Callable[["Generation"], None] = lambda _generation: None,
    ) -> None:
        self.spec = spec
        self.number = number
        self.instance: Instance | None = None
        self.failure: LaunchError | None = None
        self.leaving_reason = ""
        self.broke = False
        self.moments: dict[str, float] = {}
        self._journal = journal
        self._delay = delay
        self._fresh = fresh
        self._listener = listener
        self._on_leaving = on_leaving
        self._scope = trio.CancelScope()
        self._settled = trio.Event()
        self._leaving = trio.Event()
        self._retired = trio.Event()
        self._ended = trio.Event()
        self._stop_reason = "stop"
        self._monitor: HealthMonitor | None = None
        self._news = News(journal, spec.plugin_name, self.id, self._take_health)
        first = State.BACKING_OFF if delay else State.STARTING
        self.lifecycle = Lifecycle(first, reason, self._tell, journal.events.clock)

    @property
    def id(self) -> str:
        """Its label, and its instance's: ``namespace/number``."""
        return f"{self.spec.namespace}/{self.number}"

    @property
    def version(self) -> str:
        """What the plugin says of itself; before that, what it is configured as."""
        if self.instance is not None:
            return self.instance.version
        return self.spec.plugin.version or ""

    @property
    def pid(self) -> int | None:
        """Its process, where it is known."""
        return self._news.pid

    @property
    def ending(self) -> str:
        """How its process ended, in words; empty where it has none of ours."""
        return self._news.ending

    @property
    def serving(self) -> bool:
        """Can it be given calls?"""
        return self.lifecycle.state in SERVING and not self._leaving.is_set()

    @property
    def served(self) -> float:
        """Seconds from its first good health to its leaving, or to now; 0 if it had none."""
        if "ready" not in self.moments:
            return 0.0
        return self.moments.get("leaving", trio.current_time()) - self.moments["ready"]

    @property
    def error(self) -> LaunchError:
        """Why it serves no more, as an error."""
        return self.failure or LaunchError(self.leaving_reason)

    # -- what its owner does --------------------------------------------------

    def retire(self, reason: str, *, replaced: bool = False) -> None:
        """It shall finish its calls and end; what is not serving yet is given up at once."""
        if self._ended.is_set() or self._retired.is_set():
            return
        self._retired.set()
        if replaced:
            self._stop_reason = REPLACED
        if not self._settled.is_set():
            self.leaving_reason = reason
            self.lifecycle.move(Trigger.RETIRED, reason)
            self._scope.cancel()
        else:
            self._leave(reason)

    async def wait_settled(self) -> bool:
        """Wait until it can serve (True) or has ended without having served (False)."""
        await self._settled.wait()
        return self.instance is not None and self.serving

    async def wait_leaving(self) -> None:
        """Wait until it must get no more calls."""
        await self._leaving.wait()

    async def wait_ended(self) -> None:
        """Wait until nothing is left of it."""
        await self._ended.wait()

    @property
    def over(self) -> bool:
        """Has it ended?"""
        return self._ended.is_set()

    # -- its life -------------------------------------------------------------

    async def run(self) -> None:
        """From start to end. A failure of the plugin's is kept in ``failure``."""
        try:
            with self._scope:
                if self._delay:
                    await trio.sleep(self._delay)
                    self.lifecycle.move(Trigger.DUE)
                self._mark("begun")
                await self._live()
        except* PrismError as group:
            self._fail(group)
        except* Exception:
            log.exception("bug while running %s", self.spec.label)
            self.failure = LaunchError("internal error; the proxy's log has the cause")
        finally:
            self._mark("ended")
            self._finish()

    async def _live(self) -> None:
        spec = self.spec
        credentials = spec.credentials()
        async with (
            trio.open_nursery() as nursery,
            open_door(spec, self._news, self._listener, nursery, fresh=self._fresh) as channel,
        ):
            self._mark("connected")
            self.lifecycle.move(Trigger.CONNECTED)
            answer = await initialize(channel, spec, credentials)
            self._monitor = HealthMonitor(channel, spec.plugin.health, self._take_health)
            self.instance = self._news.instance = Instance(
                namespace=spec.namespace,
                generation=self.number,
                plugin=spec.plugin_name,
                version=answer.plugin_version,
                channel=channel,
                operations=declared_operations(answer),
                pid=self._news.pid,
            )
            await self._monitor.wait_serviceable(spec.plugin.start_timeout_seconds)
            self._mark("ready")
            self._settled.set()
            error = await self._serve(self.instance, self._monitor)
            if error is not None:
                raise error

    def _take_health(self, health: HealthCheckResponse) -> None:
        """A health check was answered, or the plugin said by itself that its health changed."""
        instance = self.instance
        if instance is None:
            return
        instance.health = health
        instance.metrics = health.metrics or instance.metrics
        if health.status is HealthStatus.UNHEALTHY:
            if self._settled.is_set() and self._monitor is not None:
                self._monitor.ask_now()
        elif self.lifecycle.state in SERVING or not self._settled.is_set():
            trigger = (
                Trigger.IMPAIRED if health.status is HealthStatus.DEGRADED else Trigger.HEALTHY
            )
            if trigger in TRANSITIONS[self.lifecycle.state]:
                self.lifecycle.move(trigger, health.message)

    async def _serve(self, instance: Instance, monitor: HealthMonitor) -> Exception | None:
        """Watch ``instance`` until it leaves, and retire it; returns what broke, if anything."""
        broken: Exception | None = None
        async with trio.open_nursery() as nursery:

            async def watch(wait: Callable[[], Awaitable[str]]) -> None:
                self._leave(await wait())
                nursery.cancel_scope.cancel()

            async def break_off() -> None:
                nonlocal broken
                broken = await instance.channel.wait_broken()
                self.broke = True
                self._leave(str(broken))
                nursery.cancel_scope.cancel()

            async def said_it_stops() -> str:
                await self._news.leaving.wait()
                return "it said that it stops"

            async def was_retired() -> str:
                await self._retired.wait()
                return self.leaving_reason

            nursery.start_soon(break_off)
            for wait in (said_it_stops, was_retired, monitor.wait_unhealthy):
                nursery.start_soon(watch, wait)
        # A broken channel is what counts, whatever came with it.
        broken = broken or instance.channel.ended
        if broken is not None:
            self.broke = True
            return LaunchError(str(broken), crashed=True)
        self.lifecycle.move(Trigger.RETIRED, self.leaving_reason)
        await drain(instance, self.spec.plugin.drain_timeout_seconds)
        self._mark("drained")
        self.lifecycle.move(Trigger.DRAINED)
        await shut_down(instance, self.spec.plugin.kill_timeout_seconds, self._stop_reason)
        self._mark("shut_down")
        return None

    def _leave(self, reason: str) -> None:
        if self._leaving.is_set():
            return
        self.leaving_reason = self.leaving_reason or reason
        self._mark("leaving")
        if self.instance is not None:
            self.instance.leaving = True
        self._leaving.set()
        self._on_leaving(self)

    # -- its end --------------------------------------------------------------

    def _fail(self, group: BaseExceptionGroup[Any]) -> None:
        errors = _leaves(group)
        if self._retired.is_set() and not self.broke:
            # It was ending anyway: how its last connection went is nobody's trouble.
            log.debug("%s ended with %s", self.id, errors)
            return
        output = [line for error in errors for line in getattr(error, "output", ())]
        crashed = any(
            error.crashed if isinstance(error, LaunchError) else not isinstance(error, ConfigError)
            for error in errors
        )
        message = "; ".join(str(error) for error in errors)
        self.failure = LaunchError(message, output=output, crashed=crashed)

    def _finish(self) -> None:
        """Whatever the way here, end in a state that is over, and wake everybody."""
        if self.failure is not None and Trigger.BROKEN in TRANSITIONS[self.lifecycle.state]:
            self.lifecycle.move(Trigger.BROKEN, str(self.failure))
        for trigger in (Trigger.RETIRED, Trigger.DRAINED, Trigger.ENDED):
            if trigger in TRANSITIONS[self.lifecycle.state]:
                self.lifecycle.move(trigger, self.leaving_reason)
        assert self.lifecycle.state in OVER  # noqa: S101 - by the table, which a test walks
        self._leave(str(self.failure or self.leaving_reason or "it ended"))
        self._settled.set()
        self._ended.set()

    def _mark(self, moment: str) -> None:
        self.moments.setdefault(moment, trio.current_time())

    def _tell(self, before: State | None, after: State, reason: str) -> None:
        self._journal.transition(self.id, self.version, before, after, reason)


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    """The plain exceptions in a tree of groups."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
