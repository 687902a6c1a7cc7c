"""The operations of the SQLite plugin."""

import time
from collections.abc import Callable

import msgspec
from msgspec import UNSET

from prism.sdk import Call, Health, Plugin, PluginError, StatusCode, Value, operation

from . import params as p
from .authorizer import Access
from .config import SQLiteConfig
from .connection import Connection
from .database import Database
from .keyvalue import KeyValue, encode_key
from .user_sql import read_parameters, run_statement, show_bytes_as_json


class SQLitePlugin(Plugin):
    """Key-value and SQL on one SQLite file; several namespaces may share the file."""

    name = "sqlite"
    version = "0.1.0"
    Config = SQLiteConfig
    config: SQLiteConfig

    clock: Callable[[], float] = staticmethod(time.time)
    """Wall-clock seconds since 1970, for times to live; tests set their own."""

    async def start(self) -> None:
        """Open the database; refuses with the path and what to do."""
        self.keys = KeyValue(self.namespace, self.clock, self.config.default_ttl_seconds)
        self.database = await self.run_blocking(Database, self.config, self.keys.sweep)

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

    @operation(idempotent=True)
    async def get(self, params: p.Key, call: Call) -> p.Found:
        """Read one key."""
        key = encode_key(params.key)
        value = await self.database.read(lambda connection: self.keys.get(connection, key))
        if value is None:
            return p.Found(found=False)
        raw, encoding = value.write(call)
        return p.Found(found=True, value=raw, encoding=encoding)

    @operation(idempotent=True)
    async def exists(self, params: p.Key) -> dict[str, bool]:
        """Whether a key exists."""
        key = encode_key(params.key)
        value = await self.database.read(lambda connection: self.keys.get(connection, key))
        return {"exists": value is not None}

    @operation(idempotent=True)
    async def mget(self, params: p.Keys, call: Call) -> p.FoundKeys:
        """Read several keys at the same moment."""
        keys = [encode_key(key) for key in params.keys]
        values = await self.database.read(lambda connection: self.keys.get_many(connection, keys))
        results = []
        for key, value in zip(params.keys, values, strict=True):
            result = p.FoundKey(key, found=value is not None)
            if value is not None:
                result.value, result.encoding = value.write(call)
            results.append(result)
        return p.FoundKeys(results, found_count=sum(result.found for result in results))

    @operation
    async def set(self, params: p.Set, call: Call) -> dict[str, bool]:
        """Set a key, always or on a condition. Not idempotent: it may undo a later write."""
        if params.only_if_exists and params.only_if_not_exists:
            raise PluginError(
                StatusCode.INVALID_ARGUMENT,
                "only_if_exists and only_if_not_exists exclude each other",
            )
        key, value, ttl = self._read_item(params, call)

        def work(connection: Connection) -> bool:
            if params.only_if_not_exists:
                return self.keys.set_if_missing(connection, key, value, ttl)
            if params.only_if_exists:
                return self.keys.set_if_present(connection, key, value, ttl)
            self.keys.set(connection, key, value, ttl)
            return True

        return {"stored": await self.database.write(work)}

    @operation
    async def mset(self, params: p.SetMany, call: Call) -> dict[str, int]:
        """Set several keys, all or none."""
        items = [self._read_item(item, call) for item in params.items]

        def work(connection: Connection) -> int:
            for item in items:
                self.keys.set(connection, *item)
            return len(items)

        return {"stored": await self.database.write(work)}

    @operation
    async def delete(self, params: p.Key) -> dict[str, bool]:
        """Delete a key."""
        key = encode_key(params.key)
        work = lambda connection: self.keys.delete(connection, key)  # noqa: E731
        return {"deleted": await self.database.write(work)}

    @operation(idempotent=True)
    async def scan(self, params: p.Scan, call: Call) -> p.Page:
        """One page of the keys that begin with a prefix."""
        items, more = await self.database.read_long(
            lambda connection: self.keys.scan(
                connection,
                params.prefix,
                params.cursor,
                params.limit,
                keys_only=params.keys_only,
            )
        )
        page = p.Page([p.ScanItem(key) for key, _ in items])
        if not params.keys_only:
            for shown, (_, value) in zip(page.items, items, strict=True):
                shown.value, shown.encoding = value.write(call)
        if more:
            page.cursor = items[-1][0]
        return page

    @operation(idempotent=True)
    async def count(self, params: p.Prefix) -> dict[str, int]:
        """Count the keys that begin with a prefix."""
        number = await self.database.read_long(
            lambda connection: self.keys.count(connection, params.prefix)
        )
        return {"count": number}

    @operation(idempotent=True)
    async def ttl(self, params: p.Key) -> dict[str, bool | int | float]:
        """Seconds that a key has to live; -1 for ever, -2 no such key."""
        key = encode_key(params.key)
        left = await self.database.read(lambda connection: self.keys.remaining(connection, key))
        return {"found": left != -2, "ttl_seconds": left}

    @operation
    async def expire(self, params: p.Expire) -> dict[str, bool]:
        """Give a key a new time to live, counted from now; 0 ends it."""
        key = encode_key(params.key)
        existed = await self.database.write(
            lambda connection: self.keys.expire(connection, key, params.ttl_seconds)
        )
        return {"key_existed": existed}

    @operation
    async def persist(self, params: p.Key) -> dict[str, bool]:
        """Take a key's time to live away."""
        key = encode_key(params.key)
        removed = await self.database.write(lambda connection: self.keys.persist(connection, key))
        return {"expiration_removed": removed}

    @operation
    async def increment(self, params: p.Increment) -> dict[str, int]:
        """Add to an integer; a missing key counts as ``initial``."""
        key = encode_key(params.key)
        value = await self.database.write(
            lambda connection: self.keys.increment(connection, key, params.delta, params.initial)
        )
        return {"value": value}

    @operation
    async def compare_and_swap(self, params: p.CompareAndSwap, call: Call) -> dict[str, bool]:
        """Set a key if it has the old value; JSON is compared without its white space."""
        item = p.Item(params.key, params.new_value, params.encoding, params.ttl_seconds)
        key, new, ttl = self._read_item(item, call)
        if params.old_value is UNSET:
            old = None
        else:
            old = _compact(Value.read(params.old_value, params.encoding, call))

        def work(connection: Connection) -> bool:
            current = self.keys.get(connection, key)
            if (None if current is None else _compact(current)) != old:
                return False
            self.keys.set(connection, key, new, ttl)
            return True

        return {"swapped": await self.database.write(work)}

    @operation(idempotent=True)
    async def query(self, params: p.Statement, call: Call) -> p.Rows:
        """Run a statement that only reads."""
        run = self._statement(params, Access.QUERY)
        rows, _ = await self.database.read_long(run)
        if not call.binary:
            show_bytes_as_json(rows.rows)
        return rows

    @operation(name="execute")
    async def run_sql(self, params: p.Statement, call: Call) -> p.Executed:
        """Run a statement that changes data or tables; alone, all or nothing."""
        run = self._statement(params, Access.EXECUTE)
        rows, affected = await self.database.write(run, may_take_long=True)
        if not rows.columns:
            return p.Executed(affected)
        if not call.binary:
            show_bytes_as_json(rows.rows)
        return p.Executed(affected, rows.columns, rows.rows, rows.truncated)

    def _statement(
        self, params: p.Statement, access: Access
    ) -> Callable[[Connection], tuple[p.Rows, int]]:
        self.metrics.queries_executed += 1
        parameters = read_parameters(params.params)
        limit = min(params.limit or self.config.max_rows, self.config.max_rows)
        return lambda connection: run_statement(connection, params.sql, parameters, access, limit)

    def _read_item(self, item: p.Item, call: Call) -> tuple[bytes, Value, float | None]:
        key = encode_key(item.key)
        value = Value.read(item.value, item.encoding, call)
        if len(value.data) > self.config.max_value_bytes:
            raise PluginError(
                StatusCode.INVALID_ARGUMENT,
                f"the value has {len(value.data)} bytes; "
                f"the limit is {self.config.max_value_bytes} (max_value_bytes)",
            )
        return key, value, item.ttl_seconds


def _compact(value: Value) -> Value:
    if value.binary:
        return value
    return Value(msgspec.json.format(value.data, indent=-1), binary=False)
