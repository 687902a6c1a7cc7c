"""The key-value operations of one namespace, on a connection inside a transaction.

Nothing here waits or commits; it runs in worker threads. An expired row is a
missing one everywhere, whether it was swept already or not.
"""

import math
from collections.abc import Callable, Sequence

from prism.sdk import PluginError, StatusCode, Value
from prism.sdk.keyvalue import Entry, Item, added

from .connection import ITEM_BYTES, Connection

PAGE_BYTES = 512 * 1024
"""A page of scan ends when its keys and values reach this; it has one item at least."""

GET_MANY_BYTES = 8 * 1024 * 1024
"""Bounds what one call makes this process hold."""

SWEEP_ROWS = 100
"""Expired rows removed at a time: few enough that no write notices."""

_LIVE = "(expires_at IS NULL OR expires_at > :now)"
_ROW = f"namespace = :namespace AND key = :key AND {_LIVE}"
_RANGE = f"namespace = :namespace AND key >= :first AND key < :end AND {_LIVE}"
_INSERT = """INSERT INTO _prism_keyvalue (namespace, key, value, binary, expires_at)
    VALUES (:namespace, :key, :value, :binary, :expires_at)
    ON CONFLICT (namespace, key) DO UPDATE SET
        value = excluded.value, binary = excluded.binary, expires_at = excluded.expires_at"""
_INSERT_IF_MISSING = f"{_INSERT} WHERE _prism_keyvalue.expires_at <= :now"
_UPDATE_IF_PRESENT = f"""UPDATE _prism_keyvalue
    SET value = :value, binary = :binary, expires_at = :expires_at WHERE {_ROW}"""
_UPDATE_IF_VERSION = f"{_UPDATE_IF_PRESENT} AND version = :version"
_GET = f"SELECT value, binary, version, expires_at FROM _prism_keyvalue WHERE {_ROW}"
_DELETE = f"DELETE FROM _prism_keyvalue WHERE {_ROW}"
_DELETE_IF_VERSION = f"{_DELETE} AND version = :version"
_EXPIRE = f"UPDATE _prism_keyvalue SET expires_at = :expires_at WHERE {_ROW}"
_PERSIST = f"{_EXPIRE} AND expires_at IS NOT NULL"
_SCAN = f"""SELECT key, value, binary, version FROM _prism_keyvalue
    WHERE {_RANGE} ORDER BY key LIMIT :limit"""
_SCAN_KEYS = f"""SELECT key, x'', 0, 0 FROM _prism_keyvalue
    WHERE {_RANGE} ORDER BY key LIMIT :limit"""
_COUNT = f"SELECT count(*) FROM _prism_keyvalue WHERE {_RANGE}"
_SWEEP = """DELETE FROM _prism_keyvalue WHERE namespace = :namespace AND key IN (
    SELECT key FROM _prism_keyvalue
    WHERE namespace = :namespace AND expires_at <= :now LIMIT :limit)"""

_EXPIRED = """SELECT 1 FROM _prism_keyvalue
    WHERE namespace = :namespace AND expires_at <= :now LIMIT 1"""

_AFTER_ALL_KEYS = b"\xff"  # a byte that UTF-8 never has


class KeyValue:
    """One namespace's keys. ``clock`` gives seconds since 1970, and never less than before."""

    def __init__(self, namespace: str, clock: Callable[[], float]) -> None:
        self.namespace = namespace
        self._clock = clock

    def get(self, connection: Connection, key: bytes) -> Entry | None:
        """What a live key has."""
        row = connection.execute(_GET, self._parameters(key=key)).fetchone()
        if row is None:
            return None
        value, binary, version, _ = row
        connection.fetched_bytes += len(value) + ITEM_BYTES
        return Entry(Value(value, bool(binary)), str(version))

    def get_many(self, connection: Connection, keys: Sequence[bytes]) -> list[Entry | None]:
        """What live keys have, in the order of the keys.

        Raises:
            PluginError: RESOURCE_EXHAUSTED, together they are over ``GET_MANY_BYTES``.
        """
        entries: list[Entry | None] = []
        size = 0
        for key in keys:
            entry = self.get(connection, key)
            size += 0 if entry is None else len(entry.value.data)
            if size > GET_MANY_BYTES:
                raise PluginError(
                    StatusCode.RESOURCE_EXHAUSTED,
                    f"the values are larger than {GET_MANY_BYTES} bytes; ask for fewer keys",
                )
            entries.append(entry)
        return entries

    def set(self, connection: Connection, item: Item) -> None:
        """Set, and start the time to live anew."""
        connection.execute(_INSERT, self._row(item))

    def set_if_missing(self, connection: Connection, item: Item) -> bool:
        """Set unless the key exists."""
        return connection.execute(_INSERT_IF_MISSING, self._row(item)).rowcount == 1

    def set_if_present(self, connection: Connection, item: Item) -> bool:
        """Set if the key exists."""
        return connection.execute(_UPDATE_IF_PRESENT, self._row(item)).rowcount == 1

    def set_if_version(self, connection: Connection, item: Item, version: int) -> bool:
        """Set if the key has this version."""
        row = self._row(item) | {"version": version}
        return connection.execute(_UPDATE_IF_VERSION, row).rowcount == 1

    def delete(self, connection: Connection, key: bytes) -> bool:
        """Delete; False when there was nothing."""
        return connection.execute(_DELETE, self._parameters(key=key)).rowcount == 1

    def delete_if_version(self, connection: Connection, key: bytes, version: int) -> bool:
        """Delete the key if it has this version."""
        parameters = self._parameters(key=key, version=version)
        return connection.execute(_DELETE_IF_VERSION, parameters).rowcount == 1

    def scan(
        self, connection: Connection, prefix: bytes, cursor: str, limit: int, *, keys_only: bool
    ) -> tuple[list[tuple[str, Entry]], bool]:
        """Up to ``limit`` items after ``cursor``, and whether there are more."""
        first, end = key_range(prefix, cursor)
        parameters = self._parameters(first=first, end=end, limit=limit + 1)
        items: list[tuple[str, Entry]] = []
        size = 0
        for key, value, binary, version in connection.execute(
            _SCAN_KEYS if keys_only else _SCAN, parameters
        ):
            if len(items) == limit or (items and size + len(key) + len(value) > PAGE_BYTES):
                return items, True
            size += len(key) + len(value)
            connection.fetched_bytes += len(key) + len(value) + ITEM_BYTES
            items.append((key.decode(), Entry(Value(value, bool(binary)), str(version))))
        return items, False

    def count(self, connection: Connection, prefix: bytes) -> int:
        """How many live keys begin with ``prefix``."""
        first, end = key_range(prefix, "")
        row = connection.execute(_COUNT, self._parameters(first=first, end=end)).fetchone()
        return int(row[0])

    def remaining(self, connection: Connection, key: bytes) -> int | float:
        """Seconds to live, to the millisecond; -1 for ever, -2 no such key."""
        parameters = self._parameters(key=key)
        row = connection.execute(_GET, parameters).fetchone()
        if row is None:
            return -2
        expires_at = row[3]
        if expires_at is None:
            return -1
        milliseconds: int = expires_at - parameters["now"]
        return milliseconds / 1000

    def expire(self, connection: Connection, key: bytes, ttl: float) -> bool:
        """Give a key a new time to live. False: no such key."""
        parameters = self._parameters(key=key, expires_at=self._expires_at(ttl))
        return connection.execute(_EXPIRE, parameters).rowcount == 1

    def persist(self, connection: Connection, key: bytes) -> bool:
        """Take a key's time to live away; False when it had none."""
        parameters = self._parameters(key=key, expires_at=None)
        return connection.execute(_PERSIST, parameters).rowcount == 1

    def increment(
        self, connection: Connection, key: bytes, delta: int, initial: int, ttl: float | None
    ) -> int:
        """Add to an integer and return it; its time to live stays, a missing key gets ``ttl``.

        Raises:
            PluginError: FAILED_PRECONDITION not an integer, OUT_OF_RANGE over 64 bits.
        """
        parameters = self._parameters(key=key)
        row = connection.execute(_GET, parameters).fetchone()
        if row is None:
            total, expires_at = added(None, delta, initial), self._expires_at(ttl)
        else:
            value, binary, _, expires_at = row
            total = added(Value(value, bool(binary)), delta, initial)
        parameters |= {"value": b"%d" % total, "binary": 0, "expires_at": expires_at}
        connection.execute(_INSERT, parameters)
        return total

    def has_expired(self, connection: Connection) -> bool:
        """Whether there is something to sweep."""
        return connection.execute(_EXPIRED, self._parameters()).fetchone() is not None

    def sweep(self, connection: Connection) -> bool:
        """Remove some expired rows of this namespace; True when more may remain."""
        cursor = connection.execute(_SWEEP, self._parameters(limit=SWEEP_ROWS))
        return cursor.rowcount == SWEEP_ROWS

    def _row(self, item: Item) -> dict[str, object]:
        return self._parameters(
            key=item.key,
            value=item.value.data,
            binary=item.value.binary,
            expires_at=self._expires_at(item.ttl),
        )

    def _parameters(self, **parameters: object) -> dict[str, object]:
        return {"namespace": self.namespace, "now": int(self._clock() * 1000), **parameters}

    def _expires_at(self, ttl: float | None) -> int | None:
        return None if ttl is None else math.ceil((self._clock() + ttl) * 1000)


def key_range(prefix: bytes, cursor: str) -> tuple[bytes, bytes]:
    """The first key with ``prefix`` after ``cursor``, and the first one beyond the prefix."""
    first = max(prefix, cursor.encode() + b"\0") if cursor else prefix
    end = prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else _AFTER_ALL_KEYS
    return first, end
