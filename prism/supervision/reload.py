"""Replacing a namespace's instance on purpose: reload, canary, restart, drain.

A reload starts the new instance beside the old one and does nothing to the old one
until the new one is healthy. Up to the swap it can be given up without a trace;
the swap is one assignment; from then on the old one finishes its calls. Where
two instances may not overlap, the old one ends first, and calls are held
meanwhile; if the new one fails then, the old version is started again.

``Reload`` is in steps (prepare, commit, finish), so that several namespaces can be
changed together or not at all.
"""

from dataclasses import dataclass

import trio

from prism.streams.errors import LaunchError
from prism.supervision.canary import Canary
from prism.supervision.generation import Generation
from prism.supervision.instance import Instance
from prism.supervision.keeper import Keeper
from prism.supervision.report import (
    CallCounts,
    InstanceName,
    Outcome,
    Phases,
    Receipt,
)
from prism.supervision.spec import InstanceSpec
from prism.supervision.trial import try_out


@dataclass(frozen=True)
class _Counts:
    """An instance's counters at one moment."""

    finished: int = 0
    cancelled: int = 0
    failed: int = 0

    @classmethod
    def of(cls, instance: Instance | None) -> "_Counts":
        if instance is None:
            return cls()
        return cls(instance.finished, instance.cancelled, instance.failed)


class Reload:
    """One replacement of ``keeper``'s instance by one for ``spec``.

    Run as the keeper's operation (``Keeper.perform``).
    """

    def __init__(self, keeper: Keeper, spec: InstanceSpec, canary: Canary | None = None) -> None:
        self.keeper = keeper
        self.spec = spec
        self.canary = canary
        self.old = keeper.current
        self.new: Generation | None = None
        self._time = keeper.journal.events.clock()
        self._began = trio.current_time()
        self._before = _Counts.of(self._old_instance)
        self._retried_before = keeper.slot.retried.total()
        self._verdict = ""
        self._canary_seconds: float | None = None
        self._swapped_at: float | None = None
        self._gone_at: float | None = None

    @property
    def _old_instance(self) -> Instance | None:
        return self.old.instance if self.old is not None else None

    async def run(self, *, overlap: bool) -> Receipt:
        """All steps, one after the other."""
        if not overlap:
            return await self.stop_then_start()
        try:
            new = await self.prepare()
            if self.canary is not None and self.old is not None:
                began = trio.current_time()
                try:
                    self._verdict = await try_out(self.keeper, self.canary, self.old, new)
                finally:
                    self._canary_seconds = trio.current_time() - began
        except LaunchError as error:
            return await self.give_up(str(error))
        except BaseException:
            if self.new is not None:
                self.new.retire("the reload was cancelled")
            raise
        self.commit()
        return await self.finish()

    async def prepare(self) -> Generation:
        """Start the new instance and wait until it is healthy. The old one learns nothing.

        Raises:
            LaunchError: it did not come to that; ``give_up`` is next.
        """
        self._say(f"starting {self.spec.label}{_in_version(self.spec)}")
        new = self.new = await self.keeper.launch(self.spec, fresh=True)
        limit = self.spec.plugin.start_timeout_seconds
        # Who dials in, comes whenever it will; all others keep to their own limits.
        with trio.move_on_after(limit if self.spec.dials_in else float("inf")) as in_time:
            settled = await new.wait_settled()
        if in_time.cancelled_caught:
            raise LaunchError(
                f"no new process dialled {self.spec.plugin.socket} within {limit:g} seconds: "
                "start one beside the old one, then reload"
            )
        if not settled:
            raise new.error
        return new

    def commit(self) -> None:
        """The swap: from here on the new instance gets every call, and the old one none."""
        assert self.new is not None  # noqa: S101 - prepared
        # It may be another by now: the old one may have crashed and come back meanwhile.
        current = self.keeper.current
        if current is not None and current is not self.old:
            self.old = current
            self._before = _Counts()
        self.keeper.slot.canary = None
        self.keeper.install(self.new)
        self._swapped_at = trio.current_time()
        self._say(f"{self.new.id} has taken over")
        if self.old is not None:
            self.old.retire(f"replaced by {self.new.id}", replaced=True)

    async def finish(self) -> Receipt:
        """Wait until the old instance has finished its calls and ended."""
        if self.old is not None:
            await self.old.wait_ended()
        await self.keeper.forget_sockets()
        return self._receipt("swapped", "")

    async def give_up(self, reason: str) -> Receipt:
        """Before the swap: end the new instance, and leave everything as it was."""
        self.keeper.slot.canary = None
        if self.new is not None:
            self.new.retire(f"given up: {reason}")
            await self.new.wait_ended()
        await self.keeper.forget_sockets()
        return self._receipt("rolled_back", reason)

    async def stop_then_start(self) -> Receipt:
        """For plugins that cannot run twice: the old one ends first, calls are held."""
        keeper = self.keeper
        was_parked = keeper.parked and self.old is None
        keeper.park()
        keeper.slot.say_absent("it is being replaced", held=True)
        try:
            await self._end_old("it is being replaced")
            self._gone_at = trio.current_time()
            try:
                await self.prepare()
            except LaunchError as error:
                if self.new is not None:
                    self.new.retire(f"given up: {error}")
                    await self.new.wait_ended()
                reason = str(error)
            else:
                self.commit()
                await keeper.forget_sockets()
                return self._receipt("swapped", "")
            if self.old is not None and not keeper.stopping:
                await self._start_again(reason)
        finally:
            if not was_parked:
                keeper.unpark()
        return self._receipt("rolled_back", reason)

    async def _end_old(self, reason: str) -> None:
        if self.old is not None:
            self.old.retire(reason)
            await self.old.wait_ended()

    async def _start_again(self, reason: str) -> None:
        """Bring the old version back; if that fails as well, the keeper's loop goes on trying."""
        keeper = self.keeper
        self._say(f"starting the old version again: {reason}")
        again = None
        try:
            again = await keeper.launch(keeper.spec)
            if await again.wait_settled():
                keeper.install(again)
                self._swapped_at = trio.current_time()
                return
            reason = str(again.error)
        except LaunchError as error:
            reason = str(error)
        finally:
            if again is not None and keeper.current is not again:
                again.retire("given up")
        keeper.slot.say_absent(reason)

    async def drain(self) -> Receipt:
        """End the instance after its calls, and start none until a restart."""
        keeper = self.keeper
        keeper.park()
        keeper.slot.say_absent("it was drained by an operator")
        await self._end_old("drained by an operator")
        self._gone_at = trio.current_time()
        return self._receipt("drained", "")

    # -- telling --------------------------------------------------------------

    def _say(self, reason: str) -> None:
        self.keeper.journal.step("reload", self.new.id if self.new else "", reason)

    def _receipt(self, outcome: Outcome, reason: str) -> Receipt:
        now = trio.current_time()
        old = self._old_instance
        new = self.new.instance if self.new is not None else None
        before, after = self._before, _Counts.of(old)
        of_new = _Counts.of(new)
        absent = 0.0
        if self._gone_at is not None:
            absent = (self._swapped_at or now) - self._gone_at
        ending = self.old.ending if self.old is not None and self.old.over else ""
        receipt = Receipt(
            namespace=self.spec.namespace,
            outcome=outcome,
            reason=reason or self._verdict,
            time=self._time,
            old=_name(self.old),
            new=_name(self.new),
            calls=CallCounts(
                finished_on_old=after.finished - before.finished,
                finished_on_new=of_new.finished,
                retried=self.keeper.slot.retried.total() - self._retried_before,
                cancelled=after.cancelled - before.cancelled + of_new.cancelled,
                failed=after.failed - before.failed + of_new.failed,
                lost=sum(
                    instance.lost + (instance.leases if generation.over else 0)
                    for generation in (self.old, self.new)
                    if generation is not None and (instance := generation.instance) is not None
                ),
            ),
            phases=Phases(
                start=_between(self.new, "begun", "connected"),
                initialize=_between(self.new, "connected", "ready"),
                canary=self._canary_seconds,
                drain=_between(self.old, "leaving", "drained"),
                shutdown=_between(self.old, "drained", "ended"),
                absent=absent,
                total=now - self._began,
            ),
            killed="SIGKILL" in ending,
        )
        self.keeper.journal.reloads[outcome] += 1
        self._say(f"{outcome.replace('_', ' ')}{f': {receipt.reason}' if receipt.reason else ''}")
        return receipt


def _name(generation: Generation | None) -> InstanceName | None:
    if generation is None:
        return None
    spec = generation.spec
    return InstanceName(
        generation.id, spec.plugin_name, spec.plugin.version, generation.version, generation.pid
    )


def _in_version(spec: InstanceSpec) -> str:
    return f" {spec.plugin.version}" if spec.plugin.version else ""


def _between(generation: Generation | None, first: str, last: str) -> float | None:
    if generation is None:
        return None
    begin, end = generation.moments.get(first), generation.moments.get(last)
    return None if begin is None or end is None else end - begin
