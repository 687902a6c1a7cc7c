"""A cache before a key-value store: what a namespace's ``cache:`` block asks for.

Look-aside: a read that the cache cannot answer asks the store, and keeps what it said. Reads of
one key at the same time ask once. Theory of operation: a read that is under way is a flight,
found by its key. A write forgets its keys, the flights too, when it begins and again when it
has ended, so that what a flight has read meanwhile is told to those who wait for it, and not
kept: who reads after a write was answered sees that write. A cancelled write may still happen
later; then, and where somebody else writes, or a key expires, what is kept is older than the
store for up to ``ttl_seconds``, and no longer.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from time import monotonic
from typing import Any, NamedTuple, TypeVar, cast

import anyio

from prism.contract.errors import PluginError
from prism.contract.messages import CacheSettings
from prism.sdk.health import Metrics
from prism.sdk.keyvalue_store import Entry, Item, KeyValueStore, When
from prism.sdk.later import Later
from prism.sdk.value import Value

CACHEABLE = frozenset({"get", "mget", "exists"})

ENTRY_BYTES = 500
"""What an entry takes in memory beside its key and its value, about."""

MOST_OF_MANY_BYTES = 4 * 1024 * 1024
"""Of the values of one mget that the cache answers: a store bounds how large they may be
together, and judges by itself where it is more."""

S = TypeVar("S", bound=KeyValueStore)
T = TypeVar("T")


def cached(store: S, settings: CacheSettings, metrics: Metrics) -> S:
    """``store`` behind a cache; what the cache has no say in, it leaves to the store."""
    return cast("S", CachedStore(store, settings, metrics))


class _Kept(NamedTuple):
    entry: Entry | None
    size: int
    until: float


class _Flight:
    """A read that is under way. Without entries or an error at its end, it was cancelled."""

    __slots__ = ("done", "entries", "error")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.entries: dict[bytes, Entry | None] = {}
        self.error: PluginError | None = None


class CachedStore:
    """A key-value store, the reads of which are kept. That a key is missing is kept as well."""

    def __init__(
        self,
        store: KeyValueStore,
        settings: CacheSettings,
        metrics: Metrics,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._store = store
        self._settings = settings
        self._operations = frozenset(settings.operations)
        self._metrics = metrics
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()  # the one used last at the end
        self._flights: dict[bytes, _Flight] = {}
        self.bytes_kept = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    # -- reads ----------------------------------------------------------------------

    async def get(self, key: bytes) -> Entry | None:
        """As the store's."""
        if "get" not in self._operations:
            return await self._store.get(key)
        kept = self._find(key)
        if kept is not None:
            self._metrics.cache_hits += 1
            return kept.entry
        while (flight := self._flights.get(key)) is not None:
            await flight.done.wait()
            if flight.error is not None:
                raise PluginError(flight.error.status, flight.error.detail)
            if flight.entries:
                self._metrics.cache_hits += 1
                return flight.entries[key]
        self._metrics.cache_misses += 1
        return await self._fetch(key)

    def get_later(self, key: bytes, make: Callable[[Entry | None], T]) -> Later[T] | None:
        """As the store's, where what is read is not kept."""
        if "get" in self._operations:
            return None
        return cast("Later[T] | None", self._inner.get_later(key, make))

    async def exists(self, key: bytes) -> bool:
        """As the store's; what it says is not kept."""
        kept = self._find(key) if "exists" in self._operations else None
        if kept is None:
            return await self._store.exists(key)
        self._metrics.cache_hits += 1
        return kept.entry is not None

    async def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """As the store's. What is kept may be of an earlier moment than the rest."""
        if "mget" not in self._operations:
            return await self._store.get_many(keys)
        found = {key: kept.entry for key in keys if (kept := self._find(key)) is not None}
        size = sum(len(entry.value.data) for entry in map(found.get, keys) if entry is not None)
        if size > MOST_OF_MANY_BYTES:
            found = {}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        self._metrics.cache_hits += len(found)
        self._metrics.cache_misses += len(missing)
        if missing:
            found |= await self._fetch_many(missing)
        return [found[key] for key in keys]

    async def _fetch(self, key: bytes) -> Entry | None:
        now = self._clock()
        with self._in_flight([key]) as flight:
            flight.entries[key] = entry = await self._store.get(key)
            self._keep(flight, now)
        return entry

    async def _fetch_many(self, keys: list[bytes]) -> dict[bytes, Entry | None]:
        now = self._clock()
        with self._in_flight(key for key in keys if key not in self._flights) as flight:
            entries = await self._store.get_many(keys)
            flight.entries.update(zip(keys, entries, strict=True))
            self._keep(flight, now)
        return flight.entries

    @contextmanager
    def _in_flight(self, keys: Iterable[bytes]) -> Iterator[_Flight]:
        flight = _Flight()
        mine = list(keys)
        self._flights.update(dict.fromkeys(mine, flight))
        try:
            yield flight
        except PluginError as error:
            flight.error = error
            raise
        finally:
            for key in mine:
                if self._flights.get(key) is flight:
                    del self._flights[key]
            flight.done.set()

    # -- writes ---------------------------------------------------------------------

    async def set(self, item: Item, when: When) -> bool:
        """As the store's."""
        async with self._writing(item.key):
            return await self._store.set(item, when)

    def set_later(self, item: Item, when: When, make: Callable[[bool], T]) -> None:
        """A task has to wait for a write, to forget its key again when it has ended."""

    async def set_if_version(self, item: Item, version: str) -> bool:
        """As the store's."""
        async with self._writing(item.key):
            return cast("bool", await self._inner.set_if_version(item, version))

    async def set_many(self, items: Sequence[Item]) -> None:
        """As the store's; written through is what is set alone."""
        async with self._writing(*(item.key for item in items), through=False):
            await self._store.set_many(items)

    async def delete(self, key: bytes) -> bool:
        """As the store's."""
        async with self._writing(key, through=False):
            return await self._store.delete(key)

    async def delete_if_version(self, key: bytes, version: str) -> bool:
        """As the store's."""
        async with self._writing(key, through=False):
            return cast("bool", await self._inner.delete_if_version(key, version))

    async def delete_many(self, keys: Sequence[bytes]) -> int:
        """As the store's."""
        async with self._writing(*keys, through=False):
            return await self._store.delete_many(keys)

    async def expire(self, key: bytes, ttl: float) -> bool:
        """As the store's."""
        async with self._writing(key, through=False):
            return await self._store.expire(key, ttl)

    async def increment(self, key: bytes, delta: int, initial: int, ttl: float | None) -> int:
        """As the store's."""
        async with self._writing(key):
            return await self._store.increment(key, delta, initial, ttl)

    async def compare_and_set(self, item: Item, old: Value | None) -> bool:
        """As the store's."""
        async with self._writing(item.key):
            return await self._store.compare_and_set(item, old)

    async def compare_and_delete(self, key: bytes, old: Value) -> bool:
        """As the store's."""
        async with self._writing(key, through=False):
            return await self._store.compare_and_delete(key, old)

    @property
    def _inner(self) -> Any:
        """The store, which has versions if it is asked for them."""
        return self._store

    @asynccontextmanager
    async def _writing(self, *keys: bytes, through: bool = True) -> AsyncIterator[None]:
        """Stands around a write of ``keys``: a condition that did not hold counts as one, so
        that who knew an old version reads the new one next."""
        self._forget(keys)
        try:
            yield
        finally:
            self._forget(keys)
        if through and self._settings.write_through:
            with suppress(PluginError):  # the write was done, and that is its answer
                for key in keys:
                    await self._fetch(key)

    # -- what is kept ---------------------------------------------------------------

    def _find(self, key: bytes) -> _Kept | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until <= self._clock():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept

    def _keep(self, flight: _Flight, now: float) -> None:
        """Keep what ``flight`` has read, but for keys that were written meanwhile."""
        until = now + self._settings.ttl_seconds
        for key, entry in flight.entries.items():
            if self._flights.get(key) is not flight:
                continue
            size = ENTRY_BYTES + len(key) + (0 if entry is None else len(entry.value.data))
            self._drop(key)
            if size > self._settings.max_bytes:
                continue
            self._kept[key] = _Kept(entry, size, until)
            self.bytes_kept += size
            while self.bytes_kept > self._settings.max_bytes:
                self._drop(next(iter(self._kept)))

    def _forget(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._flights.pop(key, None)
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.bytes_kept -= kept.size
