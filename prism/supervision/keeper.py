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
        self._starting: trio.CancelScope | None = None
        self._listener: unix.UnixListener | None = None
        self._news = News(spec.namespace, spec.plugin_name)

    def stop(self) -> None:
        """Let the present instance finish its calls and end; start no other."""
        self._stopping.set()
        if self._starting is not None:
            self._starting.cancel()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the plugin running until ``stop``. A plugin's failure is never raised.

        Started once the first attempt has ended, well or badly, or once the
        socket is open on which the plugin will dial in.
        """
        backoff = Backoff()
        tell_started = _Once(task_status.started)
        try:
            while not self._stopping.is_set():
                served = await self._run_once(tell_started)
                tell_started()
                with trio.move_on_after(backoff.delay(served)):
                    await self._stopping.wait()
        finally:
            tell_started()
            await self._stop_listening()

    async def _run_once(self, tell_started: Callable[[], None]) -> float:
        """One instance from start to end; returns for how many seconds it served."""
        served_since = math.inf
        try:
            with trio.CancelScope() as self._starting:
                if self._dials_in:
                    await self._listen()
                    tell_started()
                async with (
                    trio.open_nursery() as nursery,
                    self._instance(nursery) as instance,
                ):
                    # From here on, stop() lets calls finish first.
                    self._starting = None
                    served_since = trio.current_time()
                    self._put_in_service(instance)
                    tell_started()
                    await self._serve(instance)
        except* PrismError as group:
            self._say_absent("; ".join(str(error) for error in _leaves(group)))
        except* Exception:
            log.exception("bug while running %s", self.spec.label)
            self._say_absent("internal error; the proxy's log has the cause")
        finally:
            self._starting = None
        return max(0.0, trio.current_time() - served_since)

    async def _serve(self, instance: Instance) -> None:
        """Watch ``instance`` until it should leave its slot; take it out and end it."""
        channel_works, reason = await self._watch(instance)
        stopping = self._stopping.is_set()
        log.log(
            logging.INFO if stopping else logging.WARNING,
            "instance %s leaves: %s",
            instance.id,
            reason,
        )
        absence = "the proxy is stopping" if stopping else f"it is being restarted: {reason}"
        self.slot.clear(instance, absence)
        if channel_works:
            await self._retire(instance)

    @property
    def _dials_in(self) -> bool:
        plugin = self.spec.plugin
        return plugin.form is PluginForm.SOCKET and not plugin.dial

    async def _listen(self) -> None:
        """Open the socket, unless it is open and its file still in place."""
        plugin = self.spec.plugin
        path = Path(plugin.socket or "")
        if self._listener is not None and not self._listener.in_place:
            await self._stop_listening()
        if self._listener is None:
            self._listener = unix.listen(path, group=plugin.group, mode=plugin.socket_mode)
            log.info("namespace %s waits for its plugin to dial %s", self.spec.namespace, path)
        self.slot.absence = f"it waits for the plugin to dial {path}"

    async def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with trio.CancelScope(shield=True):
                await listener.aclose()

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
    async def _instance(self, nursery: trio.Nursery) -> AsyncGenerator[Instance, None]:
        spec = self.spec
        self._news = News(spec.namespace, spec.plugin_name)
        credentials = spec.credentials()
        async with open_door(spec, self._news, self._listener, nursery) as channel:
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

    async def _watch(self, instance: Instance) -> tuple[bool, str]:
        """Wait until ``instance`` should leave its slot.

        Returns whether its channel still works, and the reason in words.
        """
        found: list[tuple[bool, str]] = []
        async with trio.open_nursery() as nursery:

            async def first(wait: Callable[[], Awaitable[str]], channel_works: bool) -> None:
                found.append((channel_works, await wait()))
                nursery.cancel_scope.cancel()

            async def broken() -> str:
                return str(await instance.channel.wait_broken())

            async def leaving() -> str:
                await self._news.leaving.wait()
                return "it said that it stops"

            async def stopping() -> str:
                await self._stopping.wait()
                return "the proxy is stopping"

            async def unhealthy() -> str:
                return await self._wait_unhealthy(instance)

            nursery.start_soon(first, broken, False)
            for wait in (leaving, stopping, unhealthy):
                nursery.start_soon(first, wait, True)
        # A broken channel is what counts, whatever came with it.
        return min(found)

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
