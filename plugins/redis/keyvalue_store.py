"""The key-value store that the SDK's operations ask, on plain Redis strings."""

import binascii
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import anyio
import msgspec

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
from prism.sdk.later import Later

from .connection import Connection, Request, together
from .scripts import (
    COMPARE_AND_DELETE,
    COMPARE_AND_SET,
    DELETE_IF_VERSION,
    INCREMENT,
    SET_IF_VERSION,
    version_of,
)
from .store import glob_escape, milliseconds
from .transport import Argument, packed
from .values import pack, unpack
from .watch import Watcher

T = TypeVar("T")

SCAN_COUNT = 1_000
"""Keys of the whole database that one step of a scan looks at."""
PAGE_BYTES = 512 * 1024
"""Bytes of a page of a scan: it ends with the item that goes beyond."""
MAX_MGET_BYTES = 8 * 1024 * 1024
"""Bytes of the values of one ``mget``."""
MAX_REMEMBERED = 1_000_000
"""Keys that ``count`` remembers, by their hashes: a scan may give one twice."""
MAX_TRIES = 10
"""How often a compared value may change meanwhile, into another spelling of the same JSON."""


class RedisKeyValueStore(VersionedKeyValueStore, WatchableStore):
    """Keys are strings, in Redis' sense, with ``prefix`` before their names.

    A version is a hash of the value: Redis has no place for another. It protects from writing
    over a value that was not read, and is the same again where a value is.
    """

    ordered = False

    def __init__(
        self,
        connection: Connection,
        prefix: bytes,
        *,
        max_value_bytes: int,
        default_ttl: float | None,
    ) -> None:
        self.max_value_bytes = max_value_bytes
        self.default_ttl = default_ttl
        self._connection = connection
        self._prefix = prefix

    async def get(self, key: bytes) -> Entry | None:
        return await self.get_later(key, _itself)

    def get_later(self, key: bytes, make: Callable[[Entry | None], T]) -> Later[T]:
        """What ``make`` makes of what the key has."""
        name = self._prefix + key
        return self._connection.later(lambda data: make(_entry(data)), "GET", name, repeatable=True)

    async def exists(self, key: bytes) -> bool:
        name = self._prefix + key
        return bool(await self._connection.command("EXISTS", name, repeatable=True))

    async def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        if not keys:
            return []
        names = [self._prefix + key for key in keys]
        found = await self._connection.values_within(names, MAX_MGET_BYTES)
        if len(found) < len(keys):
            raise PluginError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"the values have more than {MAX_MGET_BYTES} bytes together; ask for fewer keys",
            )
        return [_entry(data) for data in found]

    async def set(self, item: Item, when: When) -> bool:
        return await self.set_later(item, when, bool)

    def set_later(self, item: Item, when: When, make: Callable[[bool], T]) -> Later[T]:
        """What ``make`` makes of whether the key was set."""
        command = self._set(item)
        if when is When.MISSING:
            command.append("NX")
        elif when is When.PRESENT:
            command.append("XX")
        return self._connection.later(lambda reply: make(reply is not None), *command)

    async def set_if_version(self, item: Item, version: str) -> bool:
        milli = "" if item.ttl is None else milliseconds(item.ttl)
        arguments = (version, pack(item.value), milli)
        name = self._prefix + item.key
        return bool(await self._connection.run(SET_IF_VERSION, [name], *arguments))

    async def delete_if_version(self, key: bytes, version: str) -> bool:
        name = self._prefix + key
        return bool(await self._connection.run(DELETE_IF_VERSION, [name], version))

    async def set_many(self, items: Sequence[Item]) -> None:
        groups = self._connection.by_slot([self._prefix + item.key for item in items])
        requests = [self._set_together([items[place] for place in group]) for group in groups]
        done = 0
        problem: PluginError | None = None
        outcomes = await self._connection.exchange_each(requests)
        for group, outcome in zip(groups, outcomes, strict=True):
            failure = self._failure(outcome)
            done += 0 if failure else len(group)
            problem = problem or failure
        if problem is not None:
            raise _partly(problem, f"{done} of {len(items)} items were set") if done else problem

    def _set_together(self, items: Sequence[Item]) -> Request:
        """All or none of items whose keys lie together."""
        key = self._prefix + items[0].key
        if any(item.ttl is not None for item in items):
            return together(key, [self._set(item) for item in items])
        command: list[Argument] = ["MSET"]
        for item in items:
            command += [self._prefix + item.key, pack(item.value)]
        return Request(key, packed(command))

    async def delete(self, key: bytes) -> bool:
        return bool(await self._connection.command("UNLINK", self._prefix + key))

    async def delete_many(self, keys: Sequence[bytes]) -> int:
        names = [self._prefix + key for key in keys]
        requests = []
        for group in self._connection.apart(names):
            command = packed(["UNLINK", *(names[place] for place in group)])
            requests.append(Request(names[group[0]], command))
        deleted = 0
        problem: PluginError | None = None
        for outcome in await self._connection.exchange_each(requests):
            failure = self._failure(outcome)
            deleted += 0 if failure or isinstance(outcome, PluginError) else outcome[0]
            problem = problem or failure
        if problem is not None:
            raise _partly(problem, f"{deleted} keys were deleted") if deleted else problem
        return deleted

    def _failure(self, outcome: list[Any] | PluginError) -> PluginError | None:
        return outcome if isinstance(outcome, PluginError) else self._connection.failure(outcome)

    async def scan(self, prefix: bytes, cursor: str, limit: int, *, keys_only: bool) -> Page:
        at, more, names = self._read_cursor(cursor)
        if not all(name.startswith(prefix) for name in names):
            raise _no_cursor()
        seen = dict.fromkeys(names)
        count = min(SCAN_COUNT, limit)
        while len(seen) < limit and more:
            at, found = await self._scan_step(prefix, at, count)
            more = bool(at)
            seen |= dict.fromkeys(found)
            if not found:  # few have the prefix; what is found beyond the limit is in the cursor
                count = min(SCAN_COUNT, 2 * count)
        names = list(seen)
        page, rest = names[:limit], names[limit:]
        if keys_only:
            items = [(name.decode(), Entry(Value(b"null", binary=False))) for name in page]
        else:
            items = []
            while page and not items:  # all of them may be gone by now
                keys = [self._prefix + name for name in page]
                values = await self._connection.values_within(keys, PAGE_BYTES)
                items = [
                    (name.decode(), Entry(unpack(value)))
                    for name, value in zip(page, values, strict=False)
                    if value is not None
                ]
                rest = page[len(values) :] + rest
                page = []
        return Page(items, _write_cursor(at, rest) if rest or more else "")

    async def count(self, prefix: bytes) -> int:
        seen: set[int] = set()
        beyond = 0
        at, more = b"", True
        while more:
            at, found = await self._scan_step(prefix, at, SCAN_COUNT)
            more = bool(at)
            if len(seen) < MAX_REMEMBERED:
                seen.update(map(hash, found))
            else:
                beyond += len(found)
        return len(seen) + beyond

    async def _scan_step(self, prefix: bytes, at: bytes, count: int) -> tuple[bytes, list[bytes]]:
        """Where to go on, empty at the end (and, given, for the beginning); and keys, without the
        namespace's prefix."""
        pattern = glob_escape(self._prefix + prefix) + b"*"
        at, found = await self._connection.scan_step(at, pattern, count)
        start = len(self._prefix)
        names = [name[start:] for name in found]
        return at, [name for name in names if _is_text(name)]

    async def remaining(self, key: bytes) -> int | float:
        left: int = await self._connection.command("PTTL", self._prefix + key, repeatable=True)
        return left if left < 0 else left / 1000

    async def expire(self, key: bytes, ttl: float) -> bool:
        name = self._prefix + key
        return bool(await self._connection.command("PEXPIRE", name, milliseconds(ttl)))

    async def persist(self, key: bytes) -> bool:
        return bool(await self._connection.command("PERSIST", self._prefix + key))

    async def increment(self, key: bytes, delta: int, initial: int, ttl: float | None) -> int:
        name = self._prefix + key
        if not initial and ttl is None:
            return int(await self._connection.command("INCRBY", name, delta))
        total = initial + delta
        first = total if -(2**63) <= total < 2**63 else ""
        milli = "" if ttl is None else milliseconds(ttl)
        return int(await self._connection.run(INCREMENT, [name], delta, first, milli))

    async def compare_and_set(self, item: Item, old: Value | None) -> bool:
        if old is None:
            return await self.set(item, When.MISSING)
        name, expected = self._prefix + item.key, pack(old)
        milli = "" if item.ttl is None else milliseconds(item.ttl)
        for _ in range(MAX_TRIES):
            found = await self._connection.run(
                COMPARE_AND_SET, [name], expected, pack(item.value), milli
            )
            if found == 1:
                return True
            if found is None or not same_value(unpack(found), old):
                return False
            expected = found
        raise _changes_too_often()

    async def compare_and_delete(self, key: bytes, old: Value) -> bool:
        name, expected = self._prefix + key, pack(old)
        for _ in range(MAX_TRIES):
            found = await self._connection.run(COMPARE_AND_DELETE, [name], expected)
            if found == 1:
                return True
            if found is None or not same_value(unpack(found), old):
                return False
            expected = found
        raise _changes_too_often()

    async def watch(
        self, prefix: bytes, *, existing: bool, after: str, keys_only: bool, room: Room
    ) -> AsyncGenerator[Change, None]:
        if after:
            raise PluginError(
                StatusCode.OUT_OF_RANGE,
                "the server keeps no log of changes; watch anew, with existing",
            )
        others = self._connection.changed
        async with self._connection.own_each() as transports:
            watcher = await Watcher.start(transports, self._prefix + prefix, others)
            try:
                if existing:
                    async with aclosing(
                        self.scan_all(prefix, keys_only=keys_only, room=room)
                    ) as items:
                        async for key, entry, _ in items:
                            yield Change("set", key, entry.value)
                    yield Change("ready")
                while True:
                    changed = await watcher.next()
                    for change in await self._look(changed):
                        yield change
            finally:
                with anyio.CancelScope(shield=True):
                    await watcher.aclose()

    async def _look(self, names: list[bytes]) -> list[Change]:
        """What has become of keys that have changed; those of other kinds are none of ours."""
        changes: list[Change] = []
        while names:
            values = await self._connection.values_within(names, PAGE_BYTES)
            for name, value in zip(names, values, strict=False):
                key = name[len(self._prefix) :]
                if not _is_text(key):
                    continue
                if value is not None:
                    changes.append(Change("set", key.decode(), unpack(value)))
                elif not await self._connection.command("EXISTS", name, repeatable=True):
                    changes.append(Change("delete", key.decode()))
            names = names[len(values) :]
        return changes

    def _read_cursor(self, cursor: str) -> tuple[bytes, bool, list[bytes]]:
        """Where the scan goes on, whether it does, and keys that were found already."""
        if not cursor:
            return b"", True, []
        try:
            data = binascii.a2b_base64(cursor.encode(), strict_mode=True)
            at, rest = msgspec.msgpack.decode(data, type=tuple[bytes, list[bytes]])
        except (ValueError, msgspec.MsgspecError) as error:
            raise _no_cursor() from error
        if (at and not self._connection.is_position(at)) or not all(map(_is_text, rest)):
            raise _no_cursor()
        return at, bool(at), rest

    def _set(self, item: Item) -> list[Argument]:
        command: list[Argument] = ["SET", self._prefix + item.key, pack(item.value)]
        if item.ttl is not None:
            command += ["PX", milliseconds(item.ttl)]
        return command


def _itself(entry: Entry | None) -> Entry | None:
    return entry


def _entry(data: bytes | None) -> Entry | None:
    return None if data is None else Entry(unpack(data), version_of(data))


def _is_text(name: bytes) -> bool:
    """Keys that are none in UTF-8 are another program's, and cannot be named here."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _write_cursor(at: bytes, rest: list[bytes]) -> str:
    """Where the server's scan stands, and the keys that it gave beyond the page's limit."""
    return binascii.b2a_base64(msgspec.msgpack.encode((at, rest)), newline=False).decode()


def _no_cursor() -> PluginError:
    return PluginError(StatusCode.INVALID_ARGUMENT, "the cursor is none of this prefix's scans")


def _partly(problem: PluginError, done: str) -> PluginError:
    """A cluster does what several of its slots are about in as many steps."""
    return PluginError(problem.status, f"{done}, the others were not: {problem.detail}")


def _changes_too_often() -> PluginError:
    return PluginError(StatusCode.ABORTED, "the value changes too often; try again")
