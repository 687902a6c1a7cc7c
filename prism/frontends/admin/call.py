"""One request to the admin port, and what it is about: the proxy under administration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import trio

from prism.calls.namespace import Namespace
from prism.calls.router import Router
from prism.contract.errors import UnknownNamespace
from prism.control.live_config import LiveConfig
from prism.frontends.admin.messages import Restarted
from prism.frontends.answering import ExchangeCall
from prism.observability.metrics import Metrics
from prism.supervision.instance import SHADOW
from prism.supervision.supervisor import Supervisor


class Restarting(Protocol):
    """A rolling restart that was begun."""

    async def wait_over(self) -> Restarted:
        """How it went, when it has. Cancelling stops the waiting alone."""


@dataclass
class Administered:
    """The proxy, as its admin port sees it. ``stop`` begins the graceful stop.

    ``restart`` begins a rolling restart, or raises a CallError; ``None`` where there is none.
    """

    router: Router
    supervisor: Supervisor
    metrics: Metrics
    config: LiveConfig
    stop: Callable[[], None]
    restart: Callable[[], Restarting] | None = None
    draining: bool = False


class AdminCall(NamedTuple):
    """A request that was admitted and understood.

    ``values`` are those of the path's places, ``query`` and ``body`` of the route's types.
    ``may_read`` says whether reads are open to who asks, now. ``stopping`` is set when the port
    closes.
    """

    proxy: Administered
    request: ExchangeCall
    headers: Mapping[bytes, bytes]
    values: Mapping[str, str]
    query: Any
    body: Any
    may_read: Callable[[], bool]
    stopping: trio.Event

    @property
    def namespace(self) -> Namespace:
        """The one in the path. Raises UnknownNamespace, which says what there is."""
        return self.find(self.values["namespace"])

    @property
    def plugin(self) -> str:
        """Of the plugin in the path, the supervisor's name. Raises UnknownNamespace."""
        return self.find_plugin(self.values["namespace"])

    def find_plugin(self, name: str) -> str:
        """The supervisor's name of a namespace's plugin, or of its shadow's (``NAME:shadow``).
        Raises UnknownNamespace, which says what there is."""
        namespace = self.find(name.removesuffix(SHADOW))
        if name.endswith(SHADOW) and namespace.config.shadow is None:
            raise UnknownNamespace(name, [namespace.name])
        return name

    def find(self, name: str) -> Namespace:
        """A namespace by name. Raises UnknownNamespace, which says what there is."""
        try:
            return self.proxy.router.find(name)
        except UnknownNamespace:
            known = [namespace.name for namespace in self.proxy.router.namespaces()]
            raise UnknownNamespace(name, known) from None
