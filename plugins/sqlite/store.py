"""What all operations of the plugin share: the open database, and its life."""

import time
from collections.abc import AsyncGenerator, Callable

import anyio
import msgspec
from msgspec import UnsetType

from prism.sdk import Call, Encoding, Health, Plugin, PluginError, StatusCode, Value

from . import changes
from . import params as p
from .config import SQLiteConfig
from .connection import Connection
from .database import Database
from .keyvalue import KeyValue, encode_key
from .steady_clock import SteadyClock, elapsed
from .work_queue import WorkQueue

PAGE = 500
"""Keys read at a time by what reads all of them."""


class Store(Plugin):
    """One SQLite file, several namespaces of which may share."""

    name = "sqlite"
    version = "0.1.0"
    Config = SQLiteConfig
    config: SQLiteConfig

    clock: Callable[[], float] = staticmethod(time.time)
    elapsed: Callable[[], float] = staticmethod(elapsed)
    """Wall-clock seconds since 1970, and seconds that pass whatever happens to that clock;
    tests set their own."""

    async def start(self) -> None:
        """Open the database; refuses with the path and what to do."""
        self.time = SteadyClock(self.clock, self.elapsed)
        self.keys = KeyValue(self.namespace, self.time, self.config.default_ttl_seconds)
        self.queues = WorkQueue(self.namespace, self.time, self.clock)
        self.database = await self.run_blocking(Database, self.config, self.sweep)
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

    async def scan_all(
        self, prefix: str, after: str = "", *, keys_only: bool = False
    ) -> AsyncGenerator[tuple[str, Value], None]:
        """Every key with ``prefix`` after the key ``after``, and its value."""
        more = True
        while more:

            def page(
                connection: Connection, cursor: str = after
            ) -> tuple[list[tuple[str, Value]], bool]:
                return self.keys.scan(connection, prefix, cursor, PAGE, keys_only=keys_only)

            items, more = await self.database.read_long(page)
            for item in items:
                yield item
            after = items[-1][0] if items else ""

    def read_value(self, value: msgspec.Raw, encoding: Encoding | UnsetType, call: Call) -> Value:
        """A value as a client sent it.

        Raises:
            PluginError: INVALID_ARGUMENT, over ``max_value_bytes``, or no value.
        """
        read = Value.read(value, encoding, call)
        if len(read.data) > self.config.max_value_bytes:
            raise PluginError(
                StatusCode.INVALID_ARGUMENT,
                f"the value has {len(read.data)} bytes; "
                f"the limit is {self.config.max_value_bytes} (max_value_bytes)",
            )
        return read

    def read_item(self, item: p.Item, call: Call) -> tuple[bytes, Value, float | None]:
        """A key to set, its value, and its time to live."""
        key = encode_key(item.key)
        return key, self.read_value(item.value, item.encoding, call), item.ttl_seconds
