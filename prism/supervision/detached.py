"""Work that goes on although who asked for it has left."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import outcome
import trio

T = TypeVar("T")


async def run_detached(
    nursery: trio.Nursery, work: Callable[[], Awaitable[T]], done: Callable[[], None]
) -> T:
    """Run ``work`` in a task of ``nursery`` and wait for it; ``done`` is called when it ends.

    Cancelling stops the waiting, not the work. What the work raises is raised here, and
    only here, so that it does not end the nursery.
    """
    ended = trio.Event()
    result: list[outcome.Outcome[T]] = []

    async def run() -> None:
        try:
            result.append(await outcome.acapture(work))
        finally:
            done()
            ended.set()

    nursery.start_soon(run)
    await ended.wait()
    return result[0].unwrap()
