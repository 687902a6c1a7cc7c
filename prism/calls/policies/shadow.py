"""Calls are copied to a second plugin, whose answers are compared and thrown away.

Theory of operation. A call that is to be copied gets a ``Mirror`` as its witness. When the call is
given to its instance (so it may be made, and its params are good), the copy is put into the
shadow's queue; a task of the shadow's own sends it afterwards, so the call's frame never waits for
it. The two answers come in any order. Once both are there, another task compares them, one call's
after the other's, so that copies are sent and given up in time meanwhile.

Nothing of this comes back to the call: a copy has a lease on the shadow's instance and none on the
namespace's, a deadline of its own that is as long, and an account of its own for its params and
both answers. What does not fit is not copied, or not compared, and counted.
"""

import logging
import random
import time
from collections import Counter, deque
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING

import trio

from prism.calls.comparison import (
    ALL_NAMES,
    MAX_COMPARED,
    NOTHING_IGNORED,
    Answer,
    Ignored,
    Names,
    Outcome,
    ResultDifference,
    ShadowReport,
    Tally,
    compare,
    declared_names,
)
from prism.calls.memory import Account, AnswerHold
from prism.calls.policies.policy import Measure, Policy, Witness
from prism.config.types import ShadowConfig
from prism.contract.errors import (
    AnswerDropped,
    CallCancelled,
    CallError,
    DeadlineExceeded,
    Draining,
    InternalError,
    PluginUnavailable,
)
from prism.contract.messages import ExecuteResponse, OperationAccess, OperationDeclaration
from prism.contract.service import (
    NAMESPACE_KEY,
    PRINCIPAL_KEY,
    REQUEST_ID_KEY,
    TRACEPARENT_KEY,
    TRACESTATE_KEY,
)
from prism.contract.status import StatusCode
from prism.streams.outlet import turn_time
from prism.streams.tasks import TaskPool
from prism.supervision.instance import Instance

if TYPE_CHECKING:
    from prism.calls.call import Call
    from prism.calls.namespace import Namespace

log = logging.getLogger("prism.calls")

OVERHEAD = 2048
"""Bytes that are counted for what a copy takes beside its own, at a guess."""
SHADOW_METADATA = "prism-shadow"
"""Tells a plugin that a call is a copy."""
MAX_KNOWN = 500
"""Operations whose names are kept; then they are found anew."""
SMALL = 2 * 1024
"""Bytes of two answers up to which they are compared in the event loop: some hundred
microseconds; larger ones in a thread."""

_OK = StatusCode.OK
_COPIES = Measure(
    "prism_shadow_copies",
    "counter",
    "Calls copied to the shadow, by what came of the comparison",
    ("outcome",),
)
_DROPPED = Measure(
    "prism_shadow_dropped", "counter", "Calls that were not copied, or not compared", ("reason",)
)
_IN_FLIGHT = Measure("prism_shadow_in_flight", "gauge", "Copies that the shadow has now")
_BYTES = Measure("prism_shadow_bytes", "gauge", "Bytes of copies and of both answers to them")

OUTCOMES: dict[str, Outcome] = {
    "equal": "equal",
    "different": "different",
    "only_plugin_failed": "only_old_failed",
    "only_shadow_failed": "only_new_failed",
}
"""What operators call the outcomes of a comparison."""
REASONS = ("no_plugin", "in_flight", "memory", "cancelled")


class Shadow(Policy):
    """Copies calls to the namespace's shadow. In the list only where it has one."""

    name = "shadow"
    measures = (_COPIES, _DROPPED, _IN_FLIGHT, _BYTES)

    def __init__(self, namespace: "Namespace") -> None:
        self.config = ShadowConfig()
        self.tally = Tally()
        self.dropped: Counter[str] = Counter()
        self.copied = 0
        self.since = time.time()
        self.account = Account(f"the copies of namespace {namespace.name!r} for its shadow", 0)
        self.open: set[Copy] = set()
        self.tasks: TaskPool | None = None
        self._further: frozenset[str] = frozenset()
        self._ignored: Ignored = NOTHING_IGNORED
        self._waiting: deque[Copy] = deque()
        self._answered: deque[Copy] = deque()
        self._runs = False
        self._compares = False
        self._woken = trio.Event()
        self._told: set[tuple[str, str]] = set()
        self._known_names: dict[
            str, tuple[OperationDeclaration | None, OperationDeclaration | None, Names]
        ] = {}
        super().__init__(namespace)

    @classmethod
    def applies(cls, namespace: "Namespace") -> bool:
        return namespace.config.shadow is not None and namespace.shadow is not None

    def configure(self) -> None:
        config = self.namespace.config.shadow
        assert config is not None  # noqa: S101 - as `applies` says
        before, self.config = self.config, config
        self.account.limit = config.max_bytes
        self._further = frozenset(config.operations)
        self._ignored = Ignored(config.ignore)
        if _is_other(before, config):  # what was seen of another plugin says nothing of this one
            self.discard()
            self.tally, self.dropped, self.copied = Tally(), Counter(), 0
            self.since = time.time()
            self._told = set()

    def discard(self) -> None:
        for copy in list(self.open):
            copy.abandon()
        self._woken.set()  # the task that sends them has nothing to do any more

    def enter(self, call: "Call") -> None:
        if call.stream is not None or not self._is_copied(call.operation):
            return
        share = self.config.share
        if share >= 1 or random.random() < share:  # noqa: S311 - a sample
            call.witnesses = (*call.witnesses, Mirror(self))

    def _is_copied(self, operation: str) -> bool:
        declared = self.namespace.slot.operations.get(operation)
        if declared is None or declared.streaming:
            return False
        is_read = declared.idempotent and declared.access is OperationAccess.READ
        return is_read or operation in self._further

    # -- copies -----------------------------------------------------------------------

    def copy(self, call: "Call") -> "Copy | None":
        """A copy of ``call``, which will be sent soon; None, and counted, if there is no room."""
        shadow = self.namespace.shadow
        tasks = self.namespace.tasks()
        if shadow is None or shadow.current is None or tasks is None:
            self.dropped["no_plugin"] += 1
            return None
        if len(self.open) >= self.config.max_in_flight:
            self.dropped["in_flight"] += 1
            return None
        copy = Copy(self, call, tasks)
        if not copy.take_room(copy.size):
            return None
        self.tasks = tasks
        self.copied += 1
        self.open.add(copy)
        self._waiting.append(copy)
        self._wake(tasks)
        return copy

    def compare_soon(self, copy: "Copy") -> None:
        """Both answers to the call are there."""
        self._answered.append(copy)
        if self.tasks is not None and not self._compares:
            self._compares = True
            self.tasks.start(self._compare_all)

    def _wake(self, tasks: TaskPool) -> None:
        if self._runs:
            self._woken.set()
        else:
            self._runs = True
            tasks.start(self._run)

    async def _run(self) -> None:
        """Send copies, and give up those whose time is up; while there are any.

        Cancelling gives them all up, so that the shadow's instance can go.
        """
        try:
            while self.open:
                self._woken = trio.Event()
                while self._waiting:
                    self._waiting.popleft().send()
                due = inf
                now = trio.current_time()
                for copy in list(self.open):
                    if copy.deadline <= now:
                        copy.expire()
                    elif copy.deadline < due:
                        due = copy.deadline
                if self.open and not self._waiting:
                    with trio.move_on_at(due):
                        await self._woken.wait()
        finally:
            self._runs = False
            self.discard()
            self._waiting.clear()

    async def _compare_all(self) -> None:
        """Compare answers while there are any."""
        try:
            while self._answered:
                copy = self._answered.popleft()
                try:
                    await self._compare(copy)
                except Exception:
                    log.exception("the answers to request %s were not compared", copy.request_id)
                finally:
                    copy.free()
                await trio.lowlevel.checkpoint()
        finally:
            self._compares = False
            self._answered.clear()
            self._woken.set()  # perhaps no copy is left

    async def _compare(self, copy: "Copy") -> None:
        old, new = copy.old, copy.new
        if old is None or new is None or copy.done:
            return
        show_values = self.config.values == "keep"
        declared = self._names(copy.operation)
        names = ALL_NAMES if show_values else declared
        ignored, tally = self._ignored, self.tally
        is_told = (copy.instance_id, copy.operation) in self._told

        def both() -> tuple[list[ResultDifference], list[ResultDifference]]:
            """What is reported, and what is logged: who may see the one may not see the other."""
            found = compare(old, new, ignored, names, show_values=show_values)
            if not show_values or not found or is_told:
                return found, found
            return found, compare(old, new, ignored, declared)

        if SMALL < old.size + new.size < 2 * MAX_COMPARED:
            found, logged = await trio.to_thread.run_sync(both)
        else:
            found, logged = both()
        outcome = tally.add(copy.operation, copy.request_id, old, new, found, time.time())
        if outcome != "equal" and tally is self.tally:
            self._tell(copy, logged[0])

    def _names(self, operation: str) -> Names:
        """The names that may be shown: found once for what the two instances declare."""
        shadow = self.namespace.shadow
        ours = self.namespace.slot.operations.get(operation)
        theirs = None if shadow is None else shadow.operations.get(operation)
        found = self._known_names.get(operation)
        if found is None or found[0] is not ours or found[1] is not theirs:
            found = (ours, theirs, declared_names(ours, theirs))
            if len(self._known_names) >= MAX_KNOWN:
                self._known_names.clear()
            self._known_names[operation] = found
        return found[2]

    def _tell(self, copy: "Copy", first: ResultDifference) -> None:
        """Say that answers differ: once for each operation of an instance."""
        key = (copy.instance_id, copy.operation)
        shadow = self.namespace.shadow
        if key in self._told or shadow is None or shadow.journal is None:
            return
        # Those of instances that are gone will not come again.
        present = {copy.instance_id, *(instance.id for instance in shadow.instances())}
        self._told = {told for told in self._told if told[0] in present} | {key}
        what = f"{first.kind} at {first.path}"
        if first.kind == "status":
            what = f"{first.old} here, {first.new} of the shadow"
        shadow.journal.differs(
            copy.instance_id, f"the first difference of {copy.operation}: {what}"
        )

    # -- what is shown ------------------------------------------------------------------

    def report(self) -> ShadowReport:
        """All that was compared."""
        shadow, tally = self.namespace.shadow, self.tally
        instance = shadow.current if shadow is not None else None
        old, new = tally.latencies
        return ShadowReport(
            namespace=self.namespace.name,
            instance=None if instance is None else instance.id,
            version=None if instance is None else instance.version,
            share=self.config.share,
            since=self.since,
            copied=self.copied,
            in_flight=len(self.open),
            outcomes={name: tally.outcomes[each] for name, each in OUTCOMES.items()},
            dropped={each: self.dropped[each] for each in REASONS},
            latency=old,
            shadow_latency=new,
            differences=tally.groups,
            other_differences=tally.other_differences,
            recent=list(tally.recent),
        )

    def state(self) -> dict[str, object]:
        counts: dict[str, object] = {
            name: self.tally.outcomes[each] for name, each in OUTCOMES.items()
        }
        return {
            "share": self.config.share,
            "in_flight": len(self.open),
            **counts,
            "dropped": self.dropped.total(),
        }

    def measure(self) -> Iterator[tuple[Measure, tuple[str, ...], float]]:
        for name, outcome in OUTCOMES.items():
            yield _COPIES, (name,), self.tally.outcomes[outcome]
        for reason in REASONS:
            yield _DROPPED, (reason,), self.dropped[reason]
        yield _IN_FLIGHT, (), len(self.open)
        yield _BYTES, (), self.account.used


def _is_other(before: ShadowConfig, now: ShadowConfig) -> bool:
    """Is what is compared another than before?"""
    return (before.plugin, before.config, before.credentials, before.ignore, before.values) != (
        now.plugin,
        now.config,
        now.credentials,
        now.ignore,
        now.values,
    )


class Mirror(Witness):
    """Sees a call that is to be copied, has it copied, and tells the copy how it ended."""

    def __init__(self, shadow: Shadow) -> None:
        self._shadow = shadow
        self._copy: Copy | None = None
        self._has_begun = False

    def began(self, call: "Call") -> None:
        if not self._has_begun:  # else it is a further attempt
            self._has_begun = True
            self._copy = self._shadow.copy(call)

    def answered(self, call: "Call", response: ExecuteResponse) -> None:
        copy, self._copy = self._copy, None
        if copy is not None:
            copy.note_old(_answer(response, call.plugin_seconds or 0.0))

    def ended(self, call: "Call", error: CallError | None) -> None:
        copy, self._copy = self._copy, None
        if copy is None or copy.done:
            return
        if error is None or isinstance(error, CallCancelled | Draining):
            self._shadow.dropped["cancelled"] += 1
            copy.abandon()
        else:
            copy.note_old(Answer(error.status, seconds=call.plugin_seconds or 0.0))


class Copy:
    """One call of the shadow's channel, which is a copy of a client's.

    ``old`` and ``new`` are what the namespace's plugin and the shadow's answered. ``done``: it is
    over, and holds nothing.
    """

    def __init__(self, shadow: Shadow, call: "Call", tasks: TaskPool) -> None:
        self.shadow = shadow
        self.tasks = tasks
        self.namespace, self.operation = call.namespace, call.operation
        self.principal, self.request_id = call.principal, call.request_id
        self.params, self.raw = call.params, call.raw
        self.traceparent, self.tracestate = call.traceparent, call.tracestate
        self.metadata: dict[str, str] | None = {**(call.metadata or {}), SHADOW_METADATA: "1"}
        # As long as the client's call has: one that is slower than that is worth knowing.
        self.deadline = turn_time() + (call.deadline - call.started)
        self.done = False
        self.stream_number = 0
        self.old: Answer | None = None
        self.new: Answer | None = None
        self.instance_id = ""
        self._instance: Instance | None = None
        self._sent = 0.0
        self._held: AnswerHold | None = None
        self._waiting: trio.CancelScope | None = None

    def note_old(self, answer: Answer) -> None:
        """The namespace's plugin has answered."""
        if not self.done and self.old is None and self.take_room(self._bytes + answer.size):
            self.old = answer
            self._compare_soon()

    # -- as a call of a channel's ----------------------------------------------------------

    def plugin_metadata(self) -> dict[str, str]:
        """What the plugin is told: as for the client's call, and that it is a shadow."""
        metadata = {
            NAMESPACE_KEY: self.namespace,
            PRINCIPAL_KEY: self.principal,
            REQUEST_ID_KEY: self.request_id,
            TRACEPARENT_KEY: self.traceparent,
        }
        if self.tracestate:
            metadata[TRACESTATE_KEY] = self.tracestate
        return {**metadata, **(self.metadata or {})}

    def new_answer_memory(self) -> AnswerHold:
        """Where an answer is counted that is still arriving."""
        return AnswerHold(self.shadow.account)

    def wait_for(self, waiting: trio.CancelScope) -> None:
        """``waiting`` is cancelled if the copy is given up."""
        self._waiting = waiting

    def send(self) -> None:
        """Give the copy to the shadow's instance."""
        if self.done:
            return
        slot = self.shadow.namespace.shadow
        try:
            instance = None if slot is None else slot.choose()
        except PluginUnavailable:
            instance = None
        if instance is None or not instance.takes_calls:
            self.shadow.dropped["no_plugin"] += 1
            self.abandon()
            return
        self.instance_id = instance.id
        self._sent = turn_time()
        if self.operation not in instance.operations:
            self._note_new(Answer(StatusCode.UNIMPLEMENTED))
            return
        instance.acquire()
        self._instance = instance
        try:
            instance.channel.start(self)
        except CallError as error:
            self.failed(error)
        except Exception:
            log.exception("the copy of request %s failed", self.request_id)
            self.failed(InternalError())

    def answered(self, response: ExecuteResponse) -> None:
        """The shadow has answered."""
        answer = _answer(response, turn_time() - self._sent)
        self._release(None, answer.status)
        self._note_new(answer)

    def failed(self, error: CallError) -> None:
        """The shadow gave no answer."""
        self._release(error, error.status)
        self._note_new(Answer(error.status, seconds=turn_time() - self._sent))

    def expire(self) -> None:
        """The time is up. What the shadow has not answered by then is compared as that."""
        if self.new is None:
            self._cancel(StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded("the shadow is too slow"))
            self._note_new(Answer(StatusCode.DEADLINE_EXCEEDED, seconds=turn_time() - self._sent))
        # The client's call may have until then, too, and has a moment to end.
        self.deadline = inf

    def _note_new(self, answer: Answer) -> None:
        if not self.done and self.new is None and self.take_room(self._bytes + answer.size):
            self.new = answer
            self.params = self.raw = b""
            self._compare_soon()

    # -- its end ----------------------------------------------------------------------------

    def _compare_soon(self) -> None:
        if self.old is not None and self.new is not None:
            self.shadow.compare_soon(self)

    @property
    def size(self) -> int:
        """Bytes of the params, and of all beside them."""
        return len(self.params) + len(self.raw) + OVERHEAD

    @property
    def _bytes(self) -> int:
        return 0 if self._held is None else self._held.size

    def take_room(self, size: int) -> bool:
        """Have ``size`` bytes; if there is no room, give the copy up."""
        if self._held is None:
            self._held = AnswerHold(self.shadow.account)
        try:
            self._held.resize(size)
        except AnswerDropped:
            self.shadow.dropped["memory"] += 1
            self.abandon()
            return False
        return True

    def abandon(self) -> None:
        """Give it up: nothing of it is compared any more."""
        self._cancel(StatusCode.CANCELLED, CallCancelled("the copy was given up"))
        self.free()

    def free(self) -> None:
        """Hold nothing any more."""
        self.done = True
        self.params = self.raw = b""
        self.old = self.new = None
        if self._held is not None:
            self._held.release()
        self.shadow.open.discard(self)

    def _cancel(self, status: StatusCode, error: CallError) -> None:
        instance = self._instance
        if instance is not None:
            instance.channel.cancel(self, status)
            self._release(error, status)
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _release(self, error: CallError | None, status: StatusCode) -> None:
        instance, self._instance = self._instance, None
        if instance is not None:
            instance.release(error, turn_time() - self._sent, status)


def _answer(response: ExecuteResponse, seconds: float) -> Answer:
    if response.success:
        return Answer(_OK, response.result_json, response.result_raw, seconds)
    status = StatusCode.from_wire(response.error_code) or StatusCode.UNKNOWN
    return Answer(status, seconds=seconds)
