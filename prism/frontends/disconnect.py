"""Cancels a call when its client goes away, on servers that do not do it themselves.

Prism's own server cancels the request's task and says so in the ASGI scope. Any
other server only tells whoever waits in ``receive``, which takes a second task
for each call.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from prism.server import Message, Receive, Scope

T = TypeVar("T")

EXTENSION = "prism.cancels_on_disconnect"
"""The ASGI extension by which a server says that it cancels the task."""

CLIENT_GONE = "prism.client_gone"
"""In ``scope["state"]`` once that has happened; it also cancels when a drain's time is up."""


def server_cancels(scope: Scope) -> bool:
    """Whether the server cancels the request's task when the client goes away."""
    return EXTENSION in (scope.get("extensions") or {})


class DisconnectWatch:
    """Stands between the server and one request; use its ``receive``, not the server's."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._body_complete = trio.Event()

    async def receive(self) -> Message:
        """ASGI ``receive``."""
        message = await self._receive()
        if not message.get("more_body", False):
            self._body_complete.set()
        return message

    async def run(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """The result of ``work``, or None if the client went away and it was cancelled.

        ``work`` must not raise: an exception would come out in a group.
        """
        result: T | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_on_disconnect, nursery.cancel_scope)
            result = await work()
            nursery.cancel_scope.cancel()
        return result

    async def _cancel_on_disconnect(self, scope: trio.CancelScope) -> None:
        await self._body_complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        scope.cancel()
