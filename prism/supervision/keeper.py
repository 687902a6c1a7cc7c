"""Keeps one namespace's plugin running: start, watch, end, and start again."""

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from prism import __version__
from prism.channels import unix
from prism.channels.channel import PluginChannel
from prism.contract.config import PluginForm
from prism.contract.exceptions import CallError, LaunchError, PrismError
from prism.contract.messages import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthStatus,
    InitializeRequest,
    InitializeResponse,
    OperationDeclaration,
    ProxyCapabilities,
    ShutdownRequest,
)
from prism.supervision.backoff import Backoff
from prism.supervision.doors import open_door
from prism.supervision.instance import Instance
from prism.supervision.news import News
from prism.supervision.slot import Slot
from prism.supervision.spec import InstanceSpec

log = logging.getLogger("prism.supervision")

SHUTDOWN_PATIENCE = 2.0
"""Seconds beyond its own limit that a plugin's Shutdown may take."""


class Keeper:
    """Runs the instances of one namespace, one after the other."""

    def __init__(self, spec: InstanceSpec, slot: Slot) -> None:
        self.spec = spec
        self.slot = slot
        self._generation = 0
        self._stopping = trio.Event()
        self._attempt = trio.CancelScope()
        self._news = News(spec.namespace, spec.plugin_name)

    def stop(self) -> None:
        """Let the present instance finish its calls and end; start no other."""
        self._stopping.set()
        if self.slot.current is None:
            self._attempt.cancel()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the plugin running until ``stop``. A plugin's failure is never raised.

        Started once the first attempt has ended, well or badly, or once the
        socket is open on which the plugin will dial in.
        """
        backoff = Backoff()
        tell_started = _Once(task_status.started)
        listener = None
        try:
            while not self._stopping.is_set():
                if listener is None and self._dials_in:
                    listener = self._listen()
                    tell_started()
                served = await self._run_once(listener, tell_started)
                tell_started()
                with trio.move_on_after(backoff.delay(served)):
                    await self._stopping.wait()
        finally:
            if listener is not None:
                with trio.CancelScope(shield=True):
                    await listener.aclose()

    async def _run_once(
        self, listener: unix.UnixListener | None, tell_started: Callable[[], None]
    ) -> float:
        """One instance from start to end; returns for how many seconds it served."""
        served_since = float("inf")
        try:
            with trio.CancelScope() as self._attempt:
                async with (
                    trio.open_nursery() as nursery,
                    self._instance(listener, nursery) as instance,
                ):
                    served_since = trio.current_time()
                    self._put_in_service(instance)
                    tell_started()
                    reason = await self._watch(instance)
                    self.slot.clear(instance, reason)
                    await self._retire(instance)
        except* PrismError as group:
            self._say_absent("; ".join(str(error) for error in _leaves(group)))
        except* Exception:
            log.exception("bug while running %s", self.spec.label)
            self._say_absent("internal error; the proxy's log has the cause")
        return max(0.0, trio.current_time() - served_since)

    @property
    def _dials_in(self) -> bool:
        plugin = self.spec.plugin
        return plugin.form is PluginForm.SOCKET and not plugin.dial

    def _listen(self) -> unix.UnixListener | None:
        plugin = self.spec.plugin
        path = Path(plugin.socket or "")
        try:
            listener = unix.listen(path, group=plugin.group, mode=plugin.socket_mode)
        except LaunchError as error:
            self._say_absent(str(error))
            return None
        log.info("namespace %s waits for its plugin to dial %s", self.spec.namespace, path)
        return listener

    def _say_absent(self, reason: str) -> None:
        if self.slot.absence != reason:
            log.warning("namespace %s has no plugin: %s", self.spec.namespace, reason)
        self.slot.absence = reason

    def _put_in_service(self, instance: Instance) -> None:
        self.slot.fill(instance)
        log.info(
            "namespace %s is served by %s %s (instance %s)",
            instance.namespace,
            self.spec.label,
            instance.version,
            instance.id,
        )

    # -- one instance ---------------------------------------------------------

    @asynccontextmanager
    async def _instance(
        self, listener: unix.UnixListener | None, nursery: trio.Nursery
    ) -> AsyncGenerator[Instance, None]:
        spec = self.spec
        if self._dials_in and listener is None:
            raise LaunchError(self.slot.absence)
        if listener is not None:
            self.slot.absence = f"it waits for the plugin to dial {listener.path}"
        self._news = News(spec.namespace, spec.plugin_name)
        credentials = spec.credentials()
        async with open_door(spec, self._news, listener, nursery) as channel:
            answer = await self._initialize(channel, credentials)
            self._generation += 1
            declared = {operation.name: operation for operation in answer.operations}
            instance = Instance(
                namespace=spec.namespace,
                generation=self._generation,
                plugin=spec.plugin_name,
                version=answer.plugin_version,
                channel=channel,
                operations={
                    name: declared.get(name, OperationDeclaration(name=name))
                    for name in answer.supported_operations or declared
                },
            )
            self._news.instance = instance
            yield instance

    async def _initialize(
        self, channel: PluginChannel, credentials: dict[str, str]
    ) -> InitializeResponse:
        spec = self.spec
        limit = spec.plugin.start_timeout_seconds
        request = InitializeRequest(
            namespace=spec.namespace,
            backend_type=spec.backend,
            config_json=spec.config_json,
            credentials=credentials,
            capabilities=ProxyCapabilities(
                supports_metrics_push=True,
                supports_distributed_tracing=True,
                proxy_version=__version__,
            ),
        )
        with trio.move_on_after(limit) as in_time:
            answer = await channel.initialize(request)
        if in_time.cancelled_caught:
            raise LaunchError(f"{spec.label} did not answer Initialize within {limit:g} seconds")
        if not answer.success:
            raise LaunchError(
                f"{spec.label} refused to start: {answer.error or 'it did not say why'}"
            )
        return answer

    async def _watch(self, instance: Instance) -> str:
        """Wait until ``instance`` should leave its slot; returns why, for clients."""
        reasons: list[str] = []
        async with trio.open_nursery() as nursery:

            async def leave(wait: Callable[[], Awaitable[str]]) -> None:
                reasons.append(await wait())
                nursery.cancel_scope.cancel()

            async def broken() -> str:
                return f"it is being restarted: {await instance.channel.wait_broken()}"

            async def leaving() -> str:
                await self._news.leaving.wait()
                return "it is being restarted: it said that it stops"

            async def stopping() -> str:
                await self._stopping.wait()
                return "the proxy is stopping"

            async def unhealthy() -> str:
                return f"it is being restarted: {await self._wait_unhealthy(instance)}"

            for wait in (broken, leaving, stopping, unhealthy):
                nursery.start_soon(leave, wait)
        log.info("namespace %s: %s", self.spec.namespace, reasons[0])
        return reasons[0]

    async def _wait_unhealthy(self, instance: Instance) -> str:
        """Check health for ever; returns after too many failures in a row."""
        health = self.spec.plugin.health
        failures = 0
        while True:
            answer = await self._check_health(instance)
            instance.health = answer
            instance.metrics = answer.metrics or instance.metrics
            failures = failures + 1 if answer.status is HealthStatus.UNHEALTHY else 0
            if failures >= health.failure_threshold:
                return f"{failures} health checks in a row failed: {answer.message}"
            await trio.sleep(health.interval_seconds)

    async def _check_health(self, instance: Instance) -> HealthCheckResponse:
        limit = self.spec.plugin.health.timeout_seconds
        try:
            with trio.fail_after(limit):
                return await instance.channel.health_check(HealthCheckRequest())
        except trio.TooSlowError:
            return HealthCheckResponse(message=f"no answer within {limit:g} seconds")
        except CallError as error:
            return HealthCheckResponse(message=str(error))

    async def _retire(self, instance: Instance) -> None:
        """Let the calls of an instance end, within limits, and shut it down."""
        plugin = self.spec.plugin
        channel = instance.channel
        channel.go_away("the proxy no longer sends calls here")
        with trio.move_on_after(plugin.drain_timeout_seconds):
            await instance.wait_no_leases()
        request = ShutdownRequest(
            timeout_seconds=math.ceil(plugin.kill_timeout_seconds), reason="stop"
        )
        with trio.move_on_after(plugin.kill_timeout_seconds + SHUTDOWN_PATIENCE):
            try:
                answer = await channel.shutdown(request)
            except CallError as error:
                log.debug("%s could not be told to shut down: %s", self.spec.label, error)
                return
            if not answer.success:
                log.warning("%s did not shut down cleanly: %s", self.spec.label, answer.error)


class _Once:
    """Calls a function the first time it is called itself."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function

    def __call__(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    """The plain exceptions in a tree of groups."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
