"""What stands behind the key-value operations: a store that a plugin implements (see `keyvalue`).

For every store: a key that has expired is a missing one, in each operation and condition,
whether the backend has removed it or not. A condition that does not hold is an answer (False),
and never an error. Keys and prefixes are taken literally, whatever characters they have. What
one method does is done at one moment, as far as others can see, unless the plugin's page says
otherwise.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Literal, NamedTuple, TypeVar

from prism.contract.errors import PluginError
from prism.contract.status import StatusCode
from prism.sdk.later import Later
from prism.sdk.value import Value

T = TypeVar("T")

PAGE = 128
"""Keys that a stream reads at a time, and has for as long as its client takes."""
PAGE_BYTES = 512 * 1024
"""Bytes of these, or of changes, beside those of one value, for which it needs room."""

Room = Callable[[int], AbstractAsyncContextManager[Callable[[Sequence[int]], None]]]
"""``Call.room``."""

_is_integer = re.compile(rb"-?(0|[1-9][0-9]{0,18})").fullmatch


class Entry(NamedTuple):
    """What a key has. ``version`` is empty where a store has none."""

    value: Value
    version: str = ""


class Item(NamedTuple):
    """What is set. ``ttl`` is in seconds, more than 0; None never expires."""

    key: bytes
    value: Value
    ttl: float | None


class Page(NamedTuple):
    """Some of what was asked for; ``cursor`` asks for what follows, empty where nothing does."""

    items: list[tuple[str, Entry]]
    cursor: str


class Change(NamedTuple):
    """One message of a watch. ``position``, where there is one, resumes after it."""

    event: Literal["set", "delete", "ready"]
    key: str = ""
    value: Value | None = None
    position: str = ""


class When(Enum):
    """The condition of a ``set``."""

    ALWAYS = "always"
    MISSING = "missing"
    PRESENT = "present"


class KeyValueStore(ABC):
    """Keys and values of one namespace, somewhere.

    Keys, and prefixes of them, are UTF-8; keys have 1 to ``MAX_KEY_BYTES`` bytes. Errors are
    ``PluginError``. Cancelled, a method leaves nothing half done; a write may have happened.
    """

    max_value_bytes: int
    default_ttl: float | None = None
    """Seconds; of keys that are set without a time to live of their own."""

    ordered = True
    """Whether ``scan`` gives keys in the order of their bytes, with the last key as cursor."""

    @abstractmethod
    async def get(self, key: bytes) -> Entry | None: ...

    async def exists(self, key: bytes) -> bool:
        return await self.get(key) is not None

    @abstractmethod
    async def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """In the order of the keys, of which some may be the same.

        Raises:
            PluginError: RESOURCE_EXHAUSTED, the values are too large together.
        """

    @abstractmethod
    async def set(self, item: Item, when: When) -> bool:
        """Set the value, and the time to live anew; False where the condition did not hold."""

    @abstractmethod
    async def set_many(self, items: Sequence[Item]) -> None:
        """All or none; of a key that comes twice, the last."""

    @abstractmethod
    async def delete(self, key: bytes) -> bool:
        """False where there was nothing."""

    @abstractmethod
    async def delete_many(self, keys: Sequence[bytes]) -> int:
        """How many keys there were; one that comes twice counts once."""

    @abstractmethod
    async def scan(self, prefix: bytes, cursor: str, limit: int, *, keys_only: bool) -> Page:
        """Up to ``limit`` keys that begin with ``prefix``, after ``cursor``; fewer, but one at
        least, where values are large. With ``keys_only`` the values are not looked at.

        Raises:
            PluginError: INVALID_ARGUMENT, the cursor is none of this store's.
        """

    @abstractmethod
    async def count(self, prefix: bytes) -> int: ...

    @abstractmethod
    async def remaining(self, key: bytes) -> int | float:
        """Seconds to live; -1 for ever, -2 no such key."""

    @abstractmethod
    async def expire(self, key: bytes, ttl: float) -> bool:
        """Give a key a time to live, which is more than 0; False where there is no such key."""

    @abstractmethod
    async def persist(self, key: bytes) -> bool:
        """Take the time to live away; False where there was none."""

    @abstractmethod
    async def increment(self, key: bytes, delta: int, initial: int, ttl: float | None) -> int:
        """Add to an integer, which keeps its time to live, and return it. A missing key counts
        as ``initial``, and gets ``ttl``. ``added`` says what is an integer, and how large.

        Raises:
            PluginError: FAILED_PRECONDITION not an integer, OUT_OF_RANGE over 64 bits.
        """

    @abstractmethod
    async def compare_and_set(self, item: Item, old: Value | None) -> bool:
        """Set where the key has ``old`` (None: where there is none), as ``same_value`` says."""

    @abstractmethod
    async def compare_and_delete(self, key: bytes, old: Value) -> bool:
        """Delete where the key has ``old``, as ``same_value`` says."""

    async def scan_all(
        self, prefix: bytes, cursor: str = "", *, keys_only: bool = False, room: Room
    ) -> AsyncGenerator[tuple[str, Entry, str], None]:
        """Every key with ``prefix`` after ``cursor``, what it has, and the cursor behind it,
        which is empty where no scan can begin. Each page of them is one moment's, and read when
        there is ``room``."""
        more = True
        while more:
            async with room(self.most_at_a_time) as tell_sizes:
                items, cursor = await self.scan(prefix, cursor, PAGE, keys_only=keys_only)
                more = bool(cursor)
                tell_sizes([len(key) + entry.value.shown_size for key, entry in items])
                items.reverse()
                while items:
                    key, entry = items.pop()
                    yield key, entry, key if self.ordered else "" if items else cursor

    @property
    def most_at_a_time(self) -> int:
        """Bytes that streams ask for room for, before they read."""
        return PAGE_BYTES + self.max_value_bytes


class VersionedKeyValueStore(KeyValueStore):
    """A store whose entries have a version: text, never empty, that is another one after each
    write of the value, and after a delete never comes back. ``expire`` and ``persist`` leave it.
    """

    def get_later(self, key: bytes, make: Callable[[Entry | None], T]) -> Later[T] | None:
        """What ``make`` makes of ``get``'s answer, for an operation to return; None where only a
        task can wait for that."""
        return None

    def set_later(self, item: Item, when: When, make: Callable[[bool], T]) -> Later[T] | None:
        """The same of ``set``."""
        return None

    @abstractmethod
    async def set_if_version(self, item: Item, version: str) -> bool:
        """Set where the key has this version; False otherwise, also where no version is so."""

    @abstractmethod
    async def delete_if_version(self, key: bytes, version: str) -> bool:
        """Delete where the key has this version; False otherwise, as above."""


class WatchableStore(ABC):
    """A store that tells of changes as they happen."""

    @abstractmethod
    def watch(
        self, prefix: bytes, *, existing: bool, after: str, keys_only: bool, room: Room
    ) -> AsyncGenerator[Change, None]:
        """The keys with ``prefix`` that are set or deleted, in order, without an end. What is large
        is best read when there is ``room``.

        With ``existing``, first those there are, and then ``ready``. With ``after``, what
        followed that position instead.

        Raises:
            PluginError: OUT_OF_RANGE, what followed is not known any more.
        """


def added(value: Value | None, delta: int, initial: int) -> int:
    """What ``increment`` makes of a value; None is a missing key.

    Raises:
        PluginError: FAILED_PRECONDITION not an integer, OUT_OF_RANGE over 64 bits.
    """
    if value is None:
        total = initial + delta
    elif value.binary or not _is_integer(value.data):
        raise PluginError(StatusCode.FAILED_PRECONDITION, "the value is not a 64-bit integer")
    else:
        total = int(value.data) + delta
    if not -(2**63) <= total < 2**63:
        raise PluginError(StatusCode.OUT_OF_RANGE, f"{total} does not fit into 64 bits")
    return total
