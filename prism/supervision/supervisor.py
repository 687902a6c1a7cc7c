"""All keepers of one proxy: starts every namespace's plugin, and stops them together."""

from collections.abc import Iterable

import trio

from prism.supervision.keeper import Keeper
from prism.supervision.slot import Slot
from prism.supervision.spec import InstanceSpec


class Supervisor:
    """Runs one keeper per namespace."""

    def __init__(self, specs: Iterable[InstanceSpec]) -> None:
        self.slots: dict[str, Slot] = {}
        self._keepers: list[Keeper] = []
        self._stopped = trio.Event()
        for spec in specs:
            slot = Slot(spec.namespace)
            self.slots[spec.namespace] = slot
            self._keepers.append(Keeper(spec, slot))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep all plugins running until ``stop``.

        Started when every namespace has had its first attempt. One that failed
        does not keep the others, or the proxy, from serving.
        """
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as starting:
                for keeper in self._keepers:
                    starting.start_soon(nursery.start, keeper.run)
            task_status.started()
        self._stopped.set()

    def stop(self) -> None:
        """Shut all plugins down, side by side; ``run`` returns when they have ended."""
        for keeper in self._keepers:
            keeper.stop()

    async def wait_stopped(self) -> None:
        """Wait until every plugin has ended."""
        await self._stopped.wait()
