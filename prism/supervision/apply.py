"""Changing many namespaces as one change, or not at all.

What a configuration reload stands on. Everything that can fail is done first,
beside what serves: new namespaces start, changed ones start their new instance. If
one of them does not come up, all of that is rolled back, and nothing has changed. The commit
is one piece of plain code. Only plugins that may not run
twice are replaced after that, one way or the other, and shadows, for which no change waits:
whether they come up is nothing to the namespaces.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Literal

import msgspec
import trio

from prism.streams.errors import LaunchError
from prism.supervision.events import Journal
from prism.supervision.instance import InstanceSpec
from prism.supervision.replacement import Replacement
from prism.supervision.replicas import AnyKeeper
from prism.supervision.roll import KeeperExchange, Roll, replacement_for
from prism.supervision.slot import Slot
from prism.supervision.status import Receipt

Action = Literal["start", "reload", "restart", "stop", "stay"]

REMOVED = "the namespace was removed"


class Change(msgspec.Struct, frozen=True):
    """What becomes of one namespace. ``restart``: its plugin may not run twice."""

    namespace: str
    action: Action


class Applied(msgspec.Struct, frozen=True):
    """How it went: all ``changes`` took effect, or, with ``failures``, none of them.

    ``failures`` maps a namespace to the reason. ``receipts`` are of those replaced.
    """

    changes: list[Change]
    failures: dict[str, str]
    receipts: list[Receipt]

    @property
    def applied(self) -> bool:
        """Did the changes take effect?"""
        return not self.failures


Commit = Callable[[dict[str, Slot], list[str]], None]
"""Called at the moment of the change with the slots that are new, and the removed names: those of
new namespaces, and of such as have several replicas now, or one instead of several."""

Step = Replacement | Roll | KeeperExchange
"""What is prepared, and then swapped and finished, or rolled back."""
MakeKeeper = Callable[[InstanceSpec, Journal | None], AnyKeeper]


def plan(keepers: Mapping[str, AnyKeeper], specs: Iterable[InstanceSpec]) -> list[Change]:
    """What ``specs`` would change, sorted by namespace. Equal specs restart nothing."""
    wanted = {spec.namespace: spec for spec in specs}
    changes = [Change(name, "stop") for name in keepers.keys() - wanted.keys()]
    for name, spec in wanted.items():
        keeper = keepers.get(name)
        if keeper is None:
            changes.append(Change(name, "start"))
        elif keeper.runs(spec):
            changes.append(Change(name, "stay"))
        elif spec.may_overlap and keeper.spec.may_overlap and not spec.shadow_of:
            changes.append(Change(name, "reload"))
        else:
            changes.append(Change(name, "restart"))
    return sorted(changes, key=lambda change: change.namespace)


class Transaction:
    """One change of the supervisor's ``keepers`` to ``specs``; new keepers run in ``nursery``."""

    def __init__(
        self,
        keepers: dict[str, AnyKeeper],
        specs: Iterable[InstanceSpec],
        make_keeper: MakeKeeper,
        nursery: trio.Nursery,
    ) -> None:
        self._keepers = keepers
        self._specs = {spec.namespace: spec for spec in specs}
        self._nursery = nursery
        self.changes = plan(keepers, self._specs.values())
        self._added = {name: make_keeper(self._specs[name], None) for name in self._named("start")}
        self._exchanged = {
            name: make_keeper(self._specs[name], self._keepers[name].journal)
            for name in self._named("reload", "restart")
            if self._specs[name].plugin.has_replicas != keepers[name].spec.plugin.has_replicas
        }
        self._failures: dict[str, str] = {}
        self._receipts: list[Receipt] = []
        self._removed: list[AnyKeeper] = []
        self._stopping = False

    def stop(self) -> None:
        """The proxy stops: what is not committed yet never will be."""
        self._stopping = True
        for keeper in (*self._added.values(), *self._exchanged.values()):
            keeper.stop()

    def _named(self, *actions: Action) -> list[str]:
        return [change.namespace for change in self.changes if change.action in actions]

    async def run(self, commit: Commit) -> Applied:
        """Do it. Cancelling before the commit rolls back what was begun; after it, the
        old instances go on ending by themselves.

        Raises:
            OperationInProgress: a namespace that would change is being changed already.
        """
        touched = [self._keepers[name] for name in self._named("reload", "restart", "stop")]
        with ExitStack() as claims:
            for keeper in touched:
                claims.enter_context(keeper.claimed("configuration change"))
            reloads = {name: self._replacement(name) for name in self._named("reload")}
            for name in self._named("restart"):
                if name in self._exchanged:
                    reloads[name] = self._replacement(name, overlaps=False)
            committed = False
            try:
                await self._prepare(reloads)
                self._look_again(reloads)
                if not self._failures:
                    self._commit(reloads, commit)
                    committed = True
            finally:
                if not committed:
                    with trio.CancelScope(shield=True):
                        await self._roll_back(reloads)
            if committed:
                await self._finish(reloads)
        return Applied(self.changes, self._failures, self._receipts)

    def _replacement(self, name: str, *, overlaps: bool = True) -> Step:
        keeper, spec = self._keepers[name], self._specs[name]
        new = self._exchanged.get(name)
        if new is not None:
            return KeeperExchange(keeper, new, self._nursery, overlaps=overlaps)
        return replacement_for(keeper, spec, anew=False)

    async def _prepare(self, reloads: dict[str, Step]) -> None:
        async def start(name: str, keeper: AnyKeeper) -> None:
            if keeper.spec.shadow_of:
                self._nursery.start_soon(keeper.run)
                return
            await self._nursery.start(keeper.run)
            if keeper.slot.current is None and not keeper.spec.dials_in:
                failure = keeper.last_failure
                self._failures[name] = failure.explained if failure else keeper.slot.absence

        async def prepare(name: str, reload: Step) -> None:
            try:
                await reload.prepare()
            except LaunchError as error:
                self._failures[name] = error.explained

        async with trio.open_nursery() as nursery:
            for name, keeper in self._added.items():
                nursery.start_soon(start, name, keeper)
            for name, reload in reloads.items():
                nursery.start_soon(prepare, name, reload)

    def _look_again(self, reloads: dict[str, Step]) -> None:
        """What was ready first has waited for the others, and may be gone again."""
        for name, reload in reloads.items():
            if name not in self._failures and reload.new is not None and not reload.new.serving:
                self._failures[name] = reload.new.error.explained
        for name, keeper in self._added.items():
            if self._stopping:
                self._failures.setdefault(name, keeper.slot.absence)

    def _commit(self, reloads: dict[str, Step], commit: Commit) -> None:
        for name in self._named("reload", "restart", "stay"):
            self._keepers[name].adopt(self._specs[name])
        for reload in reloads.values():
            reload.swap()
        removed = self._named("stop")
        self._removed = [self._keepers.pop(name) for name in removed]
        new = self._added | self._exchanged
        self._keepers.update(new)
        commit({name: keeper.slot for name, keeper in new.items()}, removed)
        for keeper in self._removed:
            keeper.journal.events.record("removed", keeper.spec.namespace)
            keeper.stop(REMOVED)
        for name, keeper in self._added.items():
            keeper.journal.events.record("added", name)

    async def _roll_back(self, reloads: dict[str, Step]) -> None:
        for keeper in self._added.values():
            keeper.stop("the configuration was not applied")
        async with trio.open_nursery() as nursery:
            for keeper in self._added.values():
                nursery.start_soon(keeper.wait_stopped)
            for name, reload in reloads.items():
                reason = self._failures.get(name, "the configuration was not applied")
                nursery.start_soon(reload.roll_back, reason)

    async def _finish(self, reloads: dict[str, Step]) -> None:
        async def finish(reload: Step) -> None:
            self._receipts.append(await reload.finish())

        async def replace(name: str) -> None:
            step = replacement_for(self._keepers[name], self._specs[name], anew=False)
            # Several replicas may always overlap: it is a shadow.
            restart = step.reload if isinstance(step, Roll) else step.restart
            self._receipts.append(await restart())

        async with trio.open_nursery() as nursery:
            for reload in reloads.values():
                nursery.start_soon(finish, reload)
            for name in self._named("restart"):
                if name not in self._exchanged:
                    nursery.start_soon(replace, name)
            for keeper in self._removed:
                nursery.start_soon(keeper.wait_stopped)
