"""Keys that change, as the server tells a client that is said to cache them."""

from collections.abc import Sequence
from functools import partial

import anyio

from prism.sdk import PluginError, StatusCode
from prism.sdk.background import BackgroundTask

from .transport import RedisTransport

MAX_CHANGED = 100_000
"""Keys that have changed and were not looked at yet."""
HEARTBEAT_SECONDS = 10.0
"""A connection that is silent for so long is asked whether it is there."""


class Watcher:
    """Collects the keys with a prefix that change; each once, until ``next`` gives it.

    Who reads slowly thus costs the server no memory.
    """

    def __init__(self) -> None:
        self._changed: dict[bytes, None] = {}
        self._problem: Exception | None = None
        self._something = anyio.Event()
        self._tasks: list[BackgroundTask] = []

    @classmethod
    async def start(
        cls, transports: Sequence[RedisTransport], prefix: bytes, others: anyio.Event
    ) -> "Watcher":
        """Watch from now on, until ``others`` than these servers have keys."""
        for transport in transports:
            await transport.ask(["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix])
        watcher = cls()
        for transport in transports:
            watcher._take(transport)
            read = partial(watcher._read, transport)
            watcher._tasks.append(BackgroundTask(read, "a watch of keys"))
        end = partial(watcher._end_with, others)
        watcher._tasks.append(BackgroundTask(end, "the end of a watch of keys"))
        return watcher

    async def next(self) -> list[bytes]:
        """Names of keys that have changed; waits for some.

        Raises:
            PluginError: RESOURCE_EXHAUSTED, too many have changed; ABORTED, all were removed;
                what else ended the connection.
        """
        while not self._changed:
            if self._problem is not None:
                raise self._problem
            self._something = anyio.Event()
            await self._something.wait()
        names = list(self._changed)[:100]
        for name in names:
            del self._changed[name]
        return names

    async def aclose(self) -> None:
        """Stop reading."""
        for task in self._tasks:
            await task.aclose()

    async def _end_with(self, others: anyio.Event) -> None:
        await others.wait()
        self._problem = PluginError(
            StatusCode.UNAVAILABLE,
            "the cluster's masters have changed; watch anew, with existing",
        )
        self._something.set()

    async def _read(self, transport: RedisTransport) -> None:
        try:
            while self._problem is None:
                with anyio.move_on_after(HEARTBEAT_SECONDS) as waiting:
                    await transport.read()
                if waiting.cancelled_caught:
                    with anyio.fail_after(HEARTBEAT_SECONDS):
                        await transport.ask(["PING"])
                self._take(transport)
        except (Exception, TimeoutError) as error:
            self._problem = error
        self._something.set()

    def _take(self, transport: RedisTransport) -> None:
        pushes = transport.pushes
        while pushes:
            kind, *rest = pushes.popleft()
            if kind != b"invalidate":
                continue
            if rest[0] is None:
                self._problem = PluginError(StatusCode.ABORTED, "the database was emptied")
            else:
                self._changed |= dict.fromkeys(rest[0])
        if len(self._changed) > MAX_CHANGED:
            self._problem = PluginError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"{MAX_CHANGED} changed keys wait for the client; watch anew, with existing",
            )
        if self._changed or self._problem:
            self._something.set()
