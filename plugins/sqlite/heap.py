"""A bound on what SQLite may hold in this process.

Compiling cannot be interrupted everywhere, and a text of 3 KB grows without bound as views and
common table expressions are put into each other. SQLite's own limit is one for the process, and
SQL can only lower it. So it is set through C, and grows with the connections: each has its cache,
and none may suffer from another's. Where Python's SQLite does not show that function there is
no bound.
"""

import _sqlite3
import ctypes
from collections.abc import Callable
from threading import Lock

BASE_BYTES = 512 * 1024 * 1024
"""For statements; of what SQLite holds, the system sees about the double."""

CONNECTION_BYTES = 4 * 1024 * 1024
"""For one connection's cache (2 MiB), its schema, and the statements that are kept."""

_lock = Lock()
_open: set[int] = set()


def _find_setter() -> Callable[[int], int] | None:
    try:
        setter = ctypes.CDLL(_sqlite3.__file__).sqlite3_hard_heap_limit64
    except (OSError, AttributeError):
        return None
    setter.argtypes = (ctypes.c_int64,)
    setter.restype = ctypes.c_int64
    found: Callable[[int], int] = setter
    return found


_set_limit = _find_setter()


def make_room(connection: object) -> None:
    """A connection is open; raises the bound."""
    with _lock:
        _open.add(id(connection))
        _apply()


def give_back(connection: object) -> None:
    """It is closed; calling this again does nothing."""
    with _lock:
        _open.discard(id(connection))
        _apply()


def _apply() -> None:
    if _set_limit is not None:
        _set_limit(BASE_BYTES + CONNECTION_BYTES * len(_open))
