"""What guests may use of the world, where the configuration grants it: there is nothing else.

All of it is called from the threads that guests run in. Nothing here raises because of what a
guest says: the answer says what was wrong, since an exception cannot pass through a guest.
"""

import logging
import threading
from time import monotonic

import msgspec

from prism.hosts.wasm.http import Origin, Outgoing

MAX_KEY = 1024
"""Bytes of a key."""
ENTRY_COST = 128
"""Bytes that an entry of the table counts for beside its key and value: what Python needs."""


class Grants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``plugin.wasm.grants`` of the configuration. ``key_value_bytes`` 0: there is no table."""

    clock: bool = False
    random: bool = False
    log: bool = False
    key_value_bytes: int = 0
    http: list[Origin] = []


class KeyValues:
    """A table of bounded size, the same for all guests of this process."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._size = 0
        self._table: dict[bytes, bytes] = {}
        self._lock = threading.Lock()

    def get(self, key: bytes) -> bytes | None:
        """The value, None if there is none."""
        return self._table.get(key)

    def set(self, key: bytes, value: bytes) -> bool:
        """False where there is no room; nothing is changed then."""
        with self._lock:
            return self._set(key, value)

    def _set(self, key: bytes, value: bytes) -> bool:
        old = self._table.get(key)
        size = self._size + _cost(key, value) - (0 if old is None else _cost(key, old))
        if size > self._max or len(key) > MAX_KEY:
            return False
        self._table[key] = value
        self._size = size
        return True

    def delete(self, key: bytes) -> bool:
        """Was there one?"""
        with self._lock:
            old = self._table.pop(key, None)
            if old is not None:
                self._size -= _cost(key, old)
            return old is not None

    def increment(self, key: bytes, by: int) -> int:
        """The sum, as a signed number of 64 bits; what is not a number counts as 0, and so does
        the whole where there is no room to keep it."""
        with self._lock:
            try:
                number = int(self._table.get(key, b"0")[:20])
            except ValueError:
                number = 0
            number = (number + by + 2**63) % 2**64 - 2**63
            return number if self._set(key, b"%d" % number) else 0


def _cost(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_COST


class Services:
    """What the guests of one process share."""

    def __init__(self, grants: Grants, logger: logging.Logger) -> None:
        self.grants = grants
        self.logger = logger
        self.table = KeyValues(grants.key_value_bytes)
        self.outgoing = Outgoing(grants.http)


def needed_grant(grants: Grants, need: str) -> str | None:
    """The line of the configuration that grants ``need``, where it is not granted yet."""
    if need == "" or getattr(grants, _FIELD.get(need, need)):
        return None
    return _LINES[need]


_FIELD = {"key_value": "key_value_bytes"}
_LINES = {
    "clock": "clock: true",
    "random": "random: true",
    "log": "log: true",
    "key_value": "key_value_bytes: 1048576",
    "http": 'http: ["https://api.example.com"]',
}


def seconds_left(deadline: float) -> float:
    """Until ``deadline`` on the monotonic clock."""
    return max(0.0, deadline - monotonic())
