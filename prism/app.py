"""The wiring: builds a proxy from a configuration, runs it, and stops it in order.

The order is the nesting. Plugins start before the doors open and end after they
have closed: on the way down the data plane stops accepting and finishes what is
in flight, then the plugins are shut down, and the admin port goes last, so that
the stop itself can be watched.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from prism.access.authentication import Authentication
from prism.calls import is_compiled
from prism.calls.memory import Memory
from prism.calls.namespace import Namespace
from prism.calls.overload import Overload
from prism.calls.refusals import Refusals
from prism.calls.router import Router
from prism.config.types import Config, ListenerTLS
from prism.contract.errors import CallError, Draining, OperationInProgress
from prism.control.live_config import LiveConfig, Load
from prism.control.plan import instance_specs
from prism.frontends.admin import Access, AdminApp, Administered, Restarting
from prism.frontends.answering import Observer
from prism.frontends.data_port import DataPort
from prism.limits.store import LimitsStore
from prism.observability.access_log import AccessLog
from prism.observability.audit import AuditLog
from prism.observability.collectors import (
    audit_metrics,
    config_metrics,
    limits_metrics,
    memory_metrics,
    refusal_metrics,
    server_metrics,
    shedding_metrics,
    vault_metrics,
)
from prism.observability.metrics import Metrics
from prism.observability.recording import Recordings
from prism.process.handover import PassedSocket
from prism.process.sockets import GivenSocket, Role, connections_that_fit, for_place
from prism.secrets import Secrets
from prism.server.http2.implementation import choose
from prism.server.serve import serve
from prism.server.settings import ServerSettings
from prism.server.statistics import ServerStatistics
from prism.streams.addresses import Address, is_loopback, unix_path
from prism.streams.errors import ListenError
from prism.streams.listeners import (
    Listener,
    bound_address,
    descriptor,
    listen_on,
    open_listeners,
    open_unix_listener,
)
from prism.streams.tls import ServerTLS
from prism.supervision.events import EventFeed
from prism.supervision.instance import shadow_name
from prism.supervision.supervisor import Supervisor

log = logging.getLogger("prism")

ADMIN_SETTINGS = ServerSettings(
    graceful_timeout=1.0, max_connections=64, max_connections_per_peer=64
)
"""The admin port has few clients, and must not use up what the data port needs."""

BUSY_PAUSE = 1.0
"""Seconds until a configuration is applied again that met the reload of a plugin."""


@dataclass(frozen=True)
class Ready:
    """Where a proxy that has started can be reached, and ``waiting``: who has no plugin yet; and
    ``problems``: why, by the namespace."""

    data: list[Address]
    admin: list[Address]
    waiting: Sequence[str] = ()
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Proxy:
    """A proxy that starts with ``config``. ``run`` it once; ``stop`` ends it gracefully.

    ``given`` are listening sockets to use instead of opening them. ``load`` reads the
    configuration anew, for a reload; ``live`` is the one in use. ``file`` is what it was read from.
    """

    config: Config
    given: Sequence[GivenSocket] = ()
    load: Load | None = None
    file: str = ""
    shutdown: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.secrets = Secrets()
        self._authentication: Authentication | None = None
        is_good = None
        if self.config.authentication is not None:
            self._authentication = Authentication.from_config(
                self.config.authentication, self.config.secrets, self.secrets
            )
            self._authentication.changed = self._review_streams
            is_good = self._authentication.is_good
        self._recordings = Recordings()
        self._audit = None
        if self.config.audit is not None:
            self._audit = AuditLog.from_config(self.config.audit)
        specs = instance_specs(self.config, self.secrets, self.file)
        self.supervisor = Supervisor(specs, self.secrets)
        limits_store = LimitsStore.from_config(
            self.config.limits_store, self.config.secrets, self.secrets
        )
        limits_store.on_change = partial(_tell_of_limits, self.supervisor.events)
        self.router = Router(
            (
                Namespace.from_config(
                    namespace,
                    self.supervisor.slots[namespace.name],
                    is_open=self.config.authentication is None,
                    shadow=self.supervisor.slots.get(shadow_name(namespace.name)),
                )
                for namespace in self.config.namespaces
            ),
            _memory(self.config),
            is_good,
            None if self._audit is None else self._audit.refusal,
            Overload(self.config.shedding, self._note_shedding),
            limits_store,
            self._recordings.open,
        )
        self.live = LiveConfig(self.config, self.router, self.supervisor, self.load, self.secrets)
        self._metrics = Metrics(self.router, self.supervisor)
        self._metrics.register(partial(config_metrics, self.live))
        self._metrics.register(partial(memory_metrics, self.router.memory))
        self._metrics.register(partial(shedding_metrics, self.router.overload))
        self._metrics.register(partial(vault_metrics, self.secrets))
        self._metrics.register(partial(limits_metrics, limits_store))
        if self._audit is not None:
            self._metrics.register(partial(audit_metrics, self._audit))
            self.supervisor.events.on_denied = self._audit.deny_connection
        self._statistics = ServerStatistics()
        origins = frozenset(origin.lower() for origin in self.config.listen.web_origins)
        access = self.config.log.access
        self._refusals = Refusals(
            self.router.deadlines.alarms, self.config.listen.limits.refusals_per_second
        )
        self._metrics.register(partial(refusal_metrics, self._refusals))
        access_log = AccessLog(access.requests, access.sample)
        observer = Observer(self._metrics, access_log, self._audit, self._refusals)
        self._data_port = DataPort(self.router, observer, origins, self._authentication)
        self._administered = Administered(
            self.router, self.supervisor, self._metrics, self.live, self.stop
        )
        both_have_tls = self.config.listen.tls is not None and self.config.admin.tls is not None
        self._admin = AdminApp(self._administered, https_only=both_have_tls)
        self._tls: ServerTLS | None = None
        self._admin_tls: ServerTLS | None = None
        self.sockets: list[PassedSocket] = []

    async def run(
        self,
        on_ready: Callable[[Ready], None] = lambda _ready: None,
        wait_for_permission: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        """Serve until ``stop``; returns when every call and every plugin has ended.

        ``wait_for_permission`` is awaited when the plugins have started and before the
        first connection is accepted.

        Cancelling ends everything at once, plugins included.

        Raises:
            ListenError, CodecUnavailable: a port, or the HTTP/2 codec that the environment
                asks for, cannot be used; nothing was started.
            TLSFilesError, ConfigError: a certificate, or a token of operators, cannot be used;
                nothing was started.
            AuditFileError: likewise the audit log.
        """
        if self._audit is not None:
            await trio.to_thread.run_sync(self._audit.start)
        try:
            await self._run(on_ready, wait_for_permission)
        finally:
            await self.secrets.aclose()
            with trio.CancelScope(shield=True):  # bounded, likewise
                await trio.to_thread.run_sync(self._recordings.close)
            if self._audit is not None:
                with trio.CancelScope(shield=True):  # bounded: the last records
                    await trio.to_thread.run_sync(self._audit.close)

    async def _run(
        self, on_ready: Callable[[Ready], None], wait_for_permission: Callable[[], Awaitable[None]]
    ) -> None:
        codec = choose(ServerSettings().http2_codec)
        settings = _server_settings(self.config)
        listeners, admin_listeners = await self._listen()
        self._metrics.register(partial(server_metrics, self._statistics, self._tls))
        sharing = trio.CancelScope()
        async with trio.open_nursery() as supervision:
            try:
                # While plugins start; who is called at once would else wait for the connection.
                supervision.start_soon(self._share_limits, sharing)
                await supervision.start(self.supervisor.run)
                await self.router.limits_store.first_try()
                await wait_for_permission()
            except BaseException:
                await _close([*listeners, *admin_listeners])
                raise
            async with trio.open_nursery() as admin_nursery:
                if admin_listeners:
                    serve_admin = partial(
                        serve,
                        self._admin,
                        admin_listeners,
                        ADMIN_SETTINGS,
                        shutdown=self._admin.stopping,
                    )
                    admin_nursery.start_soon(serve_admin)
                hypercorn = self.config.listen.server == "hypercorn"
                log.info(
                    "HTTP/2 is served by %s; calls: %s",
                    "hypercorn" if hypercorn else codec,
                    "compiled" if is_compiled() else "Python",
                )
                on_ready(
                    Ready(
                        [bound_address(listener) for listener in listeners],
                        [bound_address(listener) for listener in admin_listeners],
                        [
                            namespace.name
                            for namespace in self.router.namespaces()
                            if namespace.slot.current is None
                        ],
                        {each.namespace: each.last_error for each in self.supervisor.status()},
                    )
                )
                async with trio.open_nursery() as deadlines:
                    deadlines.start_soon(self.router.run)
                    deadlines.start_soon(self.router.overload.run)
                    if self._authentication is not None:
                        deadlines.start_soon(self._authentication.run)
                    await self._serve_data(listeners, settings)
                    deadlines.cancel_scope.cancel()
                sharing.cancel()
                log.info("all requests are answered; stopping the plugins")
                self.supervisor.stop()
                await self.supervisor.wait_stopped()
                self._admin.stopping.set()
        log.info("stopped")

    async def _share_limits(self, scope: trio.CancelScope) -> None:
        with scope:
            await self.router.limits_store.run()

    async def _serve_data(self, listeners: list[Listener], settings: ServerSettings) -> None:
        """Serve the data port until ``shutdown``, on the server that the configuration names."""
        if self.config.listen.server == "hypercorn":
            from prism.frontends.hypercorn import serve_on_hypercorn

            await serve_on_hypercorn(
                self._data_port, listeners, settings, shutdown=self.shutdown, tls=self._tls
            )
        else:
            await serve(
                self._data_port,
                listeners,
                settings,
                shutdown=self.shutdown,
                statistics=self._statistics,
                memory=self.router.memory,
            )

    def restart_with(self, restart: Callable[[], Restarting]) -> None:
        """Let operators begin a rolling restart with ``restart``, which may raise a CallError."""
        self._administered.restart = restart

    def stop(self, *, replaced: bool = False) -> None:
        """Stop accepting, finish what is in flight, shut the plugins down.

        ``replaced``: a successor accepts at the same addresses. The probes of those are
        then answered as before, and the admin port is left to the successor at once.
        """
        self._administered.draining = not replaced
        self._data_port.stop(replaced=replaced)
        self._refusals.stop()
        for namespace in self.router.namespaces():
            namespace.end_streams(Draining("the proxy is stopping; open the stream again"))
        self.shutdown.set()
        if replaced:
            self._admin.stopping.set()

    async def reload(self) -> None:
        """Read everything again: certificates, API keys, the operators' tokens, the configuration.

        What cannot be replaced stays as it is, and the log says why. Waits for a plugin's
        reload that is under way.
        """
        await self._reload_certificates()
        await trio.to_thread.run_sync(self._admin.access.reload, abandon_on_cancel=True)
        if self._authentication is not None:
            await self._authentication.reload()
        waited = False
        while self.live.has_file:
            try:
                await self.live.apply()
            except OperationInProgress as error:
                if not waited:
                    log.info("the configuration waits: %s", error)
                waited = True
                await trio.sleep(BUSY_PAUSE)
            except CallError as error:
                log.error("%s", error)
                return
            else:
                return

    def absences(self) -> dict[str, str]:
        """Each namespace, and why it has no plugin now; "" if it has."""
        return {
            namespace.name: "" if namespace.slot.current else namespace.slot.absence
            for namespace in self.router.namespaces()
        }

    def _note_shedding(self, said: str) -> None:
        self.supervisor.events.record("shedding", "", reason=said)

    def _review_streams(self) -> None:
        """End the streams of those whose credential is not good any more."""
        for namespace in self.router.namespaces():
            namespace.review_streams()

    async def _reload_certificates(self) -> None:
        for tls in (self._tls, self._admin_tls):
            if tls is not None:
                await tls.reload()

    async def _listen(self) -> tuple[list[Listener], list[Listener]]:
        """The listeners of the data port, and those of the admin port."""
        listen, admin = self.config.listen, self.config.admin
        self._tls = await _server_tls(listen.tls, listen.client_certificates)
        if admin.enabled:
            self._admin_tls = await _server_tls(admin.tls)
            self._admin.access = await trio.to_thread.run_sync(
                Access.from_config, admin, self._authentication, abandon_on_cancel=True
            )
        listeners: list[Listener] = []
        admin_listeners: list[Listener] = []
        try:
            listeners = await self._open("data", listen.address, listen.port, self._tls)
            if admin.enabled:
                admin_listeners = await self._open(
                    "admin", admin.address, admin.port, self._admin_tls
                )
        except BaseException:
            await _close(listeners)
            raise
        finally:
            used = {passed.descriptor for passed in self.sockets}
            for item in self.given:
                if item.socket.fileno() not in used:
                    item.socket.close()
        return listeners, admin_listeners

    async def _open(
        self, role: Role, address: str, port: int, tls: ServerTLS | None = None
    ) -> list[Listener]:
        path = unix_path(self.config.admin.address) if role == "admin" else None
        place = f"{address}:{port}" if path is None else address
        given = for_place(self.given, role, place)
        if given:
            listeners = listen_on([item.socket for item in given], tls=tls)
            self._check_reach(role, listeners)
            place = given[0].place
        elif path is not None:
            listeners = [open_unix_listener(path)]
        else:
            listeners = await open_listeners(address, port, tls=tls)
        self.sockets += [PassedSocket(role, place, descriptor(item)) for item in listeners]
        return listeners

    def _check_reach(self, role: Role, listeners: list[Listener]) -> None:
        """A socket that was given is under the same rule as an address in the file."""
        for listener in listeners:
            address = bound_address(listener)
            if not address.port or is_loopback(address.host):
                continue
            why, way_out = "", ""
            if role == "admin" and not self.config.admin.knows_operators:
                why = "it can be reached from other machines, and operators need no token"
                way_out = "give one that is on loopback, or set admin.tokens or admin.allow"
            elif role == "data" and not self.config.insecure:
                way_out = 'give one that is on loopback, or accept it with "insecure: true"'
                if self.config.authentication is None:
                    why = "it can be reached from other machines, and clients are not authenticated"
                elif self.config.listen.tls is None:
                    why = "it can be reached from other machines, and there is no listen.tls"
            if why:
                raise ListenError(f"the given socket {address}", why, way_out)
            if role == "data" and self.config.authentication is None:
                log.warning(
                    "all who can reach %s may call every namespace: clients are not authenticated",
                    address,
                )


def _tell_of_limits(events: EventFeed, why: str) -> None:
    """The limits store went down, for that reason, or came back."""
    reason = f"the limits store is down: {why}" if why else "the limits store answers again"
    events.record("limits", "", reason=reason)


async def _server_tls(
    config: ListenerTLS | None, client_certificates: str | None = None
) -> ServerTLS | None:
    if config is None:
        return None
    client_ca = Path(config.client_ca) if config.client_ca else None
    if client_certificates == "none":
        client_ca = None
    must = client_certificates != "optional"
    crl = Path(config.client_crl) if config.client_crl and client_ca is not None else None
    cert, key = Path(config.cert), Path(config.key)
    return await trio.to_thread.run_sync(
        ServerTLS, cert, key, client_ca, must, crl, abandon_on_cancel=True
    )


async def _close(listeners: list[Listener]) -> None:
    with trio.CancelScope(shield=True):
        for listener in listeners:
            await listener.aclose()


def _memory(config: Config) -> Memory:
    limits = config.listen.limits
    return Memory(
        limits.request_memory_bytes,
        limits.answer_memory_bytes,
        limits.request_memory_bytes_per_connection,
        limits.answer_memory_bytes_per_connection,
    )


def _server_settings(config: Config) -> ServerSettings:
    limits, proxies = config.listen.limits, config.listen.trusted_proxies
    return ServerSettings(
        graceful_timeout=config.drain_timeout_seconds,
        max_connections=connections_that_fit(limits.max_connections),
        max_connections_per_peer=limits.max_connections_per_peer,
        trusted_proxies=() if proxies is None else tuple(proxies.networks),
        forwarded_header="" if proxies is None else proxies.header,
        proxy_protocol=proxies is not None and proxies.proxy_protocol,
        max_concurrent_streams=limits.max_concurrent_streams,
        max_concurrent_handshakes=limits.max_concurrent_handshakes,
        max_connection_age=limits.max_connection_age_seconds or math.inf,
    )
