"""What runs beside the calls of a plugin: tasks that outlive the one who starts them, and threads.

``start`` of a plugin returns, so what it opens in a task group would end with it. Such a task
has no parent; the code that starts it ends it, in ``stop``.
"""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import anyio
import anyio.lowlevel

log = logging.getLogger("prism.sdk")

CallSoon = Callable[..., None]
"""``call_soon(function, *args)``, from any thread; without effect once the loop has ended."""

_tasks: set["asyncio.Task[None]"] = set()
"""asyncio forgets tasks that nobody else knows."""


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


def loop_caller() -> CallSoon:
    """What runs a function in the event loop that this is called in; in the order of the calls.

    anyio's own way has the thread wait for the function, which would tie its speed to the loop's.
    """
    native: Any = anyio.lowlevel.current_token().native_token
    call = native.run_sync_soon if hasattr(native, "run_sync_soon") else native.call_soon_threadsafe

    def call_soon(function: Callable[..., object], *args: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended; trio's error is one, too
            call(function, *args)

    return call_soon


def run_beside(function: Callable[..., Awaitable[None]], *args: Any) -> anyio.CancelScope:
    """Run an async function until the scope returned is cancelled.

    For what goes on while an operation yields. A task group cannot stand around a ``yield``: its
    scope would be that of the code that iterates, between two messages.
    """
    scope = anyio.CancelScope()

    async def run() -> None:
        try:
            with scope:
                await function(*args)
        except Exception:
            log.exception("%s failed", function.__qualname__)

    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        trio.lowlevel.spawn_system_task(run)
    else:
        task = asyncio.get_running_loop().create_task(run())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
    return scope
