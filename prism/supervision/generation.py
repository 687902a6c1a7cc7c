"""A generation: one instance of a plugin from the start of its process to its end.

Theory of operation. A generation is a task, and a state of the table in ``lifecycle``.
The task connects to the plugin, calls Initialize and asks for its health; with the first
good answer it *serves*, and its owner may put the instance into the slot. From then on it
watches itself. Four things end its service: failed health checks, the plugin's own GOAWAY,
its owner's ``retire``, and a channel that breaks. Each of them is a transition, made in
plain code in the moment that it is known, and its owner is told in the same moment, so no
further call gets to the instance. Then it drains (unless its channel broke), shuts the
plugin down, and ends. Whatever happens, ``run`` returns only when the plugin's process is
reaped.

What others wait for are states: nothing else says how far it has come.
"""

import logging
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import trio

from prism.config.errors import ConfigError
from prism.contract.errors import CallError, ChannelAged, Draining, PrismError
from prism.contract.messages import HealthCheckResponse, HealthStatus, ShutdownRequest
from prism.contract.redaction import Redaction
from prism.isolation.confinement import Isolation
from prism.streams import unix
from prism.streams.errors import LaunchError
from prism.supervision.connect import Connector, declared_operations, initialize
from prism.supervision.events import Journal, PluginLog
from prism.supervision.health import HealthMonitor
from prism.supervision.instance import Instance, InstanceSpec, instance_id
from prism.supervision.lifecycle import (
    ENDING,
    OVER,
    PENDING,
    SERVING,
    TRANSITIONS,
    Lifecycle,
    State,
    Trigger,
)
from prism.wire.events import GoAway, Note

log = logging.getLogger("prism.supervision")

SHUTDOWN_GRACE = 2.0
"""Seconds beyond its own limit that a plugin's Shutdown may take."""
CANCEL_GRACE = 10.0
"""Seconds for cancelled calls to end: some have to tell their clients, whom the machine may keep
waiting. Until then they count as held."""
REPLACED = "replaced"
"""The reason of a Shutdown after which a plugin that dialled in need not dial again."""


class Generation:
    """One attempt at an instance. Run ``run`` in a task; it raises only Cancelled.

    ``credentials`` are to be used instead of those of the spec. ``delay`` is waited before the
    start. ``fresh`` loads a Python plugin's code anew.
    ``listener`` is where the plugin dials in. ``on_leaving`` is called when an instance that
    served must get no more calls.

    ``instance`` is there once the plugin was initialised. ``failure`` says what broke, and is
    None while nothing has. ``end_reason`` says why it must get no more calls. ``routine``: it
    left by itself, without a fault, and another connection can be had. ``credentials`` are those
    that it has, secrets included, once they have been read.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        number: int,
        journal: Journal,
        *,
        credentials: Mapping[str, str] | None = None,
        delay: float = 0.0,
        reason: str = "",
        fresh: bool = False,
        listener: unix.UnixListener | None = None,
        on_leaving: Callable[["Generation"], None] = lambda _generation: None,
    ) -> None:
        self.spec = spec
        self.number = number
        self.id = instance_id(spec.namespace, spec.replica, number)
        self.instance: Instance | None = None
        self.failure: LaunchError | None = None
        self.end_reason = ""
        self.routine = False
        self.credentials = credentials
        self._delay = delay
        self._journal = journal
        self._plugin_log = PluginLog(journal, spec.plugin_name, self.id)
        self._on_leaving = on_leaving
        self._shutdown_reason = "stop"
        self._scope = trio.CancelScope()
        self._changed = trio.lowlevel.ParkingLot()
        self._entered: dict[State, float] = {}
        self._monitor: HealthMonitor | None = None
        self._connector = Connector(
            spec,
            plugin_log=self._plugin_log,
            listener=listener,
            fresh=fresh,
            on_note=self._take_note,
            on_goaway=self._take_goaway,
        )
        first = State.BACKING_OFF if delay else State.STARTING
        self.lifecycle = Lifecycle(first, reason, self._note_transition, journal.events.clock)

    # -- what is known of it ------------------------------------------------------------

    @property
    def version(self) -> str:
        """What the plugin says of itself; before that, what it is configured as."""
        if self.instance is not None:
            return self.instance.version
        return self.spec.plugin.version or ""

    @property
    def pid(self) -> int | None:
        """Its process, where it is known."""
        return self._connector.pid

    @property
    def isolation(self) -> Isolation | None:
        """What holds for its process, where the proxy starts one."""
        return self._connector.isolation

    @property
    def ending(self) -> str:
        """How its process ended, in words; empty where it has none of ours."""
        return self._connector.ending

    @property
    def serving(self) -> bool:
        """Can it be given calls?"""
        return self.lifecycle.state in SERVING

    @property
    def over(self) -> bool:
        """Is nothing left of it?"""
        return self.lifecycle.state in OVER

    @property
    def in_flight(self) -> int:
        """The calls that it has."""
        return self.instance.leases if self.instance is not None else 0

    @property
    def error(self) -> LaunchError:
        """Why it serves no more, as an error."""
        return self.failure or LaunchError(self.end_reason)

    @property
    def served(self) -> float:
        """Seconds from its first good health to the end of its service, or to now."""
        began, ended = self._first_of(SERVING), self._first_of(ENDING | OVER)
        if began is None:
            return 0.0
        return (trio.current_time() if ended is None else ended) - began

    def seconds(self, since: Collection[State], until: Collection[State]) -> float | None:
        """From when it entered the first of ``since`` to ``until``; None if it did not."""
        begin, end = self._first_of(since), self._first_of(until)
        return None if begin is None or end is None else end - begin

    def _first_of(self, states: Collection[State]) -> float | None:
        return min((self._entered[s] for s in states if s in self._entered), default=None)

    # -- what its owner does ------------------------------------------------------------

    def retire(self, reason: str, *, replaced: bool = False) -> None:
        """It shall finish its calls and end; one that does not serve yet ends at once.

        ``replaced``: there is another one, so a plugin that dialled in need not come back.
        """
        if replaced:
            self._shutdown_reason = REPLACED
        if not self.lifecycle.can(Trigger.RETIRED):
            return
        self.end_reason = reason
        if self.lifecycle.state in PENDING:
            self._scope.cancel()
        self.lifecycle.move(Trigger.RETIRED, reason)

    async def wait_settled(self) -> bool:
        """Wait until it can serve (True), or it is known that it will not (False)."""
        await self._wait_while(PENDING)
        return self.serving

    async def wait_leaving(self) -> None:
        """Wait until it must get no more calls."""
        await self._wait_while(PENDING | SERVING)

    async def wait_ended(self) -> None:
        """Wait until nothing is left of it."""
        await self._wait_while(PENDING | SERVING | ENDING)

    async def _wait_while(self, states: Collection[State]) -> None:
        """Wait until it is in none of ``states``; it comes back into none of these sets."""
        while self.lifecycle.state in states:
            await self._changed.park()

    def _note_transition(self, before: State | None, after: State, reason: str) -> None:
        self._entered.setdefault(after, trio.current_time())
        self._journal.transition(self.id, self.version, before, after, reason)
        if before in SERVING and after not in SERVING:
            self._on_leaving(self)
        self._changed.unpark_all()

    # -- its life -----------------------------------------------------------------------

    async def run(self) -> None:
        """From start to end. A failure of the plugin's is kept in ``failure``.

        Cancelling ends the plugin's process, and waits for that.
        """
        try:
            with self._scope:
                await trio.sleep(self._delay)
                if self._delay:
                    await self._reach(Trigger.DUE)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._plugin_log.run)
                    await self._live()
                    nursery.cancel_scope.cancel()
        except* PrismError as group:
            self._take_failure(group)
        except* Exception:
            log.exception("bug while running %s", self.spec.label)
            self.failure = LaunchError("internal error; the proxy's log has the cause")
        finally:
            self._plugin_log.flush()
            self._finish()

    async def _reach(self, trigger: Trigger) -> None:
        """Move on, unless it was retired meanwhile, which has cancelled this."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.lifecycle.move(trigger)

    async def _live(self) -> None:
        spec = self.spec
        if self.credentials is None:
            self.credentials = await self._read_secrets()
        credentials = dict(self.credentials)
        redaction = self._plugin_log.redaction = Redaction(credentials)
        async with (
            trio.open_nursery() as nursery,
            self._connector.connect(nursery) as channel,
        ):
            await self._reach(Trigger.CONNECTED)
            answer = await initialize(channel, spec, credentials)
            instance = self.instance = Instance(
                namespace=spec.namespace,
                generation=self.number,
                plugin=spec.plugin_name,
                version=redaction.text(answer.plugin_version),
                channel=channel,
                operations=declared_operations(answer),
                groups=answer.groups,
                replica_name=spec.replica,
            )
            monitor = self._monitor = HealthMonitor(channel, spec.plugin.health, self._take_health)
            await monitor.wait_serviceable(spec.plugin.start_timeout_seconds)
            await self._serve(instance, monitor)
            await self._drain(instance)
            await self._shut_down(instance)

    async def _read_secrets(self) -> dict[str, str]:
        try:
            return await self.spec.credentials()
        except ConfigError as error:
            raise LaunchError(f"{error}; it starts as soon as that can be read") from None

    async def _serve(self, instance: Instance, monitor: HealthMonitor) -> None:
        """Watch ``instance`` for as long as it serves.

        Raises:
            LaunchError: its channel broke.
        """

        async def watch_channel() -> None:
            error = await instance.channel.wait_broken()
            # Once it is retired, that is how it ends.
            if isinstance(error, ChannelAged):
                self._leave(self._plugin_log.redaction.text(str(error)))
            elif self.lifecycle.can(Trigger.LOST):
                self.end_reason = self._plugin_log.redaction.text(str(error))
                self.failure = LaunchError(self.end_reason, crashed=True)
                self.lifecycle.move(Trigger.LOST, self.end_reason)

        async def watch_health() -> None:
            reason = await monitor.wait_unhealthy()
            if instance.channel.ended is None:  # else that is why the checks failed
                self.retire(reason)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_channel)
            nursery.start_soon(watch_health)
            await self.wait_leaving()
            nursery.cancel_scope.cancel()
        if self.failure is not None:
            raise self.failure

    # -- what the plugin says -----------------------------------------------------------

    def _take_health(self, health: HealthCheckResponse) -> None:
        """A health check was answered: with the first good answer it serves."""
        instance = self.instance
        assert instance is not None  # noqa: S101 - only an initialised plugin is checked
        instance.health = health
        instance.metrics = health.metrics or instance.metrics
        if health.status is not HealthStatus.UNHEALTHY:
            degraded = health.status is HealthStatus.DEGRADED
            trigger = Trigger.IMPAIRED if degraded else Trigger.HEALTHY
            if self.lifecycle.can(trigger):
                self.lifecycle.move(trigger, health.message)

    def _take_note(self, note: Note) -> None:
        """It sent log records, metrics, or a change of its health. From the reader."""
        self._plugin_log.records(note.logs)
        instance, health = self.instance, note.health
        if instance is None:
            return
        instance.metrics = note.metrics or instance.metrics
        if health is not None and self.serving:
            self._take_health(health)
            if health.status is HealthStatus.UNHEALTHY and self._monitor is not None:
                self._monitor.ask_now()

    def _take_goaway(self, event: GoAway) -> None:
        """It will start no more calls. From the reader."""
        log.info(
            "plugin %r of namespace %s drains: %s",
            self.spec.plugin_name,
            self.spec.namespace,
            self._plugin_log.redaction.text(event.reason),
        )
        if event.failed:
            self.retire("it refuses further calls")
        else:
            self._leave("it said that it stops")

    def _leave(self, reason: str) -> None:
        """It has ended its service without a fault, unless that was over already."""
        self.routine = self.lifecycle.can(Trigger.RETIRED)
        self.retire(reason)

    # -- its end ------------------------------------------------------------------------

    async def _drain(self, instance: Instance) -> None:
        """Let the calls end; those that take longer than they may are told so, and cancelled."""
        limit = self.spec.plugin.drain_timeout_seconds
        instance.channel.go_away("the proxy no longer sends calls here")
        with trio.move_on_after(limit) as in_time:
            await instance.wait_no_leases()
        if in_time.cancelled_caught:
            log.warning("%s: %d calls did not end within %g s", self.id, instance.leases, limit)
            detail = f"the plugin is being replaced, and the call did not end within {limit:g} s"
            instance.channel.cancel_calls(Draining(f"{detail}; it may have run"))
            with trio.move_on_after(CANCEL_GRACE):
                await instance.wait_no_leases()
        await self._reach(Trigger.DRAINED)

    async def _shut_down(self, instance: Instance) -> None:
        """Ask the plugin to shut down; one that hangs is left behind."""
        limit = self.spec.plugin.kill_timeout_seconds
        request = ShutdownRequest(timeout_seconds=math.ceil(limit), reason=self._shutdown_reason)
        with trio.move_on_after(limit + SHUTDOWN_GRACE) as in_time:
            try:
                answer = await instance.channel.shutdown(request)
            except CallError as error:
                log.debug("%s could not be told to shut down: %s", self.id, error)
                return
            if not answer.success:
                log.warning("%s did not shut down cleanly: %s", self.id, answer.error)
        if in_time.cancelled_caught:
            log.warning("%s did not answer Shutdown", self.id)

    def _take_failure(self, group: BaseExceptionGroup[Any]) -> None:
        errors = _flat(group)
        if self.lifecycle.state in ENDING and self.failure is None:
            # It was ending anyway: an error of its last connection is no failure.
            log.debug("%s ended with %s", self.id, errors)
            return
        output = [line for error in errors for line in getattr(error, "output", ())]
        crashed = any(
            error.crashed if isinstance(error, LaunchError) else not isinstance(error, ConfigError)
            for error in errors
        )
        message = self._plugin_log.redaction.text("; ".join(str(error) for error in errors))
        self.failure = LaunchError(message, output=output, crashed=crashed)

    def _finish(self) -> None:
        """Whatever the way here, walk the table to a state that is over."""
        way: tuple[Trigger, ...]
        if self.failure is not None:
            reason = str(self.failure)
            self.end_reason = self.end_reason or reason
            way = (Trigger.BROKEN, Trigger.LOST, Trigger.RETIRED, Trigger.DRAINED)
        else:
            reason = self.end_reason = self.end_reason or "it ended"
            way = (Trigger.ENDED, Trigger.RETIRED, Trigger.DRAINED)
        while not self.over:
            row = TRANSITIONS[self.lifecycle.state]
            self.lifecycle.move(next(trigger for trigger in way if trigger in row), reason)


def _flat(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    """The plain exceptions in a tree of groups."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _flat(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
