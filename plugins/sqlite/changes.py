"""The log of changed keys, from which watches read; triggers write it (see `schema`).

It names keys, not values: a reader looks the value up. So a key that changed twice before it
was read shows once, with its latest value, and the log stays small.
"""

from typing import NamedTuple

from prism.sdk import PluginError, StatusCode, Value

from .connection import Connection
from .keyvalue import PAGE_BYTES, KeyValue, key_range

MAX_CHANGES = 100_000
"""Changes kept in a file. A watch that was away for longer has to begin anew."""

TRIM_ROWS = 1_000
"""Old changes removed at a time."""

_NEWEST = "SELECT coalesce(max(sequence), 0) FROM _prism_change"
_OLDEST = "SELECT coalesce(min(sequence), 1) FROM _prism_change"
_SINCE = """SELECT max(sequence) AS last, key FROM _prism_change
    WHERE sequence > :after AND namespace = :namespace AND key >= :first AND key < :end
    GROUP BY key ORDER BY last LIMIT :limit"""
_TRIM = """DELETE FROM _prism_change WHERE sequence IN (
    SELECT sequence FROM _prism_change
    WHERE sequence <= (SELECT max(sequence) FROM _prism_change) - :kept
    ORDER BY sequence LIMIT :limit)"""


class LoggedChange(NamedTuple):
    """A key that changed; ``value`` is None where it is no more."""

    sequence: int
    key: str
    value: Value | None


def newest(connection: Connection) -> int:
    """The place after which the next change will stand."""
    row = connection.execute(_NEWEST).fetchone()
    return int(row[0])


def read_changes(
    connection: Connection, keys: KeyValue, prefix: bytes, after: int, limit: int
) -> tuple[list[LoggedChange], bool]:
    """Up to ``limit`` keys of ``keys``' namespace that changed after the place ``after``,
    fewer where their values are large, and whether there may be more.

    Raises:
        PluginError: OUT_OF_RANGE, the log does not reach back so far, or not up to there.
    """
    [oldest] = connection.execute(_OLDEST).fetchone()
    last = newest(connection)
    if not oldest - 1 <= after <= last:
        raise PluginError(
            StatusCode.OUT_OF_RANGE,
            f"the changes after position {after} are not kept (there are {oldest - 1} to {last}); "
            "watch anew, with existing: true",
        )
    first, end = key_range(prefix, "")
    found = connection.execute(
        _SINCE,
        {
            "after": after,
            "namespace": keys.namespace,
            "first": first,
            "end": end,
            "limit": limit,
        },
    ).fetchall()
    changes: list[LoggedChange] = []
    size = 0
    for sequence, key in found:
        entry = keys.get(connection, key)
        value = None if entry is None else entry.value
        changes.append(LoggedChange(sequence, key.decode(), value))
        size += 0 if value is None else len(value.data)
        if size >= PAGE_BYTES:
            break
    return changes, len(found) == limit or len(changes) < len(found)


def trim(connection: Connection) -> bool:
    """Remove some of the changes beyond ``MAX_CHANGES``; True when more may remain."""
    cursor = connection.execute(_TRIM, {"kept": MAX_CHANGES, "limit": TRIM_ROWS})
    return cursor.rowcount == TRIM_ROWS
