"""An instance: one running generation of a plugin, for one namespace."""

from dataclasses import dataclass, field

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

    @property
    def id(self) -> str:
        """The label of this instance in logs and metrics."""
        return f"{self.namespace}/{self.generation}"
