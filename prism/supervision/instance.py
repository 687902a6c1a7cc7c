"""An instance: one running generation of a plugin, for one namespace."""

from dataclasses import dataclass, field

import trio

from prism.channels.channel import PluginChannel
from prism.contract.messages import HealthCheckResponse, OperationDeclaration, PluginMetrics


@dataclass(eq=False)
class Instance:
    """What the proxy knows of a plugin that answered Initialize with success.

    ``id`` is unique for ever: ``namespace/generation``. ``operations`` maps
    every name of ``supported_operations`` to its declaration (an empty one
    where the plugin declared nothing).
    """

    namespace: str
    generation: int
    plugin: str
    version: str
    channel: PluginChannel
    operations: dict[str, OperationDeclaration]
    health: HealthCheckResponse | None = None
    metrics: PluginMetrics | None = None
    leases: int = field(default=0, init=False)
    _no_leases: trio.Event | None = field(default=None, init=False)

    @property
    def id(self) -> str:
        """The label of this instance in logs and metrics."""
        return f"{self.namespace}/{self.generation}"

    def release(self) -> None:
        """Return one lease."""
        self.leases -= 1
        if not self.leases and self._no_leases is not None:
            self._no_leases.set()

    async def wait_no_leases(self) -> None:
        """Wait until no call holds this instance; call it once it is out of its slot."""
        while self.leases:
            self._no_leases = trio.Event()
            await self._no_leases.wait()
