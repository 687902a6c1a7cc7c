"""The wiring: builds a proxy from a configuration, runs it, and stops it in order.

The order is the nesting. Plugins start before the doors open and end after they
have closed: on the way down the data plane stops accepting and finishes what is
in flight, then the plugins are shut down, and the admin port goes last, so that
the stop itself can be watched.
"""

import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import trio

from prism.contract.config import Config, ListenConfig, NamespaceConfig
from prism.contract.exceptions import Draining, PrismError
from prism.core.config import resolve_credentials, resolve_plugin
from prism.core.namespace import Namespace
from prism.core.observability.metrics import Metrics
from prism.core.router import Router
from prism.frontends.admin import AdminApp
from prism.frontends.door import DoorApp
from prism.frontends.server import (
    Address,
    Listener,
    ServerSettings,
    ServerTLS,
    bound_address,
    open_listeners,
    serve,
)
from prism.supervision.spec import InstanceSpec
from prism.supervision.supervisor import Supervisor

log = logging.getLogger("prism")

ADMIN_GRACE = 1.0
"""Seconds for the admin port's last requests at the end."""


@dataclass(frozen=True)
class Ready:
    """Where a proxy that has started can be reached."""

    data: list[Address]
    admin: list[Address]


@dataclass
class Proxy:
    """A proxy for ``config``. ``run`` it once; ``stop`` ends it gracefully."""

    config: Config
    shutdown: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self._supervisor = Supervisor(
            instance_spec(namespace, self.config) for namespace in self.config.namespaces
        )
        self.router = Router(
            Namespace.from_config(namespace, self._supervisor.slots[namespace.name])
            for namespace in self.config.namespaces
        )
        metrics = Metrics(self.router)
        self._door = DoorApp(self.router, metrics)
        self._admin = AdminApp(self.router, metrics)

    async def run(self, on_ready: Callable[[Ready], None] = lambda _ready: None) -> None:
        """Serve until ``stop``; returns when every call and every plugin has ended.

        Cancelling ends everything at once, plugins included.

        Raises:
            ListenError: a port cannot be used; nothing was started.
            ConfigError: a certificate cannot be used; nothing was started.
        """
        config = self.config
        listeners = await _open_data_port(config.listen)
        admin_listeners: list[Listener] = []
        if config.admin.enabled:
            try:
                admin_listeners = await open_listeners(config.admin.address, config.admin.port)
            except BaseException:
                await _close(listeners)
                raise
        admin_stop = trio.Event()
        async with trio.open_nursery() as supervision:
            try:
                await supervision.start(self._supervisor.run)
            except BaseException:
                await _close([*listeners, *admin_listeners])
                raise
            async with trio.open_nursery() as admin_nursery:
                if admin_listeners:
                    admin_settings = ServerSettings(graceful_timeout=ADMIN_GRACE)
                    admin_nursery.start_soon(
                        partial(
                            serve, self._admin, admin_listeners, admin_settings, shutdown=admin_stop
                        )
                    )
                on_ready(
                    Ready(
                        [bound_address(listener) for listener in listeners],
                        [bound_address(listener) for listener in admin_listeners],
                    )
                )
                await serve(self._door, listeners, _server_settings(config), shutdown=self.shutdown)
                log.info("all requests are answered; stopping the plugins")
                self._supervisor.stop()
                await self._supervisor.wait_stopped()
                admin_stop.set()
        log.info("stopped")

    def stop(self) -> None:
        """Stop accepting, finish what is in flight, shut the plugins down."""
        self._admin.draining = True
        self._door.stop()
        for namespace in self.router.namespaces():
            namespace.end_streams(Draining("the proxy is stopping; open the stream again"))
        self.shutdown.set()


async def run_until_signalled(
    config: Config, on_ready: Callable[[Ready], None] = lambda _ready: None
) -> bool:
    """Run a proxy until SIGTERM or SIGINT; a second signal ends it at once.

    Returns whether it ended gracefully.

    Raises:
        ListenError, ConfigError: as ``Proxy.run``.
    """
    proxy = Proxy(config)
    graceful = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, proxy, nursery.cancel_scope)
            await proxy.run(on_ready)
            graceful = True
            nursery.cancel_scope.cancel()
    except ExceptionGroup as group:
        match group.exceptions:
            case [PrismError() as error]:  # what keeps it from starting comes alone
                raise error from error.__cause__
        raise
    return graceful


async def _stop_on_signal(proxy: Proxy, everything: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            name = signal.Signals(number).name
            if proxy.shutdown.is_set():
                log.warning("ending at once on a second signal (%s)", name)
                everything.cancel()
                return
            log.info(
                "stopping on %s: requests in flight have %g seconds; again to end at once",
                name,
                proxy.config.drain_timeout_seconds,
            )
            proxy.stop()


def instance_spec(namespace: NamespaceConfig, config: Config) -> InstanceSpec:
    """What the supervision needs to know of ``namespace``'s plugin."""
    plugin = resolve_plugin(config, namespace)
    return InstanceSpec(
        namespace=namespace.name,
        backend=namespace.backend,
        plugin_name=namespace.plugin.name or namespace.backend,
        plugin=plugin,
        config_json=msgspec.json.encode(namespace.config).decode(),
        credentials=partial(
            resolve_credentials, namespace.credentials, Path(config.secrets.directory)
        ),
        verification=config.verification,
    )


async def _open_data_port(listen: ListenConfig) -> list[Listener]:
    tls = None
    if listen.tls is not None:
        client_ca = Path(listen.tls.client_ca) if listen.tls.client_ca else None
        tls = ServerTLS(Path(listen.tls.cert), Path(listen.tls.key), client_ca)
    return await open_listeners(listen.address, listen.port, tls=tls)


async def _close(listeners: list[Listener]) -> None:
    with trio.CancelScope(shield=True):
        for listener in listeners:
            await listener.aclose()


def _server_settings(config: Config) -> ServerSettings:
    limits = config.listen.limits
    return ServerSettings(
        graceful_timeout=config.drain_timeout_seconds,
        max_connections=limits.max_connections,
        max_connections_per_peer=limits.max_connections_per_peer,
        max_concurrent_streams=limits.max_concurrent_streams,
    )
