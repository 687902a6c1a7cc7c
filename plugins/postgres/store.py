"""What all operations of the plugin share: its connections, and its life."""

import logging
import random

import anyio
from psycopg import pq

from prism.sdk import Health, PluginError, StatusCode
from prism.sdk.background import BackgroundTask
from prism.sdk.keyvalue import VersionedKeyValueOperations
from prism.sdk.multiplexed import Limits, Multiplexed, State, TransportBroken
from prism.sdk.queue import QueueOperations

from . import keyvalue, queues
from .cells import Codecs
from .config import ConnectionSettings, PostgresConfig
from .connecting import connect, open_libpq
from .connection import Connection
from .keyvalue import PostgresKeyValueStore
from .notifications import Listener
from .own_tables import OwnTables, Share
from .pipeline import Pipeline, Reply, Request, open_pipeline
from .pool import Pool
from .queues import PostgresQueueStore
from .schema import prepare_schema
from .statements import Runner

log = logging.getLogger("prism.plugin.postgres")

LIBPQ = 170_000
"""The oldest libpq that cancels without blocking, and gives rows in chunks."""
HEALTH_SECONDS = 3.0
"""For all that a health check waits for."""
SWEEP_SECONDS = 10.0
"""About the time between two removals of what has expired."""
SHARED_SECONDS = 5
"""Longest statement on a shared connection: others wait behind it."""


class Store(VersionedKeyValueOperations, QueueOperations):
    """One PostgreSQL database, which several namespaces may share."""

    name = "postgres"
    version = "0.1.0"
    Config = PostgresConfig
    config: PostgresConfig
    store: PostgresKeyValueStore
    queues: PostgresQueueStore

    async def start(self) -> None:
        """Connect, and make Prism's own tables; refuses with what is wrong and what to do."""
        config = self.config
        if pq.version() < LIBPQ:
            raise PluginError(
                StatusCode.FAILED_PRECONDITION,
                f"psycopg uses libpq {pq.version() // 10_000} ({pq.__impl__}); the plugin needs "
                f"{LIBPQ // 10_000}: pip install 'psycopg[binary]', and PSYCOPG_IMPL=binary where "
                "another one is installed, too",
            )
        self.settings = ConnectionSettings(config, self.credentials, self.namespace)
        self.runner = Runner(
            Codecs(strings=config.json_numbers == "strings"), behind_pooler=config.behind_pooler
        )
        self.readers: list[Share] = []
        self.writers: list[Share] = []
        self.sweeper: BackgroundTask | None = None
        self.listener = Listener(self.connect)
        self.counted = 0  # calls on shared connections that the metrics have
        self.pool = Pool(
            self.connect,
            size=config.pool_size,
            timeout=config.pool_timeout,
            idle_timeout=config.idle_timeout,
            max_lifetime=config.max_lifetime,
        )
        try:
            async with self.pool.lease() as connection:
                self.server_version = connection.server_version
                if config.key_value:
                    await prepare_schema(connection, config.schema)
            if config.key_value and not config.behind_pooler:
                await self._share_connections()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.stop()
            raise
        self.tables = OwnTables(
            self.pool,
            self.readers,
            self.writers,
            reading=keyvalue.READING,
            writing=keyvalue.WRITING | queues.WRITING,
            formats=keyvalue.FORMATS | queues.FORMATS,
            namespace=self.namespace,
            schema=config.schema,
            enabled=config.key_value,
        )
        self.store = PostgresKeyValueStore(
            self.tables,
            max_value_bytes=config.max_value_bytes,
            default_ttl=config.default_ttl_seconds,
        )
        self.queues = PostgresQueueStore(self.tables, max_value_bytes=config.max_value_bytes)
        if config.key_value:
            self.sweeper = BackgroundTask(self._sweep, "removal of expired keys")

    async def stop(self) -> None:
        """Close the connections."""
        if self.sweeper is not None:
            await self.sweeper.aclose()
        await self.listener.aclose()
        for share in (*self.readers, *self.writers):
            await share.aclose()
        await self.pool.aclose()

    async def connect(self) -> Connection:
        """A new connection for one caller at a time."""
        config = self.config
        return await connect(
            self.settings, cache_size=config.statement_cache_size, seconds=config.connect_timeout
        )

    async def health(self) -> Health:
        """Has the server answer on a connection of the pool, and on each shared one."""
        metrics, pool = self.metrics, self.pool
        shares = (*self.readers, *self.writers)
        connected = sum(share.state is State.CONNECTED for share in shares)
        metrics.connections_idle = pool.idle
        metrics.connections_active = pool.count - pool.idle + connected
        calls = sum(share.calls for share in shares)
        metrics.queries_executed += calls - self.counted
        self.counted = calls
        metrics.custom["pool_waiting"] = pool.waiting
        metrics.custom["pool_recovered"] = pool.recovered
        metrics.custom["shared_in_flight"] = sum(share.in_flight for share in shares)
        try:
            with anyio.fail_after(HEALTH_SECONDS):
                if self.config.key_value:
                    await self.tables.check()
                if pool.count - pool.idle < self.config.pool_size:
                    await pool.run(_answers, repeatable=True)
        except TimeoutError:
            return Health.unhealthy(f"PostgreSQL did not answer within {HEALTH_SECONDS:g} seconds")
        except PluginError as error:
            if error.status in (StatusCode.RESOURCE_EXHAUSTED, StatusCode.FAILED_PRECONDITION):
                return Health.degraded(error.detail)  # it answers; a start anew would not help
            return Health.unhealthy(error.detail)
        details = {
            "server_version": str(self.server_version),
            "pool": f"{pool.idle} idle of {pool.count}; at most {self.config.pool_size}",
        }
        metrics.custom["listeners"] = self.listener.listeners
        if self.listener.problem:
            return Health.degraded(f"nothing is heard: {self.listener.problem}", **details)
        if pool.waiting:
            return Health.degraded(
                f"all {self.config.pool_size} connections are in use, and {pool.waiting} calls "
                "wait for one (pool_size)",
                **details,
            )
        return Health.healthy(**details)

    async def _share_connections(self) -> None:
        limits = Limits(connect=self.config.connect_timeout)
        writing = keyvalue.WRITING | queues.WRITING
        for shares, statements in ((self.readers, keyvalue.READING), (self.writers, writing)):
            schema = self.config.schema
            prepared = {name: sql.format(schema=schema) for name, sql in statements.items()}

            async def open_one(prepared: dict[str, str] = prepared) -> Pipeline:
                return await open_pipeline(self._open_shared, prepared)

            for _ in range(self.config.key_value_connections):
                share: Share = Multiplexed[Request, Reply](open_one, "PostgreSQL", limits)
                try:
                    await share.start()
                except TransportBroken as error:
                    raise PluginError(StatusCode.UNAVAILABLE, str(error)) from error
                shares.append(share)

    async def _open_shared(self) -> pq.abc.PGconn:
        return await open_libpq(
            self.settings,
            seconds=self.config.connect_timeout,
            options=f"-c statement_timeout={SHARED_SECONDS}s",
        )

    async def _sweep(self) -> None:
        while True:
            # Instances that started together should not all do it together.
            await anyio.sleep(SWEEP_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            try:
                while await self.store.sweep():
                    pass
            except PluginError as error:
                log.warning("expired keys were not removed: %s", error.detail)


async def _answers(connection: Connection) -> None:
    connection.send(b"SELECT 1")
    connection.send_sync()
    await connection.finish_group()
