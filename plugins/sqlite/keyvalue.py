"""The key-value operations of one namespace, on a connection inside a transaction.

Nothing here waits or commits; it runs in worker threads. An expired row is a
missing one everywhere, whether it was swept already or not.
"""

import math
import re
from collections.abc import Callable

from prism.sdk import PluginError, StatusCode, Value

from .connection import ITEM_BYTES, Connection

MAX_KEY_BYTES = 1024
MAX_TTL_SECONDS = 100 * 366 * 86_400.0
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
    SET value = :value, binary = :binary, expires_at = :expires_at WHERE {_ROW}"""  # noqa: S608
_GET = f"SELECT value, binary, expires_at FROM _prism_keyvalue WHERE {_ROW}"  # noqa: S608
_DELETE = f"DELETE FROM _prism_keyvalue WHERE {_ROW}"  # noqa: S608
_EXPIRE = f"UPDATE _prism_keyvalue SET expires_at = :expires_at WHERE {_ROW}"  # noqa: S608
_PERSIST = f"{_EXPIRE} AND expires_at IS NOT NULL"
_SCAN = f"""SELECT key, value, binary FROM _prism_keyvalue
    WHERE {_RANGE} ORDER BY key LIMIT :limit"""  # noqa: S608
_SCAN_KEYS = f"""SELECT key, x'', 0 FROM _prism_keyvalue
    WHERE {_RANGE} ORDER BY key LIMIT :limit"""  # noqa: S608
_COUNT = f"SELECT count(*) FROM _prism_keyvalue WHERE {_RANGE}"  # noqa: S608
_SWEEP = """DELETE FROM _prism_keyvalue WHERE namespace = :namespace AND key IN (
    SELECT key FROM _prism_keyvalue
    WHERE namespace = :namespace AND expires_at <= :now LIMIT :limit)"""

_EXPIRED = """SELECT 1 FROM _prism_keyvalue
    WHERE namespace = :namespace AND expires_at <= :now LIMIT 1"""

_INTEGER = re.compile(rb"-?(0|[1-9][0-9]*)\Z")
_AFTER_ALL_KEYS = b"\xff"  # a byte that UTF-8 never has


class KeyValue:
    """One namespace's keys. ``clock`` gives seconds since 1970, and never less than before."""

    def __init__(
        self, namespace: str, clock: Callable[[], float], default_ttl: float | None
    ) -> None:
        self.namespace = namespace
        self._clock = clock
        self._default_ttl = default_ttl

    def get(self, connection: Connection, key: bytes) -> Value | None:
        """The live value of a key."""
        row = connection.execute(_GET, self._parameters(key=key)).fetchone()
        if row is None:
            return None
        connection.fetched_bytes += len(row[0]) + ITEM_BYTES
        return Value(row[0], binary=bool(row[1]))

    def get_many(self, connection: Connection, keys: list[bytes]) -> list[Value | None]:
        """The live values, in the order of the keys.

        Raises:
            PluginError: RESOURCE_EXHAUSTED, together they are over ``GET_MANY_BYTES``.
        """
        values: list[Value | None] = []
        size = 0
        for key in keys:
            value = self.get(connection, key)
            size += 0 if value is None else len(value.data)
            if size > GET_MANY_BYTES:
                raise PluginError(
                    StatusCode.RESOURCE_EXHAUSTED,
                    f"the values are larger than {GET_MANY_BYTES} bytes; ask for fewer keys",
                )
            values.append(value)
        return values

    def set(self, connection: Connection, key: bytes, value: Value, ttl: float | None) -> None:
        """Set, and start the time to live anew. ``ttl`` None: the default, 0: none."""
        connection.execute(_INSERT, self._row(key, value, ttl))

    def set_if_missing(
        self, connection: Connection, key: bytes, value: Value, ttl: float | None
    ) -> bool:
        """Set unless the key exists."""
        return connection.execute(_INSERT_IF_MISSING, self._row(key, value, ttl)).rowcount == 1

    def set_if_present(
        self, connection: Connection, key: bytes, value: Value, ttl: float | None
    ) -> bool:
        """Set if the key exists."""
        return connection.execute(_UPDATE_IF_PRESENT, self._row(key, value, ttl)).rowcount == 1

    def delete(self, connection: Connection, key: bytes) -> bool:
        """Delete; False when there was nothing."""
        return connection.execute(_DELETE, self._parameters(key=key)).rowcount == 1

    def scan(
        self, connection: Connection, prefix: str, cursor: str, limit: int, *, keys_only: bool
    ) -> tuple[list[tuple[str, Value]], bool]:
        """Up to ``limit`` items after ``cursor``, and whether there are more."""
        first, end = key_range(prefix, cursor)
        parameters = self._parameters(first=first, end=end, limit=limit + 1)
        items: list[tuple[str, Value]] = []
        size = 0
        for key, value, binary in connection.execute(
            _SCAN_KEYS if keys_only else _SCAN, parameters
        ):
            if len(items) == limit or (items and size + len(key) + len(value) > PAGE_BYTES):
                return items, True
            size += len(key) + len(value)
            connection.fetched_bytes += len(key) + len(value) + ITEM_BYTES
            items.append((key.decode(), Value(value, binary=bool(binary))))
        return items, False

    def count(self, connection: Connection, prefix: str) -> int:
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
        if row[2] is None:
            return -1
        milliseconds: int = row[2] - parameters["now"]
        return milliseconds / 1000

    def expire(self, connection: Connection, key: bytes, ttl: float) -> bool:
        """Give a key a new time to live; 0 ends it now. False: no such key."""
        if ttl == 0:
            return self.delete(connection, key)
        parameters = self._parameters(key=key, expires_at=self._expires_at(ttl))
        return connection.execute(_EXPIRE, parameters).rowcount == 1

    def persist(self, connection: Connection, key: bytes) -> bool:
        """Take a key's time to live away; False when it had none."""
        parameters = self._parameters(key=key, expires_at=None)
        return connection.execute(_PERSIST, parameters).rowcount == 1

    def increment(self, connection: Connection, key: bytes, delta: int, initial: int) -> int:
        """Add to an integer and return it; its time to live stays.

        Raises:
            PluginError: FAILED_PRECONDITION not an integer, OUT_OF_RANGE over 64 bits.
        """
        parameters = self._parameters(key=key)
        row = connection.execute(_GET, parameters).fetchone()
        if row is None:
            total, expires_at = initial + delta, self._expires_at(None)
        else:
            total, expires_at = _integer(row[0], binary=bool(row[1])) + delta, row[2]
        if not -(2**63) <= total < 2**63:
            raise PluginError(StatusCode.OUT_OF_RANGE, f"{total} does not fit into 64 bits")
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

    def _row(self, key: bytes, value: Value, ttl: float | None) -> dict[str, object]:
        return self._parameters(
            key=key, value=value.data, binary=value.binary, expires_at=self._expires_at(ttl)
        )

    def _parameters(self, **parameters: object) -> dict[str, object]:
        return {"namespace": self.namespace, "now": int(self._clock() * 1000), **parameters}

    def _expires_at(self, ttl: float | None) -> int | None:
        ttl = self._default_ttl if ttl is None else ttl
        if not ttl:
            return None
        return math.ceil((self._clock() + min(ttl, MAX_TTL_SECONDS)) * 1000)


def encode_key(key: str) -> bytes:
    """The key's UTF-8.

    Raises:
        PluginError: INVALID_ARGUMENT, longer than ``MAX_KEY_BYTES``.
    """
    encoded = key.encode()
    if len(encoded) > MAX_KEY_BYTES:
        raise PluginError(
            StatusCode.INVALID_ARGUMENT,
            f"the key has {len(encoded)} bytes; the limit is {MAX_KEY_BYTES}",
        )
    return encoded


def key_range(prefix: str, cursor: str) -> tuple[bytes, bytes]:
    """The first key with ``prefix`` after ``cursor``, and the first one beyond the prefix."""
    start = prefix.encode()
    first = max(start, cursor.encode() + b"\0") if cursor else start
    end = start[:-1] + bytes([start[-1] + 1]) if start else _AFTER_ALL_KEYS
    return first, end


def _integer(data: bytes, *, binary: bool) -> int:
    if binary or len(data) > 20 or not _INTEGER.match(data):
        raise PluginError(StatusCode.FAILED_PRECONDITION, "the value is not a 64-bit integer")
    return int(data)
