"""Tasks that outlive the call that starts them: what holds a plugin's connections.

``start`` of a plugin returns, so what it opens in a task group would end with it. Such a task
has no parent; the code that starts it ends it, in ``stop``.
"""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from contextvars import copy_context

import anyio

log = logging.getLogger("prism.sdk")


class BackgroundTask:
    """Runs ``function`` until it returns or ``aclose`` is called; what it raises is logged."""

    def __init__(self, function: Callable[[], Awaitable[None]], name: str) -> None:
        self._function = function
        self._name = name
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        trio = sys.modules.get("trio")
        if trio is not None and trio.lowlevel.in_trio_run():
            trio.lowlevel.spawn_system_task(self._run, name=name, context=copy_context())
        else:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), name=name)  # the loop holds no reference

    async def aclose(self) -> None:
        """Cancel the task, and wait for its end."""
        self._scope.cancel()
        await self.wait()

    async def wait(self) -> None:
        """Wait for its end. Cancelling the wait leaves the task."""
        await self._ended.wait()

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._function()
        except Exception:
            log.exception("the task %s failed", self._name)
        finally:
            self._ended.set()
