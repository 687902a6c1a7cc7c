"""A call that takes long is made a second time, and the first answer counts.

Most calls that are slow are so by chance: a lock, a collection of garbage, a disk, a lost packet.
The same call made again is most likely not. So it is, once it has taken longer than most calls of
its operation do (J. Dean and L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013), if the plugin
has declared the operation idempotent: both attempts may run.

Theory of operation. The first attempt is the call's own: its channel is given the ``Call``, as
always. ``Hedge`` is the alarm that goes off once it takes long; what its channel is given then is a
``SecondAttempt``, which has a lease of its own. An attempt that fails while the other one runs is
over, and the call waits for that one. An answer ends the call, and with it (``Call.close``) the
other attempt. So no more than two attempts of a call run at a time, and it has one answer.
"""

import logging
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Final

import trio

from prism.calls.budget import Budget
from prism.calls.deadlines import Alarm
from prism.calls.policies.policy import Measure, Policy
from prism.config.types import HedgingConfig
from prism.contract.errors import (
    NEVER_BEGAN,
    CallCancelled,
    CallError,
    DeadlineExceeded,
    InternalError,
    PluginError,
)
from prism.contract.messages import ExecuteResponse
from prism.contract.status import StatusCode
from prism.streams.outlet import turn_time
from prism.supervision.instance import Instance
from prism.supervision.latencies import Latencies

if TYPE_CHECKING:
    from prism.calls.call import Call
    from prism.calls.memory import AnswerHold
    from prism.calls.namespace import Namespace

log = logging.getLogger("prism.calls")

KEPT = 2000
"""Calls of an operation by which its percentile goes, at most; half as many at least, once it had
them."""
ENOUGH = 50
"""Calls of an operation after which its percentile is believed."""
LOOK_EVERY = 32
"""Calls after which the percentile is looked up anew."""
MAX_OPERATIONS = 1000
"""Operations whose latencies are kept."""
SHORTEST = 0.001
"""Seconds before a hedge at least: to be made earlier it would cost more than it brings."""

_UNAVAILABLE = StatusCode.UNAVAILABLE
_CANCELLED = StatusCode.CANCELLED
_DEADLINE_EXCEEDED = StatusCode.DEADLINE_EXCEEDED

_SENT: Final = Measure("prism_hedges", "counter", "Second attempts of calls that took long")
_WON: Final = Measure("prism_hedges_won", "counter", "Of these, those that answered the call")
_LOST: Final = Measure(
    "prism_hedges_lost", "counter", "Of these, those that the first attempt's answer was before"
)
_REFUSED: Final = Measure(
    "prism_hedges_over_budget", "counter", "Calls that took long, and had none for lack of budget"
)
_LEFT: Final = Measure("prism_hedges_left", "gauge", "Hedges that the budget has now")


class _Operation:
    """How long the calls of one operation take; ``after`` is when they are hedged."""

    __slots__ = ("after", "latencies", "looked")

    def __init__(self) -> None:
        self.latencies = Latencies(KEPT)
        self.after = inf
        self.looked = 0


class Hedging(Policy):
    """Makes calls a second time that take long, as long as its budget allows it."""

    name = "hedging"
    measures = (_SENT, _WON, _LOST, _REFUSED, _LEFT)

    def __init__(self, namespace: "Namespace") -> None:
        self.budget = Budget()
        self.sent = self.won = self.lost = 0
        self._seconds: float | None = None
        self._share = 0.0
        self._operations: dict[str, _Operation] = {}
        super().__init__(namespace)

    @classmethod
    def applies(cls, namespace: "Namespace") -> bool:
        return namespace.config.hedging is not None

    def configure(self) -> None:
        config = self.namespace.config.hedging or HedgingConfig()
        self.budget.share = config.budget
        after = config.after
        if isinstance(after, str):
            self._seconds, self._share = None, float(after[1:]) / 100
        else:
            self._seconds = float(after)
        for operation in self._operations.values():
            self._look_up(operation)

    def state(self) -> dict[str, object]:
        after = f"p{self._share * 100:g}" if self._seconds is None else self._seconds
        return {
            "after": after,
            "after_ms": {
                name: round(operation.after * 1000, 3)
                for name, operation in self._operations.items()
                if operation.after < inf
            },
            "budget": self.budget.share,
            "left": round(self.budget.left, 1),
            "sent": self.sent,
            "won": self.won,
            "lost": self.lost,
            "over_budget": self.budget.refused,
        }

    def measure(self) -> Iterator[tuple[Measure, tuple[str, ...], float]]:
        yield _SENT, (), self.sent
        yield _WON, (), self.won
        yield _LOST, (), self.lost
        yield _REFUSED, (), self.budget.refused
        yield _LEFT, (), self.budget.left

    def enter(self, call: "Call") -> None:
        self.budget.add_call()
        if call.stream is None and self.namespace.slot.is_idempotent(call.operation):
            call.hedge = Hedge(call, self)

    def after(self, name: str) -> float:
        """Seconds after which a call of the operation ``name`` is hedged."""
        return self._operation(name).after

    def take(self, name: str, seconds: float) -> None:
        """The first attempt of a call took ``seconds``, or was not waited for any longer."""
        operation = self._operation(name)
        operation.latencies.take(seconds)
        operation.looked -= 1
        if operation.looked < 0:
            self._look_up(operation)

    def _operation(self, name: str) -> _Operation:
        operation = self._operations.get(name)
        if operation is None:
            if len(self._operations) >= MAX_OPERATIONS:
                self._operations.clear()
            operation = self._operations[name] = _Operation()
            self._look_up(operation)
        return operation

    def _look_up(self, operation: _Operation) -> None:
        if self._seconds is not None:
            operation.after = self._seconds
        elif operation.latencies.count >= ENOUGH:
            operation.after = max(operation.latencies.percentile(self._share), SHORTEST)
            operation.looked = LOOK_EVERY
        else:
            operation.after = inf


def _is_idempotent(instance: Instance, operation: str) -> bool:
    """Has the instance declared that the operation may be made twice?"""
    declared = instance.operations.get(operation)
    return declared is not None and declared.idempotent


class Hedge(Alarm):
    """When ``call`` is to be made a second time; ``was_made`` says whether it was. ``second`` is
    that attempt, until the call ends, which it holds."""

    __slots__ = ("_began", "_call", "_policy", "second", "was_made")

    def __init__(self, call: "Call", policy: Hedging) -> None:
        super().__init__(inf)
        self._call: Call | None = call  # until it ends, so that the two do not hold each other
        self._policy = policy
        self._began = inf  # when the call's own attempt did, if its latency tells something
        self.second: SecondAttempt | None = None
        self.was_made = False

    def begin(self, instance: Instance) -> None:
        """The call's own attempt begins, on ``instance``: its first, or a retry. One hedge is made
        of all of them together."""
        call, alarms = self._call, self._policy.namespace.deadlines.alarms
        if call is None:
            return
        if self.was_made or not _is_idempotent(instance, call.operation):
            self._began = inf
            alarms.forget(self)
            return
        self._began = turn_time()
        self.due = self._began + self._policy.after(call.operation)
        if self.due < call.deadline:
            alarms.add(self)

    def ring(self) -> None:
        """The call's own attempt takes long: make the second one, on another instance if there is
        one."""
        call = self._call
        first = None if call is None else call.instance
        if call is None or first is None:
            return
        try:
            instance = self._policy.namespace.slot.choose(avoid=first)
        except CallError:
            return
        if not (instance.takes_calls and _is_idempotent(instance, call.operation)):
            return
        if call.circuit is not None and not call.circuit.is_closed(instance):
            return  # it has enough to do, or a single call is let through to see how it goes
        if not self._policy.budget.take():
            return
        self._policy.sent += 1
        self.was_made = True
        self.second = SecondAttempt(self, call, instance)
        self.second.start()

    @property
    def is_running(self) -> bool:
        """Is there an answer of the second attempt to wait for?"""
        return self.second is not None and self.second.instance is not None

    def won(self) -> None:
        """The second attempt's answer is the call's."""
        self._policy.won += 1
        call = self._call
        if call is not None and call.instance is not None:
            # It would have taken longer than it was waited for. Of the slow ones it is anyway,
            # which is all that the percentile asks for.
            self._policy.take(call.operation, turn_time() - self._began)
        self._began = inf

    def close(self, error: CallError | None) -> None:
        """The call ends, with ``error`` or an answer."""
        call, self._call = self._call, None
        if call is None:
            return
        self._policy.namespace.deadlines.alarms.forget(self)
        is_answered = error is None or (
            isinstance(error, PluginError) and error.status is not _UNAVAILABLE
        )
        is_late = isinstance(error, DeadlineExceeded)
        second, self.second = self.second, None
        if second is not None and second.instance is not None:
            self._policy.lost += is_answered
            second.abandon(
                error or CallCancelled("the first attempt has answered"),
                _DEADLINE_EXCEEDED if is_late else _CANCELLED,
            )
        is_waited_for = is_late and call.instance is not None
        if self._began < inf and (is_answered or is_waited_for):
            self._policy.take(call.operation, turn_time() - self._began)


class SecondAttempt:
    """A call made once more, beside its own attempt: the channels' ``UnaryCall``.

    ``instance`` is what it holds while it runs. What becomes of it, the call is told, if that has
    nothing better from its own attempt.
    """

    __slots__ = (
        "_began",
        "_call",
        "_hedge",
        "_period",
        "_waiting",
        "deadline",
        "done",
        "instance",
        "metadata",
        "namespace",
        "operation",
        "params",
        "principal",
        "raw",
        "request_id",
        "stream_number",
        "tasks",
        "traceparent",
        "tracestate",
    )

    def __init__(self, hedge: Hedge, call: "Call", instance: Instance) -> None:
        self._hedge = hedge
        self._call = call
        self._began = turn_time()
        self._period = 0 if call.circuit is None else call.circuit.begin(instance)
        self._waiting: trio.CancelScope | None = None
        self.instance: Instance | None = instance
        self.done = False
        self.stream_number = 0
        self.tasks = call.tasks
        self.namespace = call.namespace
        self.operation = call.operation
        self.principal = call.principal
        self.params = call.params
        self.raw = call.raw
        self.request_id = call.request_id
        self.traceparent = call.traceparent
        self.tracestate = call.tracestate
        self.metadata = call.metadata
        self.deadline = call.deadline

    def start(self) -> None:
        """Hand it to its instance."""
        instance = self.instance
        assert instance is not None  # noqa: S101 - it has just been made
        instance.acquire()
        try:
            instance.channel.start(self)
        except CallError as error:
            self.failed(error)
        except Exception:
            log.exception("request %s failed", self.request_id)
            self.failed(InternalError())

    def plugin_metadata(self) -> dict[str, str]:
        """What the plugin is told beside the params."""
        return self._call.plugin_metadata()

    def new_answer_memory(self) -> "AnswerHold":
        """Where an answer that is still arriving is counted."""
        return self._call.new_answer_memory()

    def wait_for(self, waiting: trio.CancelScope) -> None:
        """``waiting`` is to be cancelled if the call ends before."""
        self._waiting = waiting

    def answered(self, response: ExecuteResponse) -> None:
        """Its plugin has answered: so is the call, unless that is to say that it cannot, and the
        call's own attempt still runs."""
        call = self._call
        if self.instance is None:
            return
        if response.success or StatusCode.from_wire(response.error_code) is not _UNAVAILABLE:
            self._hedge.won()
            call.abandon_attempt(self.instance)
        elif call.instance is not None:
            self._release(None, _UNAVAILABLE)
            return
        self._become_the_calls()
        call.answered(response)

    def failed(self, error: CallError) -> None:
        """There will be no answer: that of the call's own attempt counts, if it still runs."""
        if self.instance is None:
            return
        if self._call.instance is not None:
            self._release(error, error.status)
            return
        self._become_the_calls()
        self._call.failed(error)

    def abandon(self, error: CallError, status: StatusCode) -> None:
        """Nobody waits for its answer any more."""
        instance, waiting = self.instance, self._waiting
        if instance is not None:
            try:
                instance.channel.cancel(self, status)
            finally:
                self._release(error, status)
        if waiting is not None:
            waiting.cancel()

    def _become_the_calls(self) -> None:
        """What follows is as if the call had been made here in the first place."""
        instance, self.instance = self.instance, None
        self.done = True
        if instance is not None:
            self._call.take_attempt(instance, self._began, self._period)

    def _release(self, error: CallError | None, status: StatusCode) -> None:
        instance, self.instance = self.instance, None
        self.done = True
        if instance is not None:
            seconds, call = turn_time() - self._began, self._call
            if call.plugin_seconds is None and not isinstance(error, NEVER_BEGAN):
                call.plugin_seconds = seconds
            call.let_go(instance, self._period, error, status, seconds)
