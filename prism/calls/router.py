"""Finds the namespace that a call is for."""

from collections.abc import Callable, Iterable

import trio

from prism.access.identity import ANONYMOUS, Identity
from prism.access.permissions import closed_namespace
from prism.calls.deadlines import Deadlines
from prism.calls.memory import Memory
from prism.calls.namespace import Namespace
from prism.calls.overload import Overload
from prism.calls.policies.record import MakeRecorder
from prism.contract.errors import Draining, UnknownNamespace
from prism.limits.store import LimitsStore
from prism.streams.tasks import TaskPool
from prism.supervision.slot import Slot


def _everybody(_: Identity) -> bool:
    return True


class Router:
    """All namespaces by name, the deadlines of their calls, and the memory that those may take.
    Run ``run``, ``overload.run`` and ``limits_store.run``. ``is_good``: would this identity be
    found again? ``audit_refusal``: why can no call be recorded? Without it none is. ``recorder``
    opens the recordings of namespaces that have one.

    Changing the table is safe at any time: calls that already run keep the
    namespace that they started with.
    """

    def __init__(
        self,
        namespaces: Iterable[Namespace] = (),
        memory: Memory | None = None,
        is_good: Callable[[Identity], bool] | None = None,
        audit_refusal: Callable[[], str] | None = None,
        overload: Overload | None = None,
        limits_store: LimitsStore | None = None,
        recorder: MakeRecorder | None = None,
    ) -> None:
        self._namespaces: dict[str, Namespace] = {}
        self.deadlines = Deadlines()
        self.memory = memory or Memory()
        self.is_good = is_good or _everybody
        self.audit_refusal = audit_refusal
        self.overload = overload or Overload()
        self.limits_store = limits_store or LimitsStore()
        self.recorder = recorder
        self._tasks: TaskPool | None = None
        self.memory.requests.reclaim = self.deadlines.end_slow_bodies
        self._changes = trio.lowlevel.ParkingLot()
        self._change = 0
        for namespace in namespaces:
            self.add(namespace)

    async def run(self) -> None:
        """Watch the deadlines of calls, and run what goes on beside them, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._tasks = TaskPool(nursery)
            try:
                await self.deadlines.run()
            finally:
                self._tasks = None

    def _task_pool(self) -> TaskPool | None:
        return self._tasks

    def add(self, namespace: Namespace) -> None:
        """Make ``namespace`` reachable, in the place of one with the same name."""
        self._namespaces[namespace.name] = namespace
        namespace.attach(
            self.deadlines,
            self.is_good,
            self.audit_refusal,
            self.overload,
            self.limits_store,
            self._task_pool,
            self.recorder,
        )
        namespace.use_memory(self.memory)
        self.use_slot(namespace, namespace.slot)

    def use_slot(self, namespace: Namespace, slot: Slot) -> None:
        """Have the calls of ``namespace`` find their plugin in ``slot`` from now on."""
        namespace.slot = slot
        slot.on_change = self.changed
        self.changed()

    def has(self, name: str) -> bool:
        """Is there a namespace of that name?"""
        return name in self._namespaces

    def remove(self, name: str, reason: str) -> None:
        """Make the namespace unreachable for new calls, and end its open streams."""
        namespace = self._namespaces.pop(name)
        namespace.end_streams(Draining(reason))
        namespace.detach()
        self.changed()

    def changed(self) -> None:
        """Something has changed that readiness depends on: a plugin, a namespace, a stop."""
        self._change += 1
        self._changes.unpark_all()

    @property
    def change(self) -> int:
        """The number of changes so far, for ``wait_changed``."""
        return self._change

    async def wait_changed(self, since: int) -> None:
        """Return once there are more changes than ``since``. Cancelling leaves nothing behind."""
        while self._change == since:
            await self._changes.park()

    def find(self, name: str) -> Namespace:
        """The namespace called ``name``.

        Raises:
            UnknownNamespace: there is none.
        """
        try:
            return self._namespaces[name]
        except KeyError:
            raise UnknownNamespace(name) from None

    def find_for(self, name: str, identity: Identity) -> Namespace:
        """The namespace called ``name``, for a call of ``identity``.

        Raises:
            UnknownNamespace: there is none.
            Forbidden: there is none that ``identity`` may use; whether it exists is not said.
        """
        namespace = self._namespaces.get(name)
        if namespace is None and identity is ANONYMOUS:
            raise UnknownNamespace(
                name, hint="GET /v1 lists the namespaces", near=list(self._namespaces)
            )
        if namespace is None:
            raise closed_namespace(identity, name)
        access = namespace.access
        if access is not None and not access.decide(identity).admits:
            raise closed_namespace(identity, name)
        return namespace

    def namespaces_for(self, identity: Identity) -> list[Namespace]:
        """The namespaces that ``identity`` may use, sorted by name."""
        return [namespace for namespace in self.namespaces() if namespace.admits(identity)]

    @property
    def is_ready(self) -> bool:
        """Whether every namespace that is required has its plugin."""
        return all(
            namespace.slot.current is not None or not namespace.config.required
            for namespace in self._namespaces.values()
        )

    def namespaces(self) -> list[Namespace]:
        """All namespaces, sorted by name."""
        return sorted(self._namespaces.values(), key=lambda namespace: namespace.name)
