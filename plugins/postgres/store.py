"""What all operations of the plugin share: its connections, and its life."""

import anyio

from prism.sdk import Health, Plugin

from .cells import Codecs
from .config import ConnectionSettings, PostgresConfig
from .connecting import connect
from .connection import Connection
from .pool import Pool
from .statements import Runner

HEALTH_TIMEOUT = 3.0
"""Seconds for each thing that a health check waits for."""


class Store(Plugin):
    """One PostgreSQL database, which several namespaces may share."""

    name = "postgres"
    version = "0.1.0"
    Config = PostgresConfig
    config: PostgresConfig

    async def start(self) -> None:
        """Connect; refuses with what is wrong and what to do."""
        self.settings = ConnectionSettings(self.config, self.credentials, self.namespace)
        self.runner = Runner(
            Codecs(strings=self.config.json_numbers == "strings"),
            behind_pooler=self.config.behind_pooler,
        )
        self.pool = Pool(
            self.connect,
            size=self.config.pool_size,
            timeout=self.config.pool_timeout,
            idle_timeout=self.config.idle_timeout,
            max_lifetime=self.config.max_lifetime,
        )
        try:
            async with self.pool.lease() as connection:
                self.server_version = connection.server_version
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.pool.aclose()
            raise

    async def stop(self) -> None:
        """Close the connections."""
        await self.pool.aclose()

    async def connect(self) -> Connection:
        """A new connection."""
        config = self.config
        return await connect(
            self.settings, cache_size=config.statement_cache_size, seconds=config.connect_timeout
        )

    async def health(self) -> Health:
        """Has the server answer on a connection."""
        self.metrics.connections_idle = self.pool.idle
        self.metrics.connections_active = self.pool.count - self.pool.idle
        return Health.healthy()
