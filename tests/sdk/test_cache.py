"""The cache before a key-value store; the store is a dictionary that can be held up."""

from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prism.contract.messages import CacheSettings, InitializeRequest
from prism.sdk import Metrics, Plugin, PluginError, StatusCode, Value
from prism.sdk.cache import ENTRY_BYTES, CachedStore
from prism.sdk.keyvalue import Entry, Item, VersionedKeyValueStore, When
from prism.sdk.testing import run_plugin


class Store:
    """The part of a store that is cached, and ``reads`` counted."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.reads: list[bytes] = []
        self.hold: trio.Event | None = None
        self.reading = trio.Event()
        self.error: Exception | None = None

    async def get(self, key: bytes) -> Entry | None:
        self.reads.append(key)
        found = self.values.get(key)
        self.reading.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return None if found is None else Entry(Value(found, binary=True), str(len(found)))

    async def exists(self, key: bytes) -> bool:
        return await self.get(key) is not None

    async def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        return [await self.get(key) for key in keys]

    async def set(self, item: Item, when: When) -> bool:
        self.values[item.key] = item.value.data
        return True

    async def set_if_version(self, item: Item, version: str) -> bool:
        return False

    async def set_many(self, items: Sequence[Item]) -> None:
        for item in items:
            self.values[item.key] = item.value.data

    async def delete(self, key: bytes) -> bool:
        return self.values.pop(key, None) is not None

    async def count(self, prefix: bytes) -> int:
        return len(self.values)


def item(key: bytes, value: bytes = b"v") -> Item:
    return Item(key, Value(value, binary=True), None)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


Make = Callable[..., tuple[CachedStore, Store, Metrics, Clock]]


@pytest.fixture
def make() -> Make:
    def made(**changes: object) -> tuple[CachedStore, Store, Metrics, Clock]:
        wanted = {"operations": ["get", "mget", "exists"], "ttl_seconds": 10, "max_bytes": 10_000}
        store, metrics, clock = Store(), Metrics(), Clock()
        cache = CachedStore(store, CacheSettings(**wanted | changes), metrics, clock)
        return cache, store, metrics, clock

    return made


async def value(cache: CachedStore, key: bytes) -> bytes | None:
    entry = await cache.get(key)
    return None if entry is None else entry.value.data


async def test_a_read_is_kept_until_its_time_is_over(make: Make) -> None:
    cache, store, metrics, clock = make()
    store.values[b"a"] = b"1"
    assert [await value(cache, b"a") for _ in range(3)] == [b"1"] * 3
    store.values[b"a"] = b"2"  # by somebody else
    clock.now += 9.9
    assert await value(cache, b"a") == b"1"
    clock.now += 0.1
    assert await value(cache, b"a") == b"2"
    assert store.reads == [b"a", b"a"]
    assert (metrics.cache_hits, metrics.cache_misses) == (3, 2)


async def test_that_a_key_is_missing_is_kept_and_forgotten_when_it_is_set(make: Make) -> None:
    cache, store, _, _ = make()
    assert [await cache.get(b"a") for _ in range(2)] == [None, None]
    assert store.reads == [b"a"]
    await cache.set(item(b"a", b"1"), When.ALWAYS)
    assert await value(cache, b"a") == b"1"


async def test_what_need_not_wait_for_a_task_is_kept_and_forgotten_all_the_same(make: Make) -> None:
    cache, store, _, _ = make(operations=["get"])
    assert cache.get_later(b"a", list) is None, "the cache answers, or a task asks"
    assert cache.set_later(item(b"a"), When.ALWAYS, bool) is None, "a task forgets"
    plain, store, _, _ = make(operations=["mget"])
    store.get_later = lambda key, make: make([key])  # type: ignore[attr-defined] # as those have
    assert plain.get_later(b"a", tuple) == (b"a",)
    assert plain.set_later(item(b"a"), When.ALWAYS, bool) is None


async def test_only_the_operations_that_are_named_are_kept(make: Make) -> None:
    cache, store, metrics, _ = make(operations=["mget"])
    for _ in range(2):
        await cache.get(b"a")
        await cache.exists(b"a")
        await cache.get_many([b"a"])
    assert store.reads == [b"a"] * 5
    assert (metrics.cache_hits, metrics.cache_misses) == (1, 1)
    assert await cache.count(b"") == 0


WRITES = [
    lambda cache: cache.set(item(b"a", b"new"), When.ALWAYS),
    lambda cache: cache.set_many([item(b"b"), item(b"a", b"new")]),
    lambda cache: cache.delete(b"a"),
    lambda cache: cache.set_if_version(item(b"a", b"new"), "unknown"),
]


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_forgets_its_keys(make: Make, write: Callable) -> None:
    cache, store, _, _ = make()
    store.values[b"a"] = b"old"
    await cache.get(b"a")
    await cache.get(b"other")
    await write(cache)
    expected = store.values.get(b"a")
    assert await value(cache, b"a") == expected
    assert store.reads.count(b"a") == 2
    await cache.get(b"other")
    assert store.reads.count(b"other") == 1


async def test_many_reads_of_a_key_at_a_time_ask_once(make: Make) -> None:
    cache, store, metrics, _ = make()
    store.values[b"a"] = b"1"
    store.hold = trio.Event()
    answers = []

    async def read() -> None:
        answers.append(await value(cache, b"a"))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        store.hold.set()
    assert answers == [b"1"] * 10
    assert store.reads == [b"a"]
    assert (metrics.cache_hits, metrics.cache_misses) == (9, 1)


async def test_who_waits_for_a_cancelled_read_asks_again(make: Make) -> None:
    cache, store, _, _ = make()
    store.values[b"a"] = b"1"
    store.hold = trio.Event()
    answers = []

    async def read() -> None:
        answers.append(await value(cache, b"a"))

    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def read_and_cancel() -> None:
            with first:
                await cache.get(b"a")

        nursery.start_soon(read_and_cancel)
        await store.reading.wait()
        nursery.start_soon(read)
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
        await trio.testing.wait_all_tasks_blocked()
        store.hold.set()
    assert answers == [b"1"] * 2
    assert store.reads == [b"a"] * 2


async def test_an_error_is_told_to_all_who_wait_and_not_kept(make: Make) -> None:
    cache, store, _, _ = make()
    store.hold = trio.Event()
    store.error = PluginError(StatusCode.UNAVAILABLE, "gone")
    errors = []

    async def read() -> None:
        with pytest.raises(PluginError) as raised:
            await cache.get(b"a")
        errors.append(raised.value)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        store.hold.set()
    assert [error.status for error in errors] == [StatusCode.UNAVAILABLE] * 3
    assert store.reads == [b"a"]
    store.error = None
    assert await cache.get(b"a") is None


@pytest.mark.parametrize("many", [False, True])
async def test_a_read_during_which_a_key_was_written_is_not_kept(make: Make, many: bool) -> None:
    cache, store, _, _ = make()
    store.values[b"a"] = b"old"
    store.hold = trio.Event()
    answers = []

    async def read() -> None:
        if many:
            answers.extend(await cache.get_many([b"a"]))
        else:
            answers.append(await cache.get(b"a"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await store.reading.wait()
        await cache.set(item(b"a", b"new"), When.ALWAYS)
        nursery.start_soon(read)  # after the write: not with the one before
        await trio.testing.wait_all_tasks_blocked()
        store.hold.set()
    assert sorted(answer.value.data for answer in answers) == [b"new", b"old"]
    assert await value(cache, b"a") == b"new"
    assert store.reads == [b"a"] * 2


async def test_mget_asks_for_what_is_not_kept(make: Make) -> None:
    cache, store, metrics, _ = make()
    store.values |= {b"a": b"1", b"b": b"2"}
    await cache.get(b"a")
    found = await cache.get_many([b"b", b"a", b"x", b"b"])
    assert [entry and entry.value.data for entry in found] == [b"2", b"1", None, b"2"]
    assert store.reads == [b"a", b"b", b"x"]
    assert (metrics.cache_hits, metrics.cache_misses) == (1, 3)
    assert await cache.get_many([b"b", b"x"]) == [found[0], None]
    assert store.reads == [b"a", b"b", b"x"]
    assert await cache.exists(b"b")
    assert not await cache.exists(b"x")
    assert len(store.reads) == 3


async def test_large_answers_of_mget_are_the_stores_to_judge(make: Make) -> None:
    cache, store, _, _ = make(max_bytes=100_000_000)
    store.values[b"a"] = bytes(1024 * 1024)
    await cache.get_many([b"a"] * 4)
    assert store.reads == [b"a"]
    await cache.get_many([b"a"] * 4)
    assert store.reads == [b"a"]
    await cache.get_many([b"a"] * 5)
    assert store.reads == [b"a", b"a"]


async def test_the_least_used_go_when_there_is_no_room(make: Make) -> None:
    size = ENTRY_BYTES + 1 + 100
    cache, store, _, _ = make(max_bytes=3 * size)
    store.values |= {key: bytes(100) for key in (b"a", b"b", b"c", b"d")}
    store.values[b"L"] = bytes(3 * size)
    for key in (b"a", b"b", b"c", b"a", b"d"):
        await cache.get(key)
    assert cache.bytes_kept == 3 * size
    store.reads.clear()
    for key in (b"a", b"c", b"d", b"b"):
        await cache.get(key)
    assert store.reads == [b"b"]
    await cache.get(b"L")
    await cache.get(b"L")
    assert store.reads == [b"b", b"L", b"L"]
    assert cache.bytes_kept == 3 * size


async def test_what_is_written_through_is_read_from_the_cache(make: Make) -> None:
    cache, store, metrics, _ = make(write_through=True)
    await cache.set(item(b"a", b"new"), When.ALWAYS)
    assert store.reads == [b"a"]
    assert await value(cache, b"a") == b"new"
    assert (metrics.cache_hits, metrics.cache_misses) == (1, 0)
    assert store.reads == [b"a"]
    store.error = PluginError(StatusCode.UNAVAILABLE, "cannot be read back")
    assert await cache.set(item(b"a", b"newer"), When.ALWAYS)
    store.error = None
    assert await value(cache, b"a") == b"newer"


class Model(RuleBasedStateMachine):
    """Whatever is read and written, the cache says what the store says, within its room."""

    keys = st.sampled_from([b"a", b"b", b"c"])

    def __init__(self) -> None:
        super().__init__()
        self.store, self.clock = Store(), Clock()
        wanted = CacheSettings(
            operations=["get", "mget", "exists"], ttl_seconds=5, max_bytes=2 * ENTRY_BYTES + 60
        )
        self.cache = CachedStore(self.store, wanted, Metrics(), self.clock)

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        assert trio.run(value, self.cache, key) == self.store.values.get(key)

    @rule(keys=st.lists(keys, max_size=4))
    def get_many(self, keys: list[bytes]) -> None:
        found = trio.run(self.cache.get_many, keys)
        expected = [self.store.values.get(key) for key in keys]
        assert [entry and entry.value.data for entry in found] == expected

    @rule(key=keys)
    def exists(self, key: bytes) -> None:
        assert trio.run(self.cache.exists, key) is (key in self.store.values)

    @rule(key=keys, data=st.binary(max_size=80))
    def set(self, key: bytes, data: bytes) -> None:
        trio.run(self.cache.set, item(key, data), When.ALWAYS)

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        trio.run(self.cache.delete, key)

    @rule(seconds=st.sampled_from([1, 4]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def it_keeps_within_its_room(self) -> None:
        sizes = [kept.size for kept in self.cache._kept.values()]
        assert self.cache.bytes_kept == sum(sizes) <= 2 * ENTRY_BYTES + 60
        assert not self.cache._flights


Model.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestModel = Model.TestCase


async def test_every_write_of_a_store_passes_through_the_cache() -> None:
    """What is added to the interface has to be cached, or to be named here."""
    left_to_the_store = {"scan", "count", "remaining", "persist", "scan_all"}
    own = set(vars(CachedStore))
    store = VersionedKeyValueStore
    methods = {name for name in dir(store) if callable(getattr(store, name))}
    methods = {name for name in methods if not name.startswith("_")}
    assert methods - own == left_to_the_store


async def test_a_plugin_refuses_what_it_cannot_keep() -> None:
    class Plain(Plugin):
        started = False

        async def start(self) -> None:
            self.started = True

    plain = Plain()
    answer = await plain.initialize(InitializeRequest(cache=CacheSettings(operations=["get"])))
    assert not answer.success
    assert answer.error_code == StatusCode.INVALID_ARGUMENT
    assert answer.error == (
        "cache.operations: plugin 'plain' cannot keep results of 'get'; it can of: none"
    )
    assert not plain.started
    async with run_plugin(Plain) as running:
        assert running.plugin.started
