"""Replacing a namespace's instance on purpose: reload, canary, restart, drain.

A reload starts the new instance beside the old one and does nothing to the old one
until the new one is healthy. Up to the swap it can be rolled back without a trace;
the swap is one assignment; from then on the old one finishes its calls. Where
two instances may not overlap, the old one ends first, and calls are held
meanwhile; if the new one fails then, the old version is started again. A receipt says
``rolled_back`` only where an instance serves after it.

A reload is in steps (prepare, swap, finish; or roll back), so that several namespaces can be
changed together or not at all.
"""

import math
from collections.abc import Collection
from typing import NamedTuple

import trio

from prism.streams.errors import LaunchError
from prism.supervision.canary import Canary, CanaryVerdict, Sample, judge
from prism.supervision.generation import Generation
from prism.supervision.instance import InstanceSpec
from prism.supervision.keeper import STOPPING, Keeper
from prism.supervision.lifecycle import OVER, SERVING, State
from prism.supervision.status import (
    CallCounts,
    CanaryStatus,
    InstanceName,
    Outcome,
    Phases,
    Receipt,
)

JUDGE_EVERY = 0.25
"""Seconds between two looks at a canary."""
STOPPED_BY_OPERATOR = "an operator stopped it"


class Replacement:
    """One replacement of ``keeper``'s instance by one for ``spec``, and its receipt.

    One of ``reload``, ``restart`` and ``drain`` is called, once, as the keeper's operation
    (``Keeper.perform``); or the steps of a reload, one by one.

    ``old`` is the generation that is replaced, if there is one, and ``new`` the other once it
    was begun.
    """

    def __init__(self, keeper: Keeper, spec: InstanceSpec) -> None:
        self.keeper = keeper
        self.spec = spec
        self.old = keeper.current
        self.new: Generation | None = None
        self._time = keeper.journal.events.clock()
        self._began = trio.current_time()
        self._before = _Counts.of(self.old)
        self._moved_before = keeper.slot.moved
        self._verdict = ""
        self._until_swap = trio.CancelScope()
        self._abortable = False
        self._trial: _Trial | None = None
        self._canary_seconds: float | None = None
        self._served_at: float | None = None
        self._gone_at: float | None = None

    # -- what operators ask for ---------------------------------------------------------

    async def reload(self, canary: Canary | None = None) -> Receipt:
        """Start the new instance beside the old one, and swap. Whatever fails is in the receipt.

        ``canary``: give it that part of the calls first, and swap only if it is as good.
        Cancelling ends the new instance.
        """
        self._abortable = True
        try:
            with self._until_swap:
                await self.prepare()
                if canary is not None:
                    await self.try_out(canary)
        except LaunchError as error:
            return await self.roll_back(error.explained)
        except BaseException:
            if self.new is not None:
                self.new.retire("the reload was cancelled")
            raise
        finally:
            self._abortable = False
        if self._until_swap.cancel_called:
            return await self.roll_back(STOPPED_BY_OPERATOR)
        self.swap()
        return await self.finish()

    def abort(self) -> bool:
        """Roll a reload back, if it has not come to the swap; returns whether it has not."""
        if self._abortable:
            self._until_swap.cancel()
        return self._abortable

    @property
    def trial(self) -> CanaryStatus | None:
        """How the canary stands, while there is one."""
        trial = self._trial
        if trial is None:
            return None
        canary, old, new = trial.canary, trial.old, trial.new
        return CanaryStatus(
            share=canary.share,
            calls=new.calls,
            min_calls=canary.min_calls,
            error_rate=new.error_rate,
            old_error_rate=old.error_rate,
            seconds=trio.current_time() - trial.began,
            min_seconds=canary.min_seconds,
            max_seconds=canary.max_seconds,
        )

    async def restart(self) -> Receipt:
        """End the old instance, then start the new one; calls are held meanwhile.

        If the new one fails, the old version is started again; where there was none because
        the keeper was paused, it stays so. Cancelling leaves the keeper to start what it can.
        """
        keeper = self.keeper
        paused_before = keeper.paused and self.old is None
        reason = "it is being replaced"
        failure: LaunchError | None = None
        keeper.pause(reason, held=True)
        try:
            await self._end_old(reason)
            try:
                await self.prepare()
            except LaunchError as error:
                failure = error
                await self._end_new(str(error))
            else:
                self.swap()
                await keeper.close_unused_sockets()
                return self._receipt("swapped")
            if self.old is not None and not keeper.stopping:
                await self._start_again(failure)
        finally:
            if paused_before and keeper.paused:
                keeper.pause(failure or reason)  # and no call is held any more
            else:
                keeper.resume()
        return self._came_to_nothing(failure.explained)

    async def drain(self) -> Receipt:
        """End the instance after its calls, and start none until a restart."""
        self.keeper.pause("it was drained by an operator")
        await self._end_old("drained by an operator")
        return self._receipt("drained")

    # -- the steps of a reload ----------------------------------------------------------

    async def prepare(self) -> None:
        """Start the new instance and wait until it is healthy. The old one learns nothing.

        Cancelling leaves ``new`` to be retired.

        Raises:
            LaunchError: it did not come to that; ``roll_back`` is next.
        """
        plugin = self.spec.plugin
        self._say(f"starting {self.spec.label}{f' {plugin.version}' if plugin.version else ''}")
        new = self.new = await self.keeper.launch(self.spec, fresh=True)
        # A plugin that dials in comes whenever it will; all others keep to their own limits.
        limit = plugin.start_timeout_seconds if self.spec.dials_in else math.inf
        with trio.move_on_after(limit) as in_time:
            settled = await new.wait_settled()
        if in_time.cancelled_caught:
            raise LaunchError(
                f"no new process dialled {plugin.socket} within {limit:g} seconds: "
                "start one beside the old one, then reload"
            )
        if not settled:
            await new.wait_ended()  # which knows best why
            raise new.error

    def swap(self) -> None:
        """From here on the new instance gets every call, and the old one none."""
        assert self.new is not None  # noqa: S101 - prepared
        replaced = self.keeper.install(self.new)
        if replaced is not None and replaced is not self.old:
            # The old one has broken meanwhile, and the keeper started another.
            self.old, self._before = replaced, _Counts()
        self._served_at = trio.current_time()
        self._say(f"{self.new.id} has taken over")
        if self.old is not None:
            self.old.retire(f"replaced by {self.new.id}", replaced=True)

    async def finish(self) -> Receipt:
        """Wait until the old instance has finished its calls and ended."""
        if self.old is not None:
            await self.old.wait_ended()
        await self.keeper.close_unused_sockets()
        return self._receipt("swapped")

    async def roll_back(self, reason: str) -> Receipt:
        """Before the swap: end the new instance, and leave everything as it was."""
        await self._end_new(reason)
        await self.keeper.close_unused_sockets()
        return self._came_to_nothing(reason)

    def _came_to_nothing(self, reason: str) -> Receipt:
        serves = self.keeper.current is not None
        return self._receipt("rolled_back" if serves else "failed", reason)

    async def _end_new(self, reason: str) -> None:
        if self.new is not None:
            self.new.retire(f"given up: {reason}")
            await self.new.wait_ended()

    async def _end_old(self, reason: str) -> None:
        if self.old is not None:
            self.old.retire(reason)
            await self.old.wait_ended()
        self._gone_at = trio.current_time()

    async def _start_again(self, failure: LaunchError) -> None:
        """Bring the old version back; if that fails as well, the keeper's loop goes on trying."""
        keeper = self.keeper
        self._say(f"starting the old version again: {failure}")
        again = None
        try:
            # What it had worked: what its secrets say now may be why the new one does not.
            had = self.old.credentials if self.old is not None else None
            again = await keeper.launch(keeper.spec, credentials=had)
            if await again.wait_settled():
                keeper.install(again)
                self._served_at = trio.current_time()
                return
            await again.wait_ended()  # which knows best why
            failure = again.error
        except LaunchError as error:
            failure = error
        finally:
            if again is not None and keeper.current is not again:
                again.retire("given up")
        keeper.pause(failure)

    async def try_out(self, canary: Canary) -> None:
        """Give the new instance its share of the calls beside the old one, until it is judged.

        However it ends, it gets no calls any more unless it takes over.

        Raises:
            LaunchError: it is to be rolled back; the message is the reason.
        """
        old, new = self.old, self.new
        if old is None or old.instance is None or new is None or new.instance is None:
            return  # there is nothing to compare it with, and nothing to lose
        slot, journal = self.keeper.slot, self.keeper.journal
        first, second = old.instance, new.instance
        began = trio.current_time()
        first.sample, second.sample = Sample(), Sample()
        self._trial = _Trial(canary, first.sample, second.sample, began)
        journal.step("canary", new.id, f"it gets {canary.share:.0%} of the calls")
        try:
            with slot.sharing(second, canary.share):
                verdict = CanaryVerdict.WAIT
                while verdict is CanaryVerdict.WAIT:
                    await trio.sleep(JUDGE_EVERY)
                    if self.keeper.stopping:
                        raise LaunchError(STOPPING)
                    if not new.serving:
                        await new.wait_ended()
                        raise LaunchError(f"on trial, it left: {new.error}")
                    if not old.serving:
                        verdict = CanaryVerdict.PROMOTE
                        reason = "the old instance is gone, so it takes over"
                        break
                    seconds = trio.current_time() - began
                    verdict, reason = judge(canary, first.sample, second.sample, seconds)
            if verdict is CanaryVerdict.ROLL_BACK:
                raise LaunchError(reason)
        finally:
            first.sample = second.sample = self._trial = None
            self._canary_seconds = trio.current_time() - began
        self._verdict = reason
        journal.step("canary", new.id, f"promoted: {reason}")

    # -- its receipt --------------------------------------------------------------------

    def _say(self, reason: str) -> None:
        self.keeper.journal.step("reload", self.new.id if self.new else "", reason)

    def _receipt(self, outcome: Outcome, reason: str = "") -> Receipt:
        old, new = self.old, self.new
        now = trio.current_time()
        of_old, of_new = _Counts.of(old), _Counts.of(new)
        absent = 0.0
        if self._gone_at is not None:
            absent = (now if self._served_at is None else self._served_at) - self._gone_at
        receipt = Receipt(
            namespace=self.spec.namespace,
            outcome=outcome,
            reason=reason or self._verdict,
            time=self._time,
            old=name_of(old),
            new=name_of(new),
            calls=CallCounts(
                finished_on_old=of_old.finished - self._before.finished,
                finished_on_new=of_new.finished,
                retried=self.keeper.slot.moved - self._moved_before,
                cancelled=of_old.cancelled - self._before.cancelled + of_new.cancelled,
                failed=of_old.failed - self._before.failed + of_new.failed,
                lost=of_old.lost + of_new.lost,
            ),
            phases=Phases(
                start=_seconds(new, {State.STARTING}, {State.INITIALIZING}),
                initialize=_seconds(new, {State.INITIALIZING}, SERVING),
                canary=self._canary_seconds,
                drain=_seconds(old, {State.DRAINING}, {State.STOPPING}),
                shutdown=_seconds(old, {State.STOPPING}, OVER),
                absent=absent,
                total=now - self._began,
            ),
            killed=old is not None and "SIGKILL" in old.ending,
            replica=self.spec.replica,
        )
        if not self.spec.replica:
            self.keeper.journal.reloads[outcome] += 1
        self._say(f"{outcome.replace('_', ' ')}{f': {receipt.reason}' if receipt.reason else ''}")
        return receipt


class _Trial(NamedTuple):
    """A canary under way, the two samples that are compared, and when it began."""

    canary: Canary
    old: Sample
    new: Sample
    began: float


class _Counts(NamedTuple):
    """The counters of a generation's instance at one moment."""

    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    lost: int = 0

    @classmethod
    def of(cls, generation: Generation | None) -> "_Counts":
        """Those of now; a lease that is held when the generation is over is lost as well."""
        if generation is None or generation.instance is None:
            return cls()
        of = generation.instance
        held = of.leases if generation.over else 0
        return cls(of.finished, of.cancelled, of.failed, of.lost + held)


def _seconds(
    generation: Generation | None, since: Collection[State], until: Collection[State]
) -> float | None:
    return None if generation is None else generation.seconds(since, until)


def name_of(generation: Generation | None) -> InstanceName | None:
    """Which instance it is, as far as that is known."""
    if generation is None:
        return None
    spec, instance = generation.spec, generation.instance
    said = instance.version if instance is not None else ""
    return InstanceName(generation.id, spec.plugin_name, spec.plugin.version, said, generation.pid)
