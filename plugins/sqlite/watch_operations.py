"""Changes of keys as they commit."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio

from prism.sdk import Call, PluginError, Positioned, StatusCode, operation

from . import params as p
from .changes import Change, newest, read_changes
from .connection import Connection
from .store import Store

READ_AT_ONCE = 100
LOOK_AGAIN_SECONDS = 1.0
"""Nobody tells of another process's commits, or that time has passed for a key."""


class WatchOperations(Store):
    """Following a prefix."""

    @operation(idempotent=True, access="read")
    async def watch(
        self, params: p.Watch, call: Call
    ) -> AsyncIterator[p.Changed | Positioned[p.Changed]]:
        """Each key with the prefix that is set or deleted from now on, in order.

        A key that changes often may show less often, always with its latest value.
        """
        after = call.resume_after or params.after
        if after:
            position = _read_position(after)
        else:
            position = await self.database.read(newest)
            if params.existing:
                async with aclosing(self.scan_all(params.prefix)) as items:
                    async for key, value in items:
                        yield _shown(Change(0, key, value), call, params)
                yield Positioned(p.Changed("ready"), str(position))
        while True:
            committed = self.database.next_commit()
            since = position

            def read(connection: Connection, since: int = since) -> tuple[int, list[Change], bool]:
                reached = newest(connection)
                found = read_changes(connection, self.keys, params.prefix, since, READ_AT_ONCE)
                return reached, *found

            reached, changes, more = await self.database.read(read)
            for change in changes:
                yield Positioned(_shown(change, call, params), str(change.sequence))
            if more:
                position = changes[-1].sequence
                continue
            position = reached
            with anyio.move_on_after(LOOK_AGAIN_SECONDS) as waiting:
                await committed.wait()
            if waiting.cancelled_caught and await self.database.read(self.keys.has_expired):
                await self.database.write(self.sweep)


def _shown(change: Change, call: Call, params: p.Watch) -> p.Changed:
    if change.value is None:
        return p.Changed("delete", change.key)
    shown = p.Changed("set", change.key)
    if not params.keys_only:
        shown.value, shown.encoding = change.value.write(call)
    return shown


def _read_position(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise PluginError(StatusCode.INVALID_ARGUMENT, f"{text[:40]!r} is no position of a watch")
    return int(text)
