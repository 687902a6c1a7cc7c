"""Replacing the replicas of a plugin on purpose, one at a time.

A roll is a list of ordinary replacements (``replacement``): the new instance of a replica is ready
before the old one drains, and the next replica's turn comes when the old one has ended. The first
is the proof: up to its swap nothing has changed. One that fails later stops the roll, since what
failed once would fail again; the receipt says how many run which version.

As a reload is in steps, so is a roll: what can prevent a change of the configuration is the first
replica's start, the others follow when the change has been made.
"""

import contextlib
from collections import Counter
from collections.abc import Mapping

import trio

from prism.contract.errors import PluginUnavailable
from prism.streams.errors import LaunchError
from prism.supervision.canary import Canary
from prism.supervision.generation import Generation
from prism.supervision.instance import InstanceSpec
from prism.supervision.keeper import Keeper
from prism.supervision.replacement import STOPPED_BY_OPERATOR, Replacement, name_of
from prism.supervision.replicas import AnyKeeper, Replicas
from prism.supervision.status import CallCounts, CanaryStatus, Outcome, Phases, Receipt

DISMISSED = "it is not one of the replicas any more"
REPLACED = "the plugin is being replaced"


class Roll:
    """Replaces the replicas of ``group`` by those of ``spec``; used as a ``Replacement`` is.

    ``anew``: also those that are as ``spec`` says; else they stay.
    """

    def __init__(self, group: Replicas, spec: InstanceSpec, *, anew: bool = True) -> None:
        self.group = group
        self.spec = spec
        self._anew = anew
        self._turns: list[tuple[Keeper, InstanceSpec]] = []
        self._gone: list[Keeper] = []
        self._come: list[Keeper] = []
        self._begun: list[Keeper] = []  # of those that come
        self._time = group.journal.events.clock()
        self._began = trio.current_time()
        self._retried_before = group.slot.retried.total()
        self._now: Replacement | None = None
        self._until_swap: trio.CancelScope | None = None  # of a reload in steps
        self._receipts: list[Receipt] = []
        self._stopped = self._failed = ""

    def _plan(self, wanted: Mapping[str, InstanceSpec]) -> None:
        """Find out whose turn will come, who goes, and who comes."""
        members = self.group.members
        for name, member in members.items():
            if name not in wanted:
                self._gone.append(member)
            elif self._anew or not member.runs(wanted[name]):
                self._turns.append((member, wanted[name]))
        self._come = [
            self.group.make_member(wanted[name]) for name in wanted if name not in members
        ]

    async def _find(self) -> None:
        """Plan a reload: those that serve come first, as the first is the proof.

        Raises:
            LaunchError: the addresses are not known.
        """
        self._plan(await self.group.find(self.spec))
        self._turns.sort(key=lambda turn: turn[0].current is None)

    # -- what operators ask for ---------------------------------------------------------

    async def reload(self, canary: Canary | None = None) -> Receipt:
        """Replace them, one at a time. ``canary``: the first one is tried on its share of all
        calls; if it is as good, the others follow. Whatever fails is in the receipt."""
        try:
            await self._find()
        except LaunchError as error:
            return await self.roll_back(error.explained)
        if self._come or self._gone:
            return await self._reload_in_steps(canary)
        await self._roll(canary)
        if not self._failed:
            self.group.take_over(self.spec)
            self.group.is_incomplete = False
        return self._receipt()

    async def _reload_in_steps(self, canary: Canary | None) -> Receipt:
        """A reload to a version that has other replicas."""
        stop = self._until_swap = trio.CancelScope()
        try:
            with stop:
                await self._prepare()
                if canary is not None and self._now is not None:
                    await self._now.try_out(canary)
        except LaunchError as error:
            return await self.roll_back(error.explained)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.roll_back("the reload was cancelled")
            raise
        finally:
            self._until_swap = None
        if stop.cancel_called:
            return await self.roll_back(STOPPED_BY_OPERATOR)
        self.swap()
        return await self.finish()

    async def _roll(self, canary: Canary | None = None) -> None:
        """Replace those whose turn has not come, until one fails."""
        while self._turns and not self._stopped:
            member, spec = self._turns.pop(0)
            if member.current is None and self.group.slot.current is not None:
                # That it does not come up has another reason, and needs not hold up the others.
                member.renew(spec)
                continue
            self._now = Replacement(member, spec)
            if not self._took(await self._now.reload(canary)):
                return
            canary = None
        self._failed = self._failed or self._stopped

    def abort(self) -> bool:
        """Stop it: the replica whose turn it is stays as it is, if it has not come to the swap, and
        so do those after it. Returns whether that changes anything."""
        if self._until_swap is not None:
            self._until_swap.cancel()
            return True
        stops_one = self._now is not None and self._now.abort()
        if not stops_one and not self._turns:
            return False
        self._stopped = STOPPED_BY_OPERATOR
        return True

    @property
    def trial(self) -> CanaryStatus | None:
        """How the canary stands, while there is one."""
        return self._now.trial if self._now is not None else None

    async def restart(self) -> Receipt:
        """End and start them, one at a time; the others serve meanwhile."""
        self._plan(self.group.wanted(self.spec))
        while self._turns:
            member, spec = self._turns.pop(0)
            self._now = Replacement(member, spec)
            is_good = self._took(await self._now.restart())
            if not is_good and self.group.slot.current is not None:
                break  # what serves is not risked; where nothing does, there is nothing to lose
        return self._receipt()

    async def drain(self) -> Receipt:
        """End all of them after their calls, and start none until a restart."""

        async def drain(member: Keeper) -> None:
            self._took(await Replacement(member, member.spec).drain())

        async with trio.open_nursery() as nursery:
            for member in self.group.members.values():
                nursery.start_soon(drain, member)
        return self._receipt()

    # -- the steps of a reload ----------------------------------------------------------

    async def prepare(self) -> None:
        """Start the new instance of the first replica, and the replicas that are to come. Those
        that serve learn nothing.

        Raises:
            LaunchError: it did not come to that; ``roll_back`` is next.
        """
        await self._find()
        await self._prepare()

    async def _prepare(self) -> None:
        for member in self._come:
            self.group.begin(member)
            self._begun.append(member)
        await self.group.wait_attempted(self._come)
        stays = len(self.group.members) > len(self._gone)
        if self._come and not stays and not any(each.current for each in self._come):
            raise self._come[0].last_failure or LaunchError(self._come[0].slot.absence)
        if self._turns and self._turns[0][0].current is not None:
            self._now = Replacement(*self._turns.pop(0))
            await self._now.prepare()

    @property
    def new(self) -> Generation | None:
        """The new instance of the replica whose turn it is."""
        return self._now.new if self._now is not None else None

    def swap(self) -> None:
        """From here on what is new gets calls, and what goes none."""
        group = self.group
        if self._now is not None:
            self._now.swap()
        group.take_over(self.spec)
        for member in self._come:
            group.join(member)
        for member in self._gone:
            group.dismiss(member, DISMISSED)

    async def finish(self) -> Receipt:
        """Replace the others, one at a time, and wait until those that went have ended."""
        if self._now is None or self._took(await self._now.finish()):
            await self._roll()
        for member in self._gone:
            await member.wait_stopped()
        self.group.is_incomplete = bool(self._failed)
        return self._receipt()

    async def roll_back(self, reason: str) -> Receipt:
        """Before the swap: end what is new, and leave everything as it was."""
        for member in self._begun:  # the others never run, and would be waited for in vain
            member.stop(reason)
        for member in self._begun:
            await member.wait_stopped()
        if self._now is not None:
            self._took(await self._now.roll_back(reason))
        self._failed = reason
        return self._receipt()

    # -- its receipt --------------------------------------------------------------------

    def _took(self, receipt: Receipt) -> bool:
        """One replica's turn is over; returns whether the next one's may come."""
        self._receipts.append(receipt)
        is_good = receipt.outcome in ("swapped", "drained")
        if not is_good and not self._failed:
            self._failed = f"replica {receipt.replica}: {receipt.reason}"
        return is_good

    def _outcome(self) -> Outcome:
        outcomes = {receipt.outcome for receipt in self._receipts}
        if outcomes == {"drained"}:
            return "drained"
        if not self._failed:
            return "swapped"
        if self.group.slot.current is None:
            return "failed"
        return "partial" if "swapped" in outcomes else "rolled_back"

    def _receipt(self) -> Receipt:
        group, receipts = self.group, self._receipts
        outcome = self._outcome()
        calls = [receipt.calls for receipt in receipts]
        totals = {
            name: sum(getattr(one, name) for one in calls) for name in CallCounts.__struct_fields__
        }
        totals["retried"] = group.slot.retried.total() - self._retried_before
        receipt = Receipt(
            namespace=self.spec.namespace,
            outcome=outcome,
            reason=f"{self._who_runs_what()}; {self._failed}" if self._failed else "",
            time=self._time,
            old=next((one.old for one in receipts), None),
            new=next((one.new for one in reversed(receipts) if one.outcome == "swapped"), None),
            calls=CallCounts(**totals),
            phases=Phases(total=trio.current_time() - self._began),
            killed=any(one.killed for one in receipts),
            replicas=receipts,
        )
        group.journal.reloads[outcome] += 1
        group.journal.step(
            "reload",
            "",
            f"{outcome.replace('_', ' ')}{f': {receipt.reason}' if self._failed else ''}",
        )
        return receipt

    def _who_runs_what(self) -> str:
        """How many of the replicas run which version."""
        members = self.group.members.values()
        versions = Counter(
            member.current.spec.plugin.version or member.current.version or "no version"
            for member in members
            if member.current is not None
        )
        absent = len(members) - versions.total()
        parts = [f"{number} run {version}" for version, number in versions.items()]
        parts += [f"{absent} do not run"] if absent else []
        replaced = sum(receipt.outcome == "swapped" for receipt in self._receipts)
        return f"{replaced} of {len(members)} replicas were replaced ({', '.join(parts)})"


class KeeperExchange:
    """Puts ``new`` into the place of ``old``, which is of another kind: several replicas where
    there was one plugin, or one where there were several. Used as a ``Replacement`` is.

    What ``new`` starts runs in ``nursery``. One is there before the other goes, if ``overlaps``.
    """

    def __init__(
        self, old: AnyKeeper, new: AnyKeeper, nursery: trio.Nursery, *, overlaps: bool
    ) -> None:
        self.old = old
        self.keeper = new
        self.new: Generation | None = None
        self._nursery = nursery
        self._overlaps = overlaps
        self._time = old.journal.events.clock()
        self._began = trio.current_time()
        self._held = [each.instance for each in old.serving if each.instance is not None]

    async def prepare(self) -> None:
        """Start what is new; what serves learns nothing.

        Raises:
            LaunchError: it does not serve.
        """
        if not self._overlaps:
            return
        keeper = self.keeper
        await self._nursery.start(keeper.run)
        if keeper.spec.dials_in:
            with trio.move_on_after(keeper.spec.plugin.start_timeout_seconds):
                with contextlib.suppress(PluginUnavailable):
                    await keeper.slot.wait_filled()
        self.new = keeper.current
        if self.new is None:
            raise keeper.last_failure or LaunchError(keeper.slot.absence)

    def swap(self) -> None:
        """From here on calls find the new slot."""
        self.old.stop(REPLACED)
        if not self._overlaps:  # it starts when that has ended
            for each in (*self.keeper.keepers(), self.keeper):
                each.slot.say_absent(REPLACED, held=True)

    async def finish(self) -> Receipt:
        """Wait until what was there has ended, and start what is new, if that had to wait."""
        await self.old.wait_stopped()
        if not self._overlaps:
            await self._nursery.start(self.keeper.run)
        serves = self.keeper.current is not None
        return self._receipt("swapped" if serves else "failed", self.keeper.slot.absence)

    async def roll_back(self, reason: str) -> Receipt:
        """Before the swap: end what is new."""
        self.keeper.stop(reason)
        if self._overlaps:
            await self.keeper.wait_stopped()
        return self._receipt("rolled_back", reason)

    def _receipt(self, outcome: Outcome, reason: str) -> Receipt:
        old = self._held
        calls = CallCounts(
            finished_on_old=sum(each.finished for each in old),
            cancelled=sum(each.cancelled for each in old),
            failed=sum(each.failed for each in old),
            lost=sum(each.lost + each.leases for each in old) if outcome == "swapped" else 0,
        )
        self.old.journal.reloads[outcome] += 1
        return Receipt(
            namespace=self.old.spec.namespace,
            outcome=outcome,
            reason="" if outcome == "swapped" else reason,
            time=self._time,
            old=None,
            new=name_of(self.keeper.current) if outcome == "swapped" else None,
            calls=calls,
            phases=Phases(total=trio.current_time() - self._began),
        )


def replacement_for(
    keeper: AnyKeeper, spec: InstanceSpec, *, anew: bool = True
) -> Replacement | Roll:
    """What replaces what ``keeper`` keeps."""
    if isinstance(keeper, Replicas):
        return Roll(keeper, spec, anew=anew)
    return Replacement(keeper, spec)
