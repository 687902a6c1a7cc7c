"""Finds the namespace that a call is for."""

from collections.abc import Iterable

from prism.calls.namespace import Namespace
from prism.calls.policies import build_stack
from prism.calls.request import Handler, Reply, Request
from prism.contract.errors import Draining, UnknownNamespace


class Router:
    """All namespaces by name, each with its policies.

    Changing the table is safe at any time: calls that already run keep the
    policies that they started with.
    """

    def __init__(self, namespaces: Iterable[Namespace] = ()) -> None:
        self._namespaces: dict[str, Namespace] = {}
        self._handlers: dict[str, Handler] = {}
        for namespace in namespaces:
            self.add(namespace)

    def add(self, namespace: Namespace) -> None:
        """Make ``namespace`` reachable, in the place of one with the same name."""
        self._namespaces[namespace.name] = namespace
        self._handlers[namespace.name] = build_stack(namespace)

    def remove(self, name: str, reason: str) -> None:
        """Make the namespace unreachable for new calls, and end its open streams."""
        namespace = self._namespaces.pop(name)
        del self._handlers[name]
        namespace.end_streams(Draining(reason))

    def find(self, name: str) -> Namespace:
        """The namespace called ``name``.

        Raises:
            UnknownNamespace: there is none.
        """
        try:
            return self._namespaces[name]
        except KeyError:
            raise UnknownNamespace(name) from None

    def namespaces(self) -> list[Namespace]:
        """All namespaces, sorted by name."""
        return sorted(self._namespaces.values(), key=lambda namespace: namespace.name)

    async def call(self, request: Request) -> Reply:
        """Run one call through its namespace's policies.

        Raises:
            UnknownNamespace: there is no such namespace.
            CallError: the call was refused, or failed.
        """
        try:
            handler = self._handlers[request.namespace]
        except KeyError:
            raise UnknownNamespace(request.namespace) from None
        return await handler(request)
