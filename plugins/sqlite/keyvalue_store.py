"""The key-value store that the SDK's operations ask: each method is one piece of work."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import anyio

from prism.sdk import PluginError, StatusCode, Value
from prism.sdk.keyvalue import (
    Change,
    Entry,
    Item,
    Page,
    Room,
    VersionedKeyValueStore,
    WatchableStore,
    When,
    same_value,
)

from .changes import LoggedChange, newest, read_changes
from .connection import Connection
from .database import Database
from .keyvalue import KeyValue

READ_AT_ONCE = 100
"""Changes that a watch reads at a time."""

LOOK_AGAIN_SECONDS = 1.0
"""Nobody tells of another process's commits, or that time has passed for a key."""


class SQLiteKeyValueStore(VersionedKeyValueStore, WatchableStore):
    """``keys`` in ``database``, whose ``Database.sweep`` removes what has expired."""

    def __init__(
        self,
        database: Database,
        keys: KeyValue,
        *,
        max_value_bytes: int,
        default_ttl: float | None,
    ) -> None:
        self._database = database
        self._keys = keys
        self.max_value_bytes = max_value_bytes
        self.default_ttl = default_ttl

    async def get(self, key: bytes) -> Entry | None:
        return await self._database.read(lambda connection: self._keys.get(connection, key))

    async def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        return await self._database.read(lambda connection: self._keys.get_many(connection, keys))

    async def set(self, item: Item, when: When) -> bool:
        def work(connection: Connection) -> bool:
            if when is When.MISSING:
                return self._keys.set_if_missing(connection, item)
            if when is When.PRESENT:
                return self._keys.set_if_present(connection, item)
            self._keys.set(connection, item)
            return True

        return await self._database.write(work)

    async def set_if_version(self, item: Item, version: str) -> bool:
        number = _read_version(version)
        return number is not None and await self._database.write(
            lambda connection: self._keys.set_if_version(connection, item, number)
        )

    async def set_many(self, items: Sequence[Item]) -> None:
        def work(connection: Connection) -> None:
            for item in items:
                self._keys.set(connection, item)

        await self._database.write(work)

    async def delete(self, key: bytes) -> bool:
        return await self._database.write(lambda connection: self._keys.delete(connection, key))

    async def delete_if_version(self, key: bytes, version: str) -> bool:
        number = _read_version(version)
        return number is not None and await self._database.write(
            lambda connection: self._keys.delete_if_version(connection, key, number)
        )

    async def delete_many(self, keys: Sequence[bytes]) -> int:
        return await self._database.write(
            lambda connection: sum(self._keys.delete(connection, key) for key in keys)
        )

    async def scan(self, prefix: bytes, cursor: str, limit: int, *, keys_only: bool) -> Page:
        items, more = await self._database.read_long(
            lambda connection: self._keys.scan(
                connection, prefix, cursor, limit, keys_only=keys_only
            )
        )
        return Page(items, items[-1][0] if more else "")

    async def count(self, prefix: bytes) -> int:
        return await self._database.read_long(
            lambda connection: self._keys.count(connection, prefix)
        )

    async def remaining(self, key: bytes) -> int | float:
        return await self._database.read(lambda connection: self._keys.remaining(connection, key))

    async def expire(self, key: bytes, ttl: float) -> bool:
        return await self._database.write(
            lambda connection: self._keys.expire(connection, key, ttl)
        )

    async def persist(self, key: bytes) -> bool:
        return await self._database.write(lambda connection: self._keys.persist(connection, key))

    async def increment(self, key: bytes, delta: int, initial: int, ttl: float | None) -> int:
        return await self._database.write(
            lambda connection: self._keys.increment(connection, key, delta, initial, ttl)
        )

    async def compare_and_set(self, item: Item, old: Value | None) -> bool:
        def work(connection: Connection) -> bool:
            entry = self._keys.get(connection, item.key)
            if not same_value(entry.value if entry else None, old):
                return False
            self._keys.set(connection, item)
            return True

        return await self._database.write(work)

    async def compare_and_delete(self, key: bytes, old: Value) -> bool:
        def work(connection: Connection) -> bool:
            entry = self._keys.get(connection, key)
            if not same_value(entry.value if entry else None, old):
                return False
            return self._keys.delete(connection, key)

        return await self._database.write(work)

    async def watch(
        self, prefix: bytes, *, existing: bool, after: str, keys_only: bool, room: Room
    ) -> AsyncGenerator[Change, None]:
        if after:
            position = _read_position(after)
        else:
            position = await self._database.read(newest)
            if existing:
                async with aclosing(self.scan_all(prefix, keys_only=keys_only, room=room)) as items:
                    async for key, entry, _ in items:
                        yield Change("set", key, entry.value)
                yield Change("ready", position=str(position))
        while True:
            committed = self._database.next_commit()
            since = position

            def read(
                connection: Connection, since: int = since
            ) -> tuple[int, list[LoggedChange], bool]:
                reached = newest(connection)
                found = read_changes(connection, self._keys, prefix, since, READ_AT_ONCE)
                return reached, *found

            async with room(self.most_at_a_time) as tell_sizes:
                reached, changes, more = await self._database.read(read)
                tell_sizes([change.value.shown_size for change in changes if change.value])
                position = changes[-1].sequence if more else reached
                changes.reverse()
                while changes:
                    change = changes.pop()
                    yield Change(
                        "delete" if change.value is None else "set",
                        change.key,
                        change.value,
                        str(change.sequence),
                    )
            if more:
                continue
            with anyio.move_on_after(LOOK_AGAIN_SECONDS) as waiting:
                await committed.wait()
            if waiting.cancelled_caught and await self._database.read(self._keys.has_expired):
                await self._database.write(self._database.sweep)


def _read_version(text: str) -> int | None:
    """The number; None for a text that is no version of any key."""
    return int(text) if _is_number(text) and text == str(int(text)) else None


def _read_position(text: str) -> int:
    if not _is_number(text):
        raise PluginError(StatusCode.INVALID_ARGUMENT, f"{text[:40]!r} is no position of a watch")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19
