"""A key-value plugin: the SDK's operations on a store of one's own, here a dictionary.

What each method promises is written beside ``KeyValueStore``. Nothing here waits, so whatever a
method does, others see at one moment.
"""

from collections.abc import Sequence
from time import monotonic

from prism.sdk import Value, serve
from prism.sdk.keyvalue import (
    Entry,
    Item,
    KeyValueOperations,
    KeyValueStore,
    Page,
    When,
    added,
    same_value,
)

NEVER = float("inf")


class MemoryStore(KeyValueStore):
    max_value_bytes = 512 * 1024

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[Value, float]] = {}  # and when it expires

    def _find(self, key: bytes) -> Value | None:
        value, expires_at = self._kept.get(key, (None, NEVER))
        if expires_at > monotonic():
            return value
        del self._kept[key]
        return None

    def _live(self, prefix: bytes) -> list[bytes]:
        return sorted(key for key in list(self._kept) if key.startswith(prefix) and self._find(key))

    def _keep(self, item: Item) -> None:
        expires_at = NEVER if item.ttl is None else monotonic() + item.ttl
        self._kept[item.key] = item.value, expires_at

    async def get(self, key: bytes) -> Entry | None:
        value = self._find(key)
        return None if value is None else Entry(value)

    async def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        return [await self.get(key) for key in keys]

    async def set(self, item: Item, when: When) -> bool:
        if when is not When.ALWAYS:
            exists = self._find(item.key) is not None
            if exists is not (when is When.PRESENT):
                return False
        self._keep(item)
        return True

    async def set_many(self, items: Sequence[Item]) -> None:
        for item in items:
            self._keep(item)

    async def delete(self, key: bytes) -> bool:
        return self._find(key) is not None and self._kept.pop(key) is not None

    async def delete_many(self, keys: Sequence[bytes]) -> int:
        return sum([await self.delete(key) for key in keys])

    async def scan(self, prefix: bytes, cursor: str, limit: int, *, keys_only: bool) -> Page:
        keys = [key for key in self._live(prefix) if key > cursor.encode()]
        items = [(key.decode(), Entry(self._kept[key][0])) for key in keys[:limit]]
        return Page(items, items[-1][0] if len(keys) > limit else "")

    async def count(self, prefix: bytes) -> int:
        return len(self._live(prefix))

    async def remaining(self, key: bytes) -> int | float:
        if self._find(key) is None:
            return -2
        expires_at = self._kept[key][1]
        return -1 if expires_at == NEVER else expires_at - monotonic()

    async def expire(self, key: bytes, ttl: float) -> bool:
        value = self._find(key)
        if value is not None:
            self._keep(Item(key, value, ttl))
        return value is not None

    async def persist(self, key: bytes) -> bool:
        value = self._find(key)
        if value is None or self._kept[key][1] == NEVER:
            return False
        self._keep(Item(key, value, None))
        return True

    async def increment(self, key: bytes, delta: int, initial: int, ttl: float | None) -> int:
        found = self._find(key)
        total = Value(b"%d" % added(found, delta, initial), binary=False)
        if found is None:
            self._keep(Item(key, total, ttl))
        else:
            self._kept[key] = total, self._kept[key][1]
        return int(total.data)

    async def compare_and_set(self, item: Item, old: Value | None) -> bool:
        if not same_value(self._find(item.key), old):
            return False
        self._keep(item)
        return True

    async def compare_and_delete(self, key: bytes, old: Value) -> bool:
        return same_value(self._find(key), old) and await self.delete(key)


class Memory(KeyValueOperations):
    name = "memory"
    version = "1.0.0"
    store: MemoryStore

    async def start(self) -> None:
        self.store = MemoryStore()


if __name__ == "__main__":
    serve(Memory)
