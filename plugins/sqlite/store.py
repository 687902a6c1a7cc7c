"""What all operations of the plugin share: the open database, and its life."""

import time
from collections.abc import Callable

import anyio

from prism.sdk import Health, Plugin

from . import changes
from .config import SQLiteConfig
from .connection import Connection
from .database import Database
from .keyvalue import KeyValue
from .keyvalue_store import SQLiteKeyValueStore
from .queue_store import SQLiteQueueStore
from .steady_clock import SteadyClock, elapsed
from .work_queue import WorkQueue


class Store(Plugin):
    """One SQLite file, several namespaces of which may share."""

    name = "sqlite"
    version = "0.1.0"
    Config = SQLiteConfig
    config: SQLiteConfig
    store: SQLiteKeyValueStore
    queues: SQLiteQueueStore

    clock: Callable[[], float] = staticmethod(time.time)
    elapsed: Callable[[], float] = staticmethod(elapsed)
    """Wall-clock seconds since 1970, and seconds that pass whatever happens to that clock;
    tests set their own."""

    async def start(self) -> None:
        """Open the database; refuses with the path and what to do."""
        self.time = SteadyClock(self.clock, self.elapsed)
        self.keys = KeyValue(self.namespace, self.time)
        self.database = await self.run_blocking(Database, self.config, self.sweep)
        self.store = SQLiteKeyValueStore(
            self.database,
            self.keys,
            max_value_bytes=self.config.max_value_bytes,
            default_ttl=self.config.default_ttl_seconds,
        )
        self.queues = SQLiteQueueStore(
            self.database,
            WorkQueue(self.namespace, self.time, self.clock),
            max_value_bytes=self.config.max_value_bytes,
        )
        try:
            await self.database.read(self.time.recall)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.database.close()
            raise

    async def stop(self) -> None:
        """Close the database, after what still runs."""
        await self.database.close()

    async def health(self) -> Health:
        """Reads, and looks whether the file is still the one that was opened."""
        self.metrics.custom["commits"] = self.database.commits
        self.metrics.connections_active = self.database.readers_active
        self.metrics.connections_idle = self.database.readers_idle
        problem = await self.database.check()
        return Health.unhealthy(problem) if problem else Health.healthy()

    def sweep(self, connection: Connection) -> bool:
        """Remove some of what has expired; True when more may remain."""
        self.time.remember(connection)
        more_keys = self.keys.sweep(connection)
        return changes.trim(connection) or more_keys
