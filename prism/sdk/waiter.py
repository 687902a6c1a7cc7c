"""One task that waits for one thing, on trio or asyncio."""

import asyncio
import sys
from typing import Any


class Waiter:
    """One task that waits, at the price of what its event loop has for it: an ``anyio.Event``
    for each call costs twice as much."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: Any = None

    async def wait(self) -> Any:
        """Wait for what ``wake`` brings. Once, by one task."""
        trio = sys.modules.get("trio")
        if trio is not None and trio.lowlevel.in_trio_run():
            self._task = trio.lowlevel.current_task()
            return await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._task = asyncio.get_running_loop().create_future()
        return await self._task

    def _abort(self, raise_cancel: object) -> Any:
        self._task = None
        return sys.modules["trio"].lowlevel.Abort.SUCCEEDED

    def wake(self, value: Any = None) -> None:
        """Let the task go on, with ``value``. Does nothing where none waits."""
        task, self._task = self._task, None
        if task is None:
            return
        if isinstance(task, asyncio.Future):
            if not task.done():
                task.set_result(value)
            return
        outcome = sys.modules["outcome"]
        sys.modules["trio"].lowlevel.reschedule(task, outcome.Value(value))
