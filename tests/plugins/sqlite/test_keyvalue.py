"""The key-value store against a dictionary, with a clock that is moved by hand."""

import re

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prism.sdk import PluginError, Value
from prism.sdk.keyvalue import Entry, Item
from prism_plugins.sqlite.config import SQLiteConfig
from prism_plugins.sqlite.connection import open_writer
from prism_plugins.sqlite.keyvalue import KeyValue

keys = st.sampled_from(["a", "a%", "aa", "a\0", "b", "é", "\U0001f40d", "\uffff"])
values = st.one_of(
    st.integers(-(2**64), 2**64).map(lambda n: Value(b"%d" % n, binary=False)),
    st.text(max_size=3).map(lambda text: Value(msgspec.json.encode(text), binary=False)),
    st.binary(max_size=3).map(lambda data: Value(data, binary=True)),
)
ttls = st.none() | st.sampled_from([0.001, 1, 5, 1e9])


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.connection = open_writer(SQLiteConfig(path=":memory:"))
        self.now = 1000.0
        self.store = KeyValue("me", lambda: self.now)
        self.other = KeyValue("me2", lambda: self.now)
        self.other.set(self.connection, Item(b"a", Value(b"1", binary=False), 1))
        self.model: dict[str, tuple[Value, float]] = {}

    def teardown(self) -> None:
        self.connection.close()

    def live(self, key: str) -> Value | None:
        value, expires = self.model.get(key, (None, 0))
        return value if expires > self.now else None

    def put(self, key: str, value: Value, ttl: float | None) -> None:
        self.model[key] = (value, self.now + ttl if ttl else float("inf"))

    def entry(self, key: str) -> Entry | None:
        return self.store.get(self.connection, key.encode())

    def version(self, key: str) -> int:
        """The key's version, or one that none has."""
        entry = self.entry(key)
        return 2**40 if entry is None else int(entry.version)

    @rule(key=keys, value=values, ttl=ttls)
    def set(self, key: str, value: Value, ttl: float | None) -> None:
        before = self.version(key)
        self.store.set(self.connection, Item(key.encode(), value, ttl))
        assert self.version(key) not in (before, 0)
        self.put(key, value, ttl)

    @rule(key=keys, value=values, ttl=ttls)
    def set_if_missing(self, key: str, value: Value, ttl: float | None) -> None:
        expected = self.live(key) is None
        assert (
            self.store.set_if_missing(self.connection, Item(key.encode(), value, ttl)) is expected
        )
        if expected:
            self.put(key, value, ttl)

    @rule(key=keys, value=values, ttl=ttls)
    def set_if_present(self, key: str, value: Value, ttl: float | None) -> None:
        expected = self.live(key) is not None
        assert (
            self.store.set_if_present(self.connection, Item(key.encode(), value, ttl)) is expected
        )
        if expected:
            self.put(key, value, ttl)

    @rule(key=keys)
    def get(self, key: str) -> None:
        entry = self.entry(key)
        assert (entry and entry.value) == self.live(key)

    @rule(key=keys, value=values, ttl=ttls, right=st.booleans())
    def set_if_version(self, key: str, value: Value, ttl: float | None, right: bool) -> None:
        expected = self.live(key) is not None and right
        version = self.version(key) + (0 if right else 1)
        item = Item(key.encode(), value, ttl)
        assert self.store.set_if_version(self.connection, item, version) is expected
        if expected:
            assert self.version(key) != version
            self.put(key, value, ttl)

    @rule(key=keys, right=st.booleans())
    def delete_if_version(self, key: str, right: bool) -> None:
        expected = self.live(key) is not None and right
        version = self.version(key) + (0 if right else 1)
        assert self.store.delete_if_version(self.connection, key.encode(), version) is expected
        if expected:
            del self.model[key]

    @rule(key=keys)
    def delete(self, key: str) -> None:
        expected = self.live(key) is not None
        assert self.store.delete(self.connection, key.encode()) is expected
        self.model.pop(key, None)

    @rule(key=keys, ttl=st.sampled_from([0.5, 4]))
    def expire(self, key: str, ttl: float) -> None:
        value, version = self.live(key), self.version(key)
        assert self.store.expire(self.connection, key.encode(), ttl) is (value is not None)
        assert self.version(key) == version
        if value is not None:
            self.model[key] = (value, self.now + ttl)

    @rule(key=keys)
    def persist(self, key: str) -> None:
        value = self.live(key)
        expected = value is not None and self.model[key][1] != float("inf")
        version = self.version(key)
        assert self.store.persist(self.connection, key.encode()) is expected
        assert self.version(key) == version
        if expected and value is not None:
            self.model[key] = (value, float("inf"))

    @rule(key=keys)
    def remaining(self, key: str) -> None:
        left = self.store.remaining(self.connection, key.encode())
        if self.live(key) is None:
            assert left == -2
        elif self.model[key][1] == float("inf"):
            assert left == -1
        elif self.model[key][1] - self.now < 1e9:
            assert left == pytest.approx(self.model[key][1] - self.now, abs=0.002)

    @rule(key=keys, delta=st.sampled_from([1, -7, 2**63 - 1, -(2**63)]), initial=st.just(10))
    def increment(self, key: str, delta: int, initial: int) -> None:
        value = self.live(key)
        if value is not None and (value.binary or not re.fullmatch(rb"-?\d+", value.data)):
            total = None
        else:
            total = delta + (initial if value is None else int(value.data))
        if total is None or not -(2**63) <= total < 2**63:
            with pytest.raises(PluginError):
                self.store.increment(self.connection, key.encode(), delta, initial, 3.0)
            return
        assert self.store.increment(self.connection, key.encode(), delta, initial, 3.0) == total
        new = Value(b"%d" % total, binary=False)
        if value is None:
            self.put(key, new, 3.0)
        else:
            self.model[key] = (new, self.model[key][1])

    @rule(
        prefix=st.sampled_from(["", "a", "a%", "é", "\uffff", "\U0001f40d"]),
        limit=st.integers(1, 4),
    )
    def scan(self, prefix: str, limit: int) -> None:
        expected = [
            (key, self.live(key))
            for key in sorted(self.model, key=str.encode)
            if key.startswith(prefix) and self.live(key) is not None
        ]
        assert self.store.count(self.connection, prefix.encode()) == len(expected)
        seen: list[tuple[str, Value]] = []
        more, cursor = True, ""
        while more:
            page, more = self.store.scan(
                self.connection, prefix.encode(), cursor, limit, keys_only=False
            )
            assert len(page) <= limit
            seen += [(key, entry.value) for key, entry in page]
            cursor = page[-1][0] if page else ""
        assert seen == expected

    @rule(seconds=st.sampled_from([0.125, 1, 3, 5]))  # whole milliseconds, and exact as floats
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.model)
    @rule()
    def sweep(self) -> None:
        assert self.store.sweep(self.connection) is False
        rows = self.connection.execute(
            "SELECT count(*) FROM _prism_keyvalue WHERE namespace = 'me'"
        ).fetchone()[0]
        assert rows == sum(self.live(key) is not None for key in self.model)

    @invariant()
    def the_other_namespace_is_untouched(self) -> None:
        rows = self.connection.execute(
            "SELECT key, value FROM _prism_keyvalue WHERE namespace = 'me2'"
        ).fetchall()
        assert rows == [(b"a", b"1")]


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestModel = Model.TestCase
