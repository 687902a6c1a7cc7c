"""A slot: the place that holds a namespace's current instance.

Calls take a lease on whatever instance is in the slot at that moment and keep
it until they end, so an instance is drained when its last lease is returned.
All of this is plain synchronous code: nothing here can block or be cancelled.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from prism.contract.exceptions import PluginUnavailable
from prism.supervision.instance import Instance


class Slot:
    """Where a namespace's calls find their plugin.

    ``current`` is ``None`` while there is no instance; ``absence`` then says
    why, in words fit for a client.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.current: Instance | None = None
        self.absence = "it has not started yet"

    @contextmanager
    def lease(self) -> Iterator[Instance]:
        """Hold the current instance for one call.

        Raises:
            PluginUnavailable: the slot is empty; the call has not begun.
        """
        instance = self.current
        if instance is None:
            raise PluginUnavailable(f"namespace {self.namespace!r} has no plugin: {self.absence}")
        instance.leases += 1
        try:
            yield instance
        finally:
            instance.release()

    def fill(self, instance: Instance) -> Instance | None:
        """Put ``instance`` in the slot; returns the one it replaces."""
        previous, self.current = self.current, instance
        return previous

    def clear(self, instance: Instance, absence: str) -> None:
        """Take ``instance`` out, if it is still the current one."""
        if self.current is instance:
            self.current = None
            self.absence = absence
