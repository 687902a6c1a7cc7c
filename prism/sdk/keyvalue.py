"""The key-value vocabulary: the operations that every key-value plugin has in common.

A plugin mixes the operations in, and gives them a store when it starts::

    class Memory(KeyValueOperations):
        store: MemoryStore

        async def start(self) -> None:
            self.store = MemoryStore()

The operations decode, check and encode; a store does what they say with a backend, whatever
that is, and knows nothing of calls. ``KeyValueOperations`` is the group ``key_value``;
``VersionedKeyValueOperations`` has the same operations with versions, the groups ``key_value``
and ``kv_versions``; ``WatchOperations`` is the group ``watch``.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TypeVar, cast

from msgspec import UNSET

from prism.contract.errors import PluginError
from prism.contract.messages import CacheSettings
from prism.contract.status import StatusCode
from prism.sdk import keyvalue_messages as m
from prism.sdk.cache import CACHEABLE, cached
from prism.sdk.call import Call, Positioned
from prism.sdk.keyvalue_store import (
    Change,
    Entry,
    Item,
    KeyValueStore,
    Page,
    Room,
    VersionedKeyValueStore,
    WatchableStore,
    When,
    added,
)
from prism.sdk.later import Later
from prism.sdk.operation import operation
from prism.sdk.plugin import Plugin
from prism.sdk.value import Value, read_value, same_value

__all__ = [
    "Change",
    "Entry",
    "Item",
    "KeyValueOperations",
    "KeyValueStore",
    "Page",
    "Room",
    "VersionedKeyValueOperations",
    "VersionedKeyValueStore",
    "WatchOperations",
    "WatchableStore",
    "When",
    "added",
    "encode_key",
    "read_value",
    "same_value",
]

MAX_TTL_SECONDS = 100 * 366 * 86_400.0
"""What is longer is cut to this: no backend's clock counts to the end of a float."""

T = TypeVar("T")
Shown = TypeVar("Shown", m.Found, m.FoundKey, m.ScanItem, m.Changed)


class _KeyValueOperations(Plugin, group="key_value"):
    """The operations that are the same with and without versions."""

    cacheable = CACHEABLE
    store: KeyValueStore

    def use_cache(self, settings: CacheSettings) -> None:
        """Keep what the store says."""
        self.store = cached(self.store, settings, self.metrics)

    @operation(idempotent=True, access="read")
    async def exists(self, params: m.Key) -> m.Exists:
        """Whether a key exists."""
        return m.Exists(await self.store.exists(encode_key(params.key)))

    @operation(access="write")
    async def mset(self, params: m.SetMany, call: Call) -> m.StoredCount:
        """Set several keys, all or none."""
        items = [self._read_item(item, call) for item in params.items]
        if items:
            await self.store.set_many(items)
        return m.StoredCount(len(items))

    @operation(access="write")
    async def mdelete(self, params: m.Keys) -> m.DeletedCount:
        """Delete several keys at the same moment; says how many there were."""
        keys = [encode_key(key) for key in params.keys]
        return m.DeletedCount(await self.store.delete_many(keys) if keys else 0)

    @operation(idempotent=True, access="read")
    async def scan(self, params: m.Scan, call: Call) -> m.Page:
        """One page of the keys that begin with a prefix."""
        keys_only = params.keys_only
        items, cursor = await self.store.scan(
            params.prefix.encode(), params.cursor, params.limit, keys_only=keys_only
        )
        shown = [
            m.ScanItem(key) if keys_only else _with_value(m.ScanItem(key), entry.value, call)
            for key, entry in items
        ]
        return m.Page(shown, cursor or UNSET)

    @operation(name="scan", idempotent=True, access="read")
    async def scan_stream(
        self, params: m.ScanAll, call: Call
    ) -> AsyncIterator[Positioned[m.ScanItem]]:
        """All keys that begin with a prefix; each page of them is one moment's."""
        keys_only, cursor = params.keys_only, call.resume_after or params.cursor
        items = self.store.scan_all(
            params.prefix.encode(), cursor, keys_only=keys_only, room=call.room
        )
        async with aclosing(items):
            async for key, entry, position in items:
                shown = m.ScanItem(key)
                if not keys_only:
                    _with_value(shown, entry.value, call)
                yield Positioned(shown, position)

    @operation(idempotent=True, access="read")
    async def count(self, params: m.Prefix) -> m.Count:
        """Count the keys that begin with a prefix."""
        return m.Count(await self.store.count(params.prefix.encode()))

    @operation(idempotent=True, access="read")
    async def ttl(self, params: m.Key) -> m.Remaining:
        """Seconds that a key has to live; -1 for ever, -2 no such key."""
        left = await self.store.remaining(encode_key(params.key))
        return m.Remaining(left != -2, left)

    @operation(access="write")
    async def expire(self, params: m.Expire) -> m.KeyExisted:
        """Give a key a new time to live, counted from now; 0 ends it."""
        key = encode_key(params.key)
        if params.ttl_seconds == 0:
            return m.KeyExisted(await self.store.delete(key))
        return m.KeyExisted(await self.store.expire(key, min(params.ttl_seconds, MAX_TTL_SECONDS)))

    @operation(access="write")
    async def persist(self, params: m.Key) -> m.ExpirationRemoved:
        """Take a key's time to live away."""
        return m.ExpirationRemoved(await self.store.persist(encode_key(params.key)))

    @operation(access="write")
    async def increment(self, params: m.Increment) -> m.Total:
        """Add to an integer; a missing key counts as ``initial``."""
        key = encode_key(params.key)
        ttl = self.store.default_ttl
        return m.Total(await self.store.increment(key, params.delta, params.initial, ttl))

    @operation(access="write")
    async def compare_and_swap(self, params: m.CompareAndSwap, call: Call) -> m.Swapped:
        """Set a key if it has the old value; JSON is compared by what it says."""
        wanted = m.Item(params.key, params.new_value, params.encoding, params.ttl_seconds)
        item = self._read_item(wanted, call)
        old = None
        if params.old_value is not UNSET:
            old = Value.read(params.old_value, params.encoding, call)
        return m.Swapped(await self.store.compare_and_set(item, old))

    @operation(access="write")
    async def compare_and_delete(self, params: m.CompareAndDelete, call: Call) -> m.Deleted:
        """Delete a key if it has the old value; JSON is compared by what it says."""
        key = encode_key(params.key)
        old = Value.read(params.old_value, params.encoding, call)
        return m.Deleted(await self.store.compare_and_delete(key, old))

    def _read_item(self, item: m.Item, call: Call) -> Item:
        ttl = self.store.default_ttl if item.ttl_seconds is None else item.ttl_seconds
        return Item(
            encode_key(item.key),
            read_value(item.value, item.encoding, call, self.store.max_value_bytes),
            min(ttl, MAX_TTL_SECONDS) if ttl else None,
        )


def _later(result: Later[T]) -> T:
    """As what it will be: to have a task wait for each result costs more than all the rest of the
    commonest operations."""
    return cast("T", result)


class KeyValueOperations(_KeyValueOperations):
    """Keys and values: the group ``key_value``."""

    @operation(idempotent=True, access="read")
    async def get(self, params: m.Key, call: Call) -> m.Found:
        """Read one key."""
        entry = await self.store.get(encode_key(params.key))
        return m.Found(False) if entry is None else _with_value(m.Found(True), entry.value, call)

    @operation(idempotent=True, access="read")
    async def mget(self, params: m.Keys, call: Call) -> m.FoundKeys:
        """Read several keys at the same moment."""
        entries = await self.store.get_many([encode_key(key) for key in params.keys])
        results = [
            m.FoundKey(key, False)
            if entry is None
            else _with_value(m.FoundKey(key, True), entry.value, call)
            for key, entry in zip(params.keys, entries, strict=True)
        ]
        return m.FoundKeys(results, sum(result.found for result in results))

    @operation(access="write")
    async def set(self, params: m.Set, call: Call) -> m.Stored:
        """Set a key, always or on a condition. Not idempotent: it may undo a later write."""
        return m.Stored(await self.store.set(self._read_item(params, call), _when(params)))

    @operation(access="write")
    async def delete(self, params: m.Key) -> m.Deleted:
        """Delete a key."""
        return m.Deleted(await self.store.delete(encode_key(params.key)))


class VersionedKeyValueOperations(_KeyValueOperations, group="kv_versions"):
    """Keys, values and their versions: the groups ``key_value`` and ``kv_versions``."""

    store: VersionedKeyValueStore

    @operation(idempotent=True, access="read")
    async def get(self, params: m.Key, call: Call) -> m.VersionedFound:
        """Read one key, and its version."""
        key = encode_key(params.key)

        def found(entry: Entry | None) -> m.VersionedFound:
            if entry is None:
                return m.VersionedFound(False)
            raw, encoding = entry.value.write(call)
            return m.VersionedFound(True, raw, encoding, entry.version)

        later = self.store.get_later(key, found)
        return found(await self.store.get(key)) if later is None else _later(later)

    @operation(idempotent=True, access="read")
    async def mget(self, params: m.Keys, call: Call) -> m.VersionedFoundKeys:
        """Read several keys at the same moment, and their versions."""
        entries = await self.store.get_many([encode_key(key) for key in params.keys])
        results = [
            m.VersionedFoundKey(key, False)
            if entry is None
            else m.VersionedFoundKey(key, True, *entry.value.write(call), entry.version)
            for key, entry in zip(params.keys, entries, strict=True)
        ]
        return m.VersionedFoundKeys(results, sum(result.found for result in results))

    @operation(access="write")
    async def set(self, params: m.VersionedSet, call: Call) -> m.Stored:
        """Set a key, always or on a condition. Not idempotent: it may undo a later write."""
        item, when = self._read_item(params, call), _when(params)
        if params.if_version is UNSET:
            later = self.store.set_later(item, when, m.Stored)
            return m.Stored(await self.store.set(item, when)) if later is None else _later(later)
        if when is When.MISSING:
            raise _invalid("if_version and only_if_not_exists exclude each other")
        return m.Stored(await self.store.set_if_version(item, params.if_version))

    @operation(access="write")
    async def delete(self, params: m.VersionedKey) -> m.Deleted:
        """Delete a key, always or if it has a version."""
        key = encode_key(params.key)
        if params.if_version is UNSET:
            return m.Deleted(await self.store.delete(key))
        return m.Deleted(await self.store.delete_if_version(key, params.if_version))


class WatchOperations(Plugin, group="watch"):
    """Following a prefix: the group ``watch``."""

    store: WatchableStore

    @operation(idempotent=True, access="read")
    async def watch(
        self, params: m.Watch, call: Call
    ) -> AsyncIterator[m.Changed | Positioned[m.Changed]]:
        """Each key with the prefix that is set or deleted from now on, in order.

        A key that changes often may show less often, always with its latest value.
        """
        changes = self.store.watch(
            params.prefix.encode(),
            existing=params.existing,
            after=call.resume_after or params.after,
            keys_only=params.keys_only,
            room=call.room,
        )
        async with aclosing(changes):
            async for change in changes:
                shown = m.Changed(change.event, change.key or UNSET)
                if change.value is not None and not params.keys_only:
                    _with_value(shown, change.value, call)
                yield Positioned(shown, change.position) if change.position else shown


def encode_key(key: str) -> bytes:
    """The key's UTF-8.

    Raises:
        PluginError: INVALID_ARGUMENT, longer than ``MAX_KEY_BYTES``.
    """
    encoded = key.encode()
    if len(encoded) > m.MAX_KEY_BYTES:
        raise _invalid(f"the key has {len(encoded)} bytes; the limit is {m.MAX_KEY_BYTES}")
    return encoded


def _when(params: m.Set) -> When:
    if params.only_if_exists and params.only_if_not_exists:
        raise _invalid("only_if_exists and only_if_not_exists exclude each other")
    if params.only_if_not_exists:
        return When.MISSING
    return When.PRESENT if params.only_if_exists else When.ALWAYS


def _with_value(shown: Shown, value: Value, call: Call) -> Shown:
    shown.value, shown.encoding = value.write(call)
    return shown


def _invalid(detail: str) -> PluginError:
    return PluginError(StatusCode.INVALID_ARGUMENT, detail)
