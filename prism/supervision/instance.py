"""An instance: one running generation of a plugin, for one namespace."""

from dataclasses import dataclass, field

import trio

from prism.channels.channel import PluginChannel
from prism.contract.errors import Draining, PluginCrashed, PluginMisbehaved
from prism.contract.messages import HealthCheckResponse, OperationDeclaration, PluginMetrics
from prism.supervision.sample import Sample


@dataclass(eq=False)
class Instance:
    """What the proxy knows of a plugin that answered Initialize with success.

    ``id`` is unique for ever: ``namespace/generation``. ``operations`` maps
    every name of ``supported_operations`` to its declaration (an empty one
    where the plugin declared nothing). ``leaving`` is set once it takes no more
    calls. ``sample`` is there while its calls are compared with another's.

    The counters: ``opened`` leases are ``leases`` that are held, and those that were
    closed: ``finished`` (answered, an error included), ``refused`` (the call never
    began), ``cancelled`` or ``failed`` (the plugin broke under it).
    """

    namespace: str
    generation: int
    plugin: str
    version: str
    channel: PluginChannel
    operations: dict[str, OperationDeclaration]
    health: HealthCheckResponse | None = None
    metrics: PluginMetrics | None = None
    pid: int | None = None
    leaving: bool = field(default=False, init=False)
    leases: int = field(default=0, init=False)
    opened: int = field(default=0, init=False)
    finished: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)
    cancelled: int = field(default=0, init=False)
    failed: int = field(default=0, init=False)
    sample: Sample | None = field(default=None, init=False)
    _no_leases: trio.Event | None = field(default=None, init=False)

    @property
    def id(self) -> str:
        """The label of this instance in logs and metrics."""
        return f"{self.namespace}/{self.generation}"

    @property
    def takes_calls(self) -> bool:
        """May a new call be given to it?"""
        return not self.leaving and self.channel.ended is None

    @property
    def lost(self) -> int:
        """Leases that are neither held nor accounted for: not 0 is a bug."""
        closed = self.finished + self.refused + self.cancelled + self.failed
        return self.opened - closed - self.leases

    def acquire(self) -> None:
        """Begin one lease."""
        self.opened += 1
        self.leases += 1

    def release(self, error: BaseException | None = None) -> None:
        """End one lease, whose call ended with ``error``, or with an answer."""
        self.leases -= 1
        if error is None:
            self.finished += 1
        elif isinstance(error, (trio.Cancelled, Draining)):
            self.cancelled += 1
        elif isinstance(error, (PluginCrashed, PluginMisbehaved)):
            self.failed += 1
        elif getattr(error, "retryable", False):
            self.refused += 1
        else:
            self.finished += 1
        if not self.leases and self._no_leases is not None:
            self._no_leases.set()

    async def wait_no_leases(self) -> None:
        """Wait until no call holds this instance; call it once it is out of its slot."""
        while self.leases:
            self._no_leases = trio.Event()
            await self._no_leases.wait()
