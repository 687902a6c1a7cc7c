"""The key-value operations."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from msgspec import UNSET

from prism.sdk import Call, PluginError, Positioned, StatusCode, Value, operation

from . import params as p
from .connection import Connection
from .json_equality import equal
from .keyvalue import encode_key
from .store import Store


class KeyValueOperations(Store):
    """Keys and values."""

    @operation(idempotent=True, access="read")
    async def get(self, params: p.Key, call: Call) -> p.Found:
        """Read one key."""
        key = encode_key(params.key)
        value = await self.database.read(lambda connection: self.keys.get(connection, key))
        if value is None:
            return p.Found(found=False)
        raw, encoding = value.write(call)
        return p.Found(found=True, value=raw, encoding=encoding)

    @operation(idempotent=True, access="read")
    async def exists(self, params: p.Key) -> dict[str, bool]:
        """Whether a key exists."""
        key = encode_key(params.key)
        value = await self.database.read(lambda connection: self.keys.get(connection, key))
        return {"exists": value is not None}

    @operation(idempotent=True, access="read")
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

    @operation(access="write")
    async def set(self, params: p.Set, call: Call) -> dict[str, bool]:
        """Set a key, always or on a condition. Not idempotent: it may undo a later write."""
        if params.only_if_exists and params.only_if_not_exists:
            raise PluginError(
                StatusCode.INVALID_ARGUMENT,
                "only_if_exists and only_if_not_exists exclude each other",
            )
        key, value, ttl = self.read_item(params, call)

        def work(connection: Connection) -> bool:
            if params.only_if_not_exists:
                return self.keys.set_if_missing(connection, key, value, ttl)
            if params.only_if_exists:
                return self.keys.set_if_present(connection, key, value, ttl)
            self.keys.set(connection, key, value, ttl)
            return True

        return {"stored": await self.database.write(work)}

    @operation(access="write")
    async def mset(self, params: p.SetMany, call: Call) -> dict[str, int]:
        """Set several keys, all or none."""
        items = [self.read_item(item, call) for item in params.items]

        def work(connection: Connection) -> int:
            for item in items:
                self.keys.set(connection, *item)
            return len(items)

        return {"stored": await self.database.write(work)}

    @operation(access="write")
    async def delete(self, params: p.Key) -> dict[str, bool]:
        """Delete a key."""
        key = encode_key(params.key)
        work = lambda connection: self.keys.delete(connection, key)  # noqa: E731
        return {"deleted": await self.database.write(work)}

    @operation(access="write")
    async def mdelete(self, params: p.Keys) -> dict[str, int]:
        """Delete several keys at the same moment; says how many there were."""
        keys = [encode_key(key) for key in params.keys]
        work = lambda connection: sum(self.keys.delete(connection, key) for key in keys)  # noqa: E731
        return {"deleted": await self.database.write(work)}

    @operation(idempotent=True, access="read")
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

    @operation(name="scan", idempotent=True, access="read")
    async def scan_stream(
        self, params: p.ScanAll, call: Call
    ) -> AsyncIterator[Positioned[p.ScanItem]]:
        """All keys that begin with a prefix; each page of them is one moment's."""
        after = call.resume_after or params.cursor
        items = self.scan_all(params.prefix, after, keys_only=params.keys_only)
        async with aclosing(items):
            async for key, value in items:
                shown = p.ScanItem(key)
                if not params.keys_only:
                    shown.value, shown.encoding = value.write(call)
                yield Positioned(shown, key)

    @operation(idempotent=True, access="read")
    async def count(self, params: p.Prefix) -> dict[str, int]:
        """Count the keys that begin with a prefix."""
        number = await self.database.read_long(
            lambda connection: self.keys.count(connection, params.prefix)
        )
        return {"count": number}

    @operation(idempotent=True, access="read")
    async def ttl(self, params: p.Key) -> dict[str, bool | int | float]:
        """Seconds that a key has to live; -1 for ever, -2 no such key."""
        key = encode_key(params.key)
        left = await self.database.read(lambda connection: self.keys.remaining(connection, key))
        return {"found": left != -2, "ttl_seconds": left}

    @operation(access="write")
    async def expire(self, params: p.Expire) -> dict[str, bool]:
        """Give a key a new time to live, counted from now; 0 ends it."""
        key = encode_key(params.key)
        existed = await self.database.write(
            lambda connection: self.keys.expire(connection, key, params.ttl_seconds)
        )
        return {"key_existed": existed}

    @operation(access="write")
    async def persist(self, params: p.Key) -> dict[str, bool]:
        """Take a key's time to live away."""
        key = encode_key(params.key)
        removed = await self.database.write(lambda connection: self.keys.persist(connection, key))
        return {"expiration_removed": removed}

    @operation(access="write")
    async def increment(self, params: p.Increment) -> dict[str, int]:
        """Add to an integer; a missing key counts as ``initial``."""
        key = encode_key(params.key)
        value = await self.database.write(
            lambda connection: self.keys.increment(connection, key, params.delta, params.initial)
        )
        return {"value": value}

    @operation(access="write")
    async def compare_and_swap(self, params: p.CompareAndSwap, call: Call) -> dict[str, bool]:
        """Set a key if it has the old value; JSON is compared by what it says."""
        item = p.Item(params.key, params.new_value, params.encoding, params.ttl_seconds)
        key, new, ttl = self.read_item(item, call)
        old = None
        if params.old_value is not UNSET:
            old = Value.read(params.old_value, params.encoding, call)

        def work(connection: Connection) -> bool:
            if not _same(self.keys.get(connection, key), old):
                return False
            self.keys.set(connection, key, new, ttl)
            return True

        return {"swapped": await self.database.write(work)}

    @operation(access="write")
    async def compare_and_delete(self, params: p.CompareAndDelete, call: Call) -> dict[str, bool]:
        """Delete a key if it has the old value; JSON is compared by what it says."""
        key = encode_key(params.key)
        old = Value.read(params.old_value, params.encoding, call)

        def work(connection: Connection) -> bool:
            return _same(self.keys.get(connection, key), old) and self.keys.delete(connection, key)

        return {"deleted": await self.database.write(work)}


def _same(one: Value | None, other: Value | None) -> bool:
    if one is None or other is None or one.binary or other.binary:
        return one == other
    return equal(one.data, other.data)
