"""Finds the namespace that a call is for."""

from collections.abc import Iterable

from prism.calls.deadlines import Deadlines
from prism.calls.namespace import Namespace
from prism.contract.errors import Draining, UnknownNamespace


class Router:
    """All namespaces by name, and the deadlines of their calls: run ``deadlines.run``.

    Changing the table is safe at any time: calls that already run keep the
    namespace that they started with.
    """

    def __init__(self, namespaces: Iterable[Namespace] = ()) -> None:
        self._namespaces: dict[str, Namespace] = {}
        self.deadlines = Deadlines()
        for namespace in namespaces:
            self.add(namespace)

    def add(self, namespace: Namespace) -> None:
        """Make ``namespace`` reachable, in the place of one with the same name."""
        self._namespaces[namespace.name] = namespace
        namespace.deadlines = self.deadlines

    def remove(self, name: str, reason: str) -> None:
        """Make the namespace unreachable for new calls, and end its open streams."""
        namespace = self._namespaces.pop(name)
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
