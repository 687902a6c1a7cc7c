"""Bounded feeds: what was published last can be read, and what is published from now on can be
followed. Publishing never blocks and never fails. A follower that does not keep up loses the oldest
items, and is told how many.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

T = TypeVar("T")

UNREAD = 256
"""Items that wait for one follower; what comes on top pushes the oldest out."""


@dataclass(frozen=True)
class Lost:
    """In the place of ``number`` items that a follower was too slow for."""

    number: int


class Feed(Generic[T]):
    """Keeps the last ``kept`` items, and hands each to everybody who follows."""

    def __init__(self, kept: int) -> None:
        self._recent: deque[T] = deque(maxlen=kept)
        self._followers: set[Follower[T]] = set()

    def publish(self, item: T) -> None:
        """Add ``item``. Never blocks."""
        self._recent.append(item)
        for follower in self._followers:
            follower.take(item)

    def recent(self, number: int | None = None) -> list[T]:
        """The last items, oldest first: all that are kept, or at most ``number``."""
        items = list(self._recent)
        return items if number is None else items[max(0, len(items) - number) :]

    @contextmanager
    def follow(self, *, recent: int = 0, unread: int = UNREAD) -> "Iterator[Follower[T]]":
        """Follow the feed within the block, beginning with its last ``recent`` items."""
        follower = Follower[T](unread)
        for item in self.recent(recent):
            follower.take(item)
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)


class Follower(Generic[T]):
    """What one follower has yet to read: an async iterator that does not end by itself."""

    def __init__(self, unread: int) -> None:
        self._unread: deque[T] = deque(maxlen=unread)
        self._lost = 0
        self._arrived = trio.Event()

    def take(self, item: T) -> None:
        """An item was published."""
        self._lost += len(self._unread) == self._unread.maxlen
        self._unread.append(item)
        self._arrived.set()

    def __aiter__(self) -> "AsyncIterator[T | Lost]":
        return self

    async def __anext__(self) -> T | Lost:
        """The next item, or how many were lost. Cancelling loses nothing."""
        await trio.lowlevel.checkpoint()
        if self._lost:
            lost, self._lost = self._lost, 0
            return Lost(lost)
        while not self._unread:
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self._unread.popleft()
