"""All plugins of one proxy, and what an operator may do with them.

This is the API that the admin port, the command line and configuration reloads
stand on:

==================================  ==================================================
``status()``, ``status_of(ns)``     what is, as frozen Structs (``status``)
``events``                          what happens: a bounded feed, ``events.follow()``
``logs(ns)``                        what a plugin wrote: a bounded feed, likewise
``await reload(ns, version, canary)``  replace the instance; returns a ``Receipt``
``await abort(ns)``                 roll that back, up to the swap; the ``Receipt``
``await restart(ns)``               end it, then start it; returns a ``Receipt``
``await drain(ns)``                 end it after its calls, start none; a ``Receipt``
``reset(ns)``                       try again now, though it failed too often
``plan(specs)``                     what ``apply`` would do with each namespace
``await apply(specs, commit)``      namespaces added, changed, removed as one change
==================================  ==================================================

Everything here raises ``CallError``s that front ends know how to tell:
``UnknownNamespace`` 404, ``UnknownVersion`` 404, ``OperationInProgress`` 409,
``InvalidRequest`` 400, ``Draining`` 503. A reload that fails is not an exception: its
receipt says ``rolled_back``, or ``failed`` where none serves, and why. Cancelling the wait for
a reload does not cancel the reload.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import trio

from prism.contract.errors import Draining, InvalidRequest, OperationInProgress, UnknownNamespace
from prism.secrets import Secrets
from prism.supervision.apply import Applied, Change, Commit, Transaction, plan
from prism.supervision.canary import Canary
from prism.supervision.events import EventFeed, Journal, LogLine
from prism.supervision.feeds import Feed
from prism.supervision.frame_traces import FrameTraces
from prism.supervision.instance import InstanceSpec
from prism.supervision.keeper import STOPPING, Keeper, run_detached
from prism.supervision.orphans import reap_orphans
from prism.supervision.replacement import Replacement
from prism.supervision.replicas import AnyKeeper, Replicas
from prism.supervision.roll import Roll, replacement_for
from prism.supervision.rotation import Rotation
from prism.supervision.slot import Slot
from prism.supervision.status import NamespaceStatus, Receipt, status_of


@dataclass
class _Reload:
    """One that can be stopped: ``over`` is set when it has ended, with ``receipt`` or without."""

    replacement: Replacement | Roll
    receipt: Receipt | None = None
    over: trio.Event = field(default_factory=trio.Event)


class Supervisor:
    """Runs what keeps each namespace's plugin. Those whose ``secrets`` change are reloaded."""

    def __init__(self, specs: Iterable[InstanceSpec] = (), secrets: Secrets | None = None) -> None:
        self.events = EventFeed()
        self._keepers: dict[str, AnyKeeper] = {}
        self._rotation = Rotation(self._keepers, secrets) if secrets is not None else None
        self._nursery: trio.Nursery | None = None
        self._stop = trio.Event()
        self._stopped = trio.Event()
        self._transaction: Transaction | None = None
        self._reloads: dict[str, _Reload] = {}
        for spec in specs:
            self._keepers[spec.namespace] = self._make_keeper(spec)

    def _make_keeper(self, spec: InstanceSpec, journal: Journal | None = None) -> AnyKeeper:
        journal = journal or Journal(spec.namespace, self.events)
        if spec.plugin.has_replicas:
            return Replicas(spec, journal)
        return Keeper(spec, Slot(spec.namespace, journal), journal)

    # -- life -----------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep all plugins running until ``stop``.

        Started when every namespace has had its first attempt. One that failed
        does not keep the others, or the proxy, from serving. Cancelling ends all plugins.
        """
        try:
            async with trio.open_nursery() as beside:
                beside.start_soon(reap_orphans)
                async with trio.open_nursery() as self._nursery:
                    async with trio.open_nursery() as starting:
                        for keeper in self._keepers.values():
                            if keeper.spec.shadow_of:  # nothing waits for it
                                self._nursery.start_soon(keeper.run)
                            else:
                                starting.start_soon(self._nursery.start, keeper.run)
                    if self._rotation is not None:
                        beside.start_soon(self._rotation.run)
                    task_status.started()
                    await self._stop.wait()
                beside.cancel_scope.cancel()
        finally:
            self._nursery = None
            self._stopped.set()

    def stop(self) -> None:
        """Shut all plugins down, side by side; ``run`` returns when they have ended."""
        self._stop.set()
        if self._transaction is not None:
            self._transaction.stop()
        for keeper in self._keepers.values():
            keeper.stop()

    async def wait_stopped(self) -> None:
        """Wait until every plugin has ended."""
        await self._stopped.wait()

    # -- what is --------------------------------------------------------------

    @property
    def slots(self) -> Mapping[str, Slot]:
        """Where each namespace's calls find their plugin."""
        return {name: keeper.slot for name, keeper in self._keepers.items()}

    @property
    def specs(self) -> Mapping[str, InstanceSpec]:
        """What each namespace's instance is made of now: a reload may have chosen a version."""
        return {name: keeper.spec for name, keeper in self._keepers.items()}

    @property
    def journals(self) -> Mapping[str, Journal]:
        """What is counted and kept of each namespace's plugin, for metrics."""
        return {name: keeper.journal for name, keeper in self._keepers.items()}

    def _find(self, namespace: str) -> AnyKeeper:
        try:
            return self._keepers[namespace]
        except KeyError:
            raise UnknownNamespace(namespace) from None

    def status(self) -> list[NamespaceStatus]:
        """All namespaces, sorted by name."""
        return [self._status(keeper) for _, keeper in sorted(self._keepers.items())]

    def status_of(self, namespace: str) -> NamespaceStatus:
        """One namespace. Raises UnknownNamespace."""
        return self._status(self._find(namespace))

    def _status(self, keeper: AnyKeeper) -> NamespaceStatus:
        reload = self._reloads.get(keeper.spec.namespace)
        return status_of(keeper, reload.replacement.trial if reload is not None else None)

    def logs(self, namespace: str) -> Feed[LogLine]:
        """The last lines of the namespace's plugin, and those to come. Raises UnknownNamespace.

        Lines of standard output and error of a plugin that the proxy started, and the log
        records that any plugin on the SDK sends. They outlive the instance.
        """
        return self._find(namespace).journal.lines

    def frames(self, namespace: str) -> FrameTraces:
        """The frames of the namespace's plugin, to be watched. Raises UnknownNamespace.

        Raises:
            InvalidRequest: the plugin is reached without frames.
        """
        keeper = self._find(namespace)
        plugin = keeper.spec.plugin
        if plugin.shares_process or plugin.type == "grpc":
            how = (
                "is called over gRPC" if plugin.type == "grpc" else "is in the proxy's own process"
            )
            raise InvalidRequest(
                f"{keeper.spec.label} {how}, so there are no frames to see; its calls are in the "
                "access log"
            )
        return keeper.journal.frames

    # -- what can be done -----------------------------------------------------

    async def reload(
        self, namespace: str, version: str | None = None, canary: Canary | None = None
    ) -> Receipt:
        """Replace the instance: by another ``version``, or by the same one anew.

        ``canary`` tries the new one on a share of the calls first. Returns when the old
        instance has ended, or the change was rolled back.

        Raises:
            UnknownNamespace, UnknownVersion, OperationInProgress, Draining
            InvalidRequest: a canary for a plugin that must not overlap.
        """
        keeper = self._find(namespace)
        spec = keeper.spec
        if version is not None:
            spec = replace(spec, plugin=spec.at_version(version))
        if spec.plugin.has_replicas != keeper.spec.plugin.has_replicas:
            raise InvalidRequest(
                f"version {version} has {'several replicas' if spec.plugin.has_replicas else 'one'}"
                ", what runs has not: change it in the configuration"
            )
        overlap = spec.may_overlap and keeper.spec.may_overlap
        if canary is not None and not overlap:
            raise InvalidRequest(
                f"{spec.label} must not run twice at a time (overlap: false), "
                "so it cannot be tried on a part of the calls"
            )

        async def work() -> Receipt:
            replacement = replacement_for(keeper, spec)
            if not overlap:
                return await replacement.restart()
            reload = self._reloads[namespace] = _Reload(replacement)
            try:
                reload.receipt = await replacement.reload(canary)
            finally:
                del self._reloads[namespace]
                reload.over.set()
            return reload.receipt

        return await keeper.perform("canary" if canary else "reload", work)

    async def abort(self, namespace: str) -> Receipt:
        """Roll back the reload that is under way; returns its receipt when that is done.

        Cancelling stops the waiting alone.

        Raises:
            UnknownNamespace
            InvalidRequest: there is none that could be: none at all, or the new instance has
                taken over already, or the two cannot overlap, so that the old one has ended.
            Draining: the proxy stopped meanwhile.
        """
        keeper = self._find(namespace)
        reload = self._reloads.get(namespace)
        if reload is None:
            raise InvalidRequest(
                f"no reload of namespace {namespace!r} is under way that could be stopped"
                f"{f': what runs is a {keeper.operation}' if keeper.operation else ''}"
            )
        if not reload.replacement.abort():
            raise InvalidRequest(
                f"the reload of namespace {namespace!r} cannot be stopped any more: the new "
                "instance has taken over, or is being ended"
            )
        await reload.over.wait()
        if reload.receipt is None:
            raise Draining(STOPPING)
        return reload.receipt

    async def restart(self, namespace: str) -> Receipt:
        """End the instance, then start one of the same version; calls are held meanwhile.

        Also the way out of FAILED and of a drain.

        Raises:
            UnknownNamespace, OperationInProgress, Draining
        """
        keeper = self._find(namespace)

        async def work() -> Receipt:
            keeper.forgive()
            return await replacement_for(keeper, keeper.spec).restart()

        return await keeper.perform("restart", work)

    async def drain(self, namespace: str) -> Receipt:
        """Give the instance no more calls, let it finish and end; start none until a restart.

        Raises:
            UnknownNamespace, OperationInProgress, Draining
        """
        keeper = self._find(namespace)

        async def work() -> Receipt:
            return await replacement_for(keeper, keeper.spec).drain()

        return await keeper.perform("drain", work)

    # -- namespaces that come and go ------------------------------------------

    def plan(self, specs: Iterable[InstanceSpec]) -> list[Change]:
        """What ``apply`` would do. Equal specs restart nothing."""
        return plan(self._keepers, specs)

    async def apply(
        self,
        specs: Iterable[InstanceSpec],
        commit: Commit = lambda _slots, _removed: None,
        ended: Callable[[Applied], None] = lambda _applied: None,
    ) -> Applied:
        """Make ``specs`` what is run: as one change, or, if one cannot start, not at all.

        ``commit`` is called in the moment of the change, in plain code, with the slots
        of the new namespaces and the names of the removed ones: the place to change a
        router. Returns when what was replaced or removed has ended; ``ended`` is then called
        with how it went, also where the wait was cancelled.

        Raises:
            OperationInProgress: one of these namespaces is being changed already, or another
                configuration is being applied.
            Draining: the proxy stops.
        """
        if self._transaction is not None:
            raise OperationInProgress("*", "configuration change")
        if self._nursery is None or self._stop.is_set():
            raise Draining(STOPPING)
        transaction = Transaction(self._keepers, specs, self._make_keeper, self._nursery)
        self._transaction = transaction

        def done() -> None:
            self._transaction = None

        async def work() -> Applied:
            applied = await transaction.run(commit)
            ended(applied)
            return applied

        return await run_detached(self._nursery, work, done)

    def reset(self, namespace: str) -> NamespaceStatus:
        """Forget past failures; where there is no instance, try to start one now.

        Raises:
            UnknownNamespace, OperationInProgress
        """
        keeper = self._find(namespace)
        keeper.reset()
        return self._status(keeper)
