"""The key-value store that the SDK's operations ask: each method is one statement, or few.

An expired row is a missing one everywhere, whether it was removed already or not; the server's
clock says what has expired.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from prism.sdk import PluginError, StatusCode, Value
from prism.sdk.keyvalue import (
    Entry,
    Item,
    Page,
    VersionedKeyValueStore,
    When,
    added,
    same_value,
)
from prism.sdk.later import Later

from .own_tables import OwnTables, integer, number
from .pipeline import Answer

T = TypeVar("T")

PAGE_BYTES = 512 * 1024
"""A page of scan ends when its values reach this; it has one item at least."""
GET_MANY_BYTES = 8 * 1024 * 1024
"""Bounds what one call makes this process hold."""
SWEEP_ROWS = 1_000
"""Expired rows removed at a time."""
TRIES = 100
"""Of a compare-and-set whose key is written all the time."""

_LIVE = "(k.expires_at IS NULL OR k.expires_at > clock_timestamp())"
_ROW = f"k.namespace = $1 AND k.key = $2 AND {_LIVE}"
_RANGE = f"k.namespace = $1 AND k.key >= $2 AND ($3::bytea IS NULL OR k.key < $3) AND {_LIVE}"
_EXPIRES = "clock_timestamp() + $5::float8 * interval '1 second'"
_INSERT = f"""INSERT INTO {{schema}}.keyvalue AS k (namespace, key, value, "binary", expires_at)
    VALUES ($1, $2, $3, $4, {_EXPIRES})
    ON CONFLICT (namespace, key) DO UPDATE SET value = excluded.value,
        "binary" = excluded."binary", version = excluded.version,
        expires_at = excluded.expires_at"""
_UPDATE = f"""UPDATE {{schema}}.keyvalue AS k SET value = $3, "binary" = $4,
    version = nextval('{{schema}}.version'), expires_at = {_EXPIRES} WHERE {_ROW}"""
_NUMBER = """CASE WHEN NOT k."binary" AND octet_length(k.value) <= 20
    AND convert_from(k.value, 'UTF8') ~ '^-?(0|[1-9][0-9]{{0,18}})$'
    THEN convert_from(k.value, 'UTF8')::numeric + $3::numeric END"""
_IN_RANGE = f"coalesce({_NUMBER} BETWEEN -9223372036854775808 AND 9223372036854775807, false)"
_ADDED = f"convert_to(({_NUMBER})::text, 'UTF8')"
_EXPIRED = "k.expires_at <= clock_timestamp()"

READING = {
    "get": f"""SELECT value, "binary", version FROM {{schema}}.keyvalue k WHERE {_ROW}""",
    "exists": f"SELECT 1 FROM {{schema}}.keyvalue k WHERE {_ROW}",
    "remaining": f"""SELECT (extract(epoch FROM k.expires_at - clock_timestamp()) * 1000)::bigint
        FROM {{schema}}.keyvalue k WHERE {_ROW}""",
}
WRITING = {
    "set": _INSERT,
    "set_missing": f"{_INSERT} WHERE {_EXPIRED}",
    "set_present": _UPDATE,
    "set_version": f"{_UPDATE} AND k.version = $6",
    "delete": f"DELETE FROM {{schema}}.keyvalue k WHERE {_ROW}",
    "delete_version": f"DELETE FROM {{schema}}.keyvalue k WHERE {_ROW} AND k.version = $3",
    "expire": f"""UPDATE {{schema}}.keyvalue k
        SET expires_at = clock_timestamp() + $3::float8 * interval '1 second' WHERE {_ROW}""",
    "persist": f"""UPDATE {{schema}}.keyvalue k SET expires_at = NULL
        WHERE {_ROW} AND k.expires_at IS NOT NULL""",
    "increment": f"""INSERT INTO {{schema}}.keyvalue AS k
            (namespace, key, value, "binary", expires_at)
        VALUES ($1, $2, $4, false, {_EXPIRES})
        ON CONFLICT (namespace, key) DO UPDATE SET
            value = CASE WHEN {_EXPIRED} THEN excluded.value ELSE {_ADDED} END,
            "binary" = false, version = excluded.version,
            expires_at = CASE WHEN {_EXPIRED} THEN excluded.expires_at ELSE k.expires_at END
        WHERE {_EXPIRED} OR {_IN_RANGE} RETURNING value""",
    "increment_present": f"""UPDATE {{schema}}.keyvalue AS k
        SET value = {_ADDED}, version = nextval('{{schema}}.version')
        WHERE {_ROW} AND {_IN_RANGE} RETURNING value""",
}
# The length of a value that is stored apart (of more than some 2 KB) is known without it, so that
# of the rows behind a page's end no more than that is read.
_SIZED = """SELECT key, value, "binary", version FROM (SELECT *,
        sum(octet_length(value)) OVER (ORDER BY key) AS total FROM ({inner}) AS page) AS sized
    WHERE total - octet_length(value) < {limit} ORDER BY key"""
_SCAN = _SIZED.format(
    inner=f"""SELECT key, value, "binary", version FROM {{schema}}.keyvalue k
        WHERE {_RANGE} ORDER BY key LIMIT $4""",
    limit=PAGE_BYTES,
)
_SCAN_KEYS = f"""SELECT key, ''::bytea, true, 0::bigint FROM {{schema}}.keyvalue k
    WHERE {_RANGE} ORDER BY key LIMIT $4"""
_GET_MANY = _SIZED.format(
    inner=f"""SELECT key, value, "binary", version FROM {{schema}}.keyvalue k
        WHERE k.namespace = $1 AND k.key = ANY ($2::bytea[]) AND {_LIVE}""",
    limit=GET_MANY_BYTES + 1,
)
_SET_MANY = f"""INSERT INTO {{schema}}.keyvalue AS k (namespace, key, value, "binary", expires_at)
    SELECT $1, key, value, "binary", clock_timestamp() + ttl * interval '1 second'
    FROM unnest($2::bytea[], $3::bytea[], $4::boolean[], $5::float8[])
        AS item (key, value, "binary", ttl) ORDER BY key
    ON CONFLICT {_INSERT.partition("ON CONFLICT")[2]}"""
_DELETE_MANY = f"""WITH doomed AS (SELECT key FROM {{schema}}.keyvalue k
        WHERE k.namespace = $1 AND k.key = ANY ($2::bytea[]) AND {_LIVE} ORDER BY key FOR UPDATE)
    DELETE FROM {{schema}}.keyvalue k USING doomed
    WHERE k.namespace = $1 AND k.key = doomed.key"""
_COUNT = f"SELECT count(*) FROM {{schema}}.keyvalue k WHERE {_RANGE}"
_SWEEP = """DELETE FROM {schema}.keyvalue WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {schema}.keyvalue WHERE namespace = $1 AND expires_at <= clock_timestamp()
    LIMIT $2 FOR UPDATE SKIP LOCKED))"""

_SET = {When.ALWAYS: "set", When.MISSING: "set_missing", When.PRESENT: "set_present"}

FORMATS = {
    "get": (0, 1), "exists": (0, 1), "remaining": (0, 1), "set": (0, 1, 1, 0, 0),
    "set_missing": (0, 1, 1, 0, 0), "set_present": (0, 1, 1, 0, 0),
    "set_version": (0, 1, 1, 0, 0, 0), "delete": (0, 1), "delete_version": (0, 1, 0),
    "expire": (0, 1, 0), "persist": (0, 1), "increment": (0, 1, 0, 1, 0),
    "increment_present": (0, 1, 0),
}  # fmt: skip
"""Of the parameters: 1 for keys and values, which are binary."""


class PostgresKeyValueStore(VersionedKeyValueStore):
    """The keys in ``tables``."""

    def __init__(
        self, tables: OwnTables, *, max_value_bytes: int, default_ttl: float | None
    ) -> None:
        self._tables = tables
        self.max_value_bytes = max_value_bytes
        self.default_ttl = default_ttl

    async def get(self, key: bytes) -> Entry | None:
        return _found(await self._tables.read("get", key))

    def get_later(self, key: bytes, make: Callable[[Entry | None], T]) -> Later[T] | None:
        return self._tables.read_later("get", key, lambda answer: make(_found(answer)))

    async def exists(self, key: bytes) -> bool:
        return bool((await self._tables.read("exists", key)).rows)

    async def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        answer = await self._tables.alone(_GET_MANY, _byteas(keys), repeatable=True)
        found = {row[0]: _entry(row[1:]) for row in answer.rows}
        size = sum(len(entry.value.data) for entry in found.values())
        if size > GET_MANY_BYTES:
            raise PluginError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"the values are larger than {GET_MANY_BYTES} bytes; ask for fewer keys",
            )
        return [found.get(key) for key in keys]

    async def set(self, item: Item, when: When) -> bool:
        answer = await self._tables.write(_SET[when], item.key, *_values(item))
        return bool(answer.affected)

    def set_later(self, item: Item, when: When, make: Callable[[bool], T]) -> Later[T] | None:
        return self._tables.write_later(
            _SET[when], item.key, _values(item), lambda answer: make(bool(answer.affected))
        )

    async def set_if_version(self, item: Item, version: str) -> bool:
        known = _version(version)
        if known is None:
            return False
        return bool(
            (await self._tables.write("set_version", item.key, *_values(item), known)).affected
        )

    async def set_many(self, items: Sequence[Item]) -> None:
        last = {item.key: item for item in items}.values()  # ON CONFLICT takes no key twice
        params = (
            _byteas([item.key for item in last]),
            _byteas([item.value.data for item in last]),
            b"{%b}" % b",".join(b"t" if item.value.binary else b"f" for item in last),
            b"{%b}" % b",".join(b"NULL" if item.ttl is None else number(item.ttl) for item in last),
        )
        await self._tables.alone(_SET_MANY, *params)

    async def delete(self, key: bytes) -> bool:
        return bool((await self._tables.write("delete", key)).affected)

    async def delete_if_version(self, key: bytes, version: str) -> bool:
        known = _version(version)
        return known is not None and bool(
            (await self._tables.write("delete_version", key, known)).affected
        )

    async def delete_many(self, keys: Sequence[bytes]) -> int:
        return (await self._tables.alone(_DELETE_MANY, _byteas(keys))).affected

    async def scan(self, prefix: bytes, cursor: str, limit: int, *, keys_only: bool) -> Page:
        params = (*_range(prefix, cursor), b"%d" % (limit + 1))
        sql = _SCAN_KEYS if keys_only else _SCAN
        answer = await self._tables.alone(sql, *params, formats=(0, 1, 1, 0), repeatable=True)
        items = [((row[0] or b"").decode(), _entry(row[1:])) for row in answer.rows[:limit]]
        if len(answer.rows) > limit:
            return Page(items, items[-1][0])
        size = sum(len(entry.value.data) for _, entry in items)
        return Page(items, items[-1][0] if size >= PAGE_BYTES else "")

    async def count(self, prefix: bytes) -> int:
        answer = await self._tables.alone(
            _COUNT, *_range(prefix, ""), formats=(0, 1, 1), repeatable=True
        )
        return integer(answer.rows[0][0])

    async def remaining(self, key: bytes) -> int | float:
        answer = await self._tables.read("remaining", key)
        if not answer.rows:
            return -2
        milliseconds = answer.rows[0][0]
        return -1 if milliseconds is None else max(0, integer(milliseconds)) / 1000

    async def expire(self, key: bytes, ttl: float) -> bool:
        return bool((await self._tables.write("expire", key, number(ttl))).affected)

    async def persist(self, key: bytes) -> bool:
        return bool((await self._tables.write("persist", key)).affected)

    async def increment(self, key: bytes, delta: int, initial: int, ttl: float | None) -> int:
        for _ in range(TRIES):
            total = initial + delta
            if -(2**63) <= total < 2**63:
                params = (b"%d" % delta, b"%d" % total, None if ttl is None else number(ttl))
                answer = await self._tables.write("increment", key, *params)
            else:
                answer = await self._tables.write("increment_present", key, b"%d" % delta)
            if answer.rows:
                return int(answer.rows[0][0] or b"")
            entry = await self.get(key)
            added(entry.value if entry else None, delta, initial)  # says why it was not done
        raise _busy(key)

    async def compare_and_set(self, item: Item, old: Value | None) -> bool:
        for _ in range(TRIES):
            entry = await self.get(item.key)
            if not same_value(entry.value if entry else None, old):
                return False
            if entry is None:
                if await self.set(item, When.MISSING):
                    return True
            elif await self.set_if_version(item, entry.version):
                return True
        raise _busy(item.key)

    async def compare_and_delete(self, key: bytes, old: Value) -> bool:
        for _ in range(TRIES):
            entry = await self.get(key)
            if entry is None or not same_value(entry.value, old):
                return False
            if await self.delete_if_version(key, entry.version):
                return True
        raise _busy(key)

    async def sweep(self) -> bool:
        """Remove some of what has expired; True when more may remain."""
        answer = await self._tables.alone(_SWEEP, b"%d" % SWEEP_ROWS)
        return answer.affected == SWEEP_ROWS


def _found(answer: Answer) -> Entry | None:
    return _entry(answer.rows[0]) if answer.rows else None


def _entry(row: Sequence[bytes | None]) -> Entry:
    value, binary, version = row
    return Entry(Value(value or b"", binary=binary == b"\1"), str(integer(version)))


def _values(item: Item) -> tuple[bytes, bytes, bytes | None]:
    ttl = None if item.ttl is None else number(item.ttl)
    return item.value.data, b"t" if item.value.binary else b"f", ttl


def _version(text: str) -> bytes | None:
    """None for a text that is no version of any key."""
    is_one = text.isascii() and text.isdigit() and len(text) < 19 and text == str(int(text))
    return text.encode() if is_one else None


def _byteas(values: Sequence[bytes]) -> bytes:
    return ("{" + ",".join(f'"\\\\x{value.hex()}"' for value in values) + "}").encode()


def _range(prefix: bytes, cursor: str) -> tuple[bytes, bytes | None]:
    """The first key with ``prefix`` after ``cursor``, and the first beyond the prefix; UTF-8 has
    no byte 255."""
    first = max(prefix, cursor.encode() + b"\0") if cursor else prefix
    end = prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else None
    return first, end


def _busy(key: bytes) -> PluginError:
    return PluginError(
        StatusCode.ABORTED, f"the key {key.decode()!r} is written all the time; try again"
    )
