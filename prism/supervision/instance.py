"""What an instance is made of, and what it is: a plugin that answered Initialize with success."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from prism.channels.channel import PluginChannel
from prism.config.types import PluginConfig, PluginForm, VerificationConfig
from prism.contract.errors import (
    CallCancelled,
    CallError,
    DeadlineExceeded,
    Draining,
    PluginCrashed,
    PluginMisbehaved,
    UnknownVersion,
)
from prism.contract.messages import (
    CacheSettings,
    HealthCheckResponse,
    OperationDeclaration,
    PluginMetrics,
)
from prism.contract.status import StatusCode
from prism.isolation.policy import IsolationPolicy
from prism.supervision.breaker import Breaker
from prism.supervision.canary import Sample

if TYPE_CHECKING:
    from prism.supervision.balance import Replica


SHADOW = ":shadow"
"""Follows the name of a namespace in the name of its shadow; no namespace's own has a colon."""


def shadow_name(namespace: str) -> str:
    """What operators call the shadow of ``namespace``."""
    return namespace + SHADOW


def instance_id(namespace: str, replica: str, generation: int) -> str:
    """The id of an instance, unique for ever; ``replica`` is empty where there is one."""
    return f"{namespace}/{replica}/{generation}" if replica else f"{namespace}/{generation}"


def no_versions(version: str) -> PluginConfig:
    """The ``at_version`` of a plugin that is not from the catalogue."""
    raise UnknownVersion(f"there is no version {version!r}: the plugin is not from the catalogue")


@dataclass(frozen=True)
class InstanceSpec:
    """A namespace's plugin, resolved: ``plugin`` is never a reference to the catalogue.

    ``credentials`` is called for each new instance, so that secrets are read as
    late as possible; it raises ``ConfigError`` where one is missing. ``at_version``
    gives the plugin in another of the catalogue's versions, or raises ``UnknownVersion``.

    Specs are equal when an instance of one could serve for the other: ``credentials``
    must therefore be a value, not just any function. ``verification`` says whose code may
    start, which is of no meaning for what runs.

    ``zone`` is the proxy's own. The spec of one of several replicas has its name in ``replica``,
    and its own ``zone``; ``address`` is dialled for the endpoint's host, where that has several.
    ``shadow_of`` is the namespace whose shadow this is: the plugin is told that name, while
    ``namespace`` is the one that operators see (``shadow_name``). ``isolation`` is what its process
    may do, where it is one that the proxy starts.
    """

    namespace: str
    backend: str
    plugin_name: str
    plugin: PluginConfig
    config_json: str
    credentials: Callable[[], Awaitable[dict[str, str]]]
    verification: VerificationConfig = field(default_factory=VerificationConfig, compare=False)
    at_version: Callable[[str], PluginConfig] = field(default=no_versions, compare=False)
    cache: CacheSettings | None = None
    shadow_of: str = ""
    zone: str = field(default="", compare=False)
    replica: str = ""
    address: str = ""
    isolation: IsolationPolicy = field(default_factory=IsolationPolicy)

    @property
    def place(self) -> str:
        """How messages name what it serves."""
        of = f"replica {self.replica} of " if self.replica else ""
        return f"{of}namespace {self.namespace}"

    @property
    def label(self) -> str:
        """How messages name the plugin."""
        return f"plugin {self.plugin_name!r}"

    @property
    def may_overlap(self) -> bool:
        """May two instances run at a time? Two processes of ours cannot listen at one path."""
        one_path = self.plugin.form is PluginForm.COMMAND and self.plugin.dial
        return self.plugin.overlap is not False and not one_path

    @property
    def dials_in(self) -> bool:
        """Does the plugin come to us, whenever it will?"""
        return self.plugin.form is PluginForm.SOCKET and not self.plugin.dial

    @property
    def needs_listener(self) -> bool:
        """Is it reached over a socket on which the proxy listens?"""
        return self.plugin.socket is not None and not self.plugin.dial


_OK = StatusCode.OK

_CANCELLED = (CallCancelled, DeadlineExceeded, Draining)
"""What calls end with that nobody waits for any more."""


@dataclass(eq=False, slots=True)
class Instance:
    """A plugin as its calls see it.

    ``id`` is unique for ever: ``namespace/generation``, or ``namespace/replica/generation`` of
    one of several. ``operations`` maps
    every name of ``supported_operations`` to its declaration (an empty one
    where the plugin declared nothing), ``groups`` are the vocabularies it declares.
    ``sample`` is there while its calls are compared with another's, ``replica`` where it is one
    of several, ``breaker`` once it was called where the namespace has circuit breakers. One that
    gets no more calls is out of its slot.

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
    groups: list[str] = field(default_factory=list)
    health: HealthCheckResponse | None = None
    metrics: PluginMetrics | None = None
    replica_name: str = ""
    id: str = field(init=False)
    leases: int = field(default=0, init=False)
    opened: int = field(default=0, init=False)
    finished: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)
    cancelled: int = field(default=0, init=False)
    failed: int = field(default=0, init=False)
    sample: Sample | None = field(default=None, init=False)
    replica: "Replica | None" = field(default=None, init=False)
    breaker: Breaker | None = field(default=None, init=False)
    _no_leases: trio.Event | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.id = instance_id(self.namespace, self.replica_name, self.generation)

    @property
    def takes_calls(self) -> bool:
        """Can it be given a call? Its channel may have broken, and its slot not know yet."""
        return self.channel.ended is None

    def is_open(self, now: float) -> bool:
        """Does its circuit breaker refuse a call that comes now?"""
        return self.breaker is not None and self.breaker.refused_for(now) is not None

    @property
    def lost(self) -> int:
        """Leases that are neither held nor accounted for: not 0 is a bug."""
        closed = self.finished + self.refused + self.cancelled + self.failed
        return self.opened - closed - self.leases

    def acquire(self) -> None:
        """Begin one lease."""
        self.opened += 1
        self.leases += 1

    def release(
        self, error: CallError | None = None, seconds: float = 0.0, status: StatusCode = _OK
    ) -> None:
        """End one lease, whose call ended with ``error``, or with an answer of ``status``, after
        ``seconds``."""
        self.leases -= 1
        if error is None:
            self.finished += 1
        elif isinstance(error, _CANCELLED):
            self.cancelled += 1
        elif isinstance(error, (PluginCrashed, PluginMisbehaved)):
            self.failed += 1
        elif error.retryable:
            self.refused += 1
        else:
            self.finished += 1
        if not self.leases and self._no_leases is not None:
            self._no_leases.set()
        if self.sample is not None:
            self.sample.take(seconds, status)
        if self.replica is not None:
            self.replica.take(seconds, status)

    async def wait_no_leases(self) -> None:
        """Wait until no call holds this instance; call it once it is out of its slot.

        Cancelling leaves nothing behind.
        """
        while self.leases:
            self._no_leases = trio.Event()
            await self._no_leases.wait()
