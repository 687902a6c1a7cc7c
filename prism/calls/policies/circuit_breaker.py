"""A plugin that fails most of its calls gets none for a while: its callers are told at once."""

import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from logging import INFO, WARNING
from typing import TYPE_CHECKING, Literal

from prism.calls.policies.policy import Measure, Policy
from prism.config.types import BreakerConfig
from prism.contract.errors import (
    CallError,
    CircuitOpen,
    DeadlineExceeded,
    PluginCrashed,
    PluginError,
    PluginMisbehaved,
)
from prism.contract.status import StatusCode
from prism.streams.outlet import turn_time
from prism.supervision.balance import SHORTEST
from prism.supervision.breaker import Breaker, CircuitState, Outcome, tried_again
from prism.supervision.instance import Instance

if TYPE_CHECKING:
    from prism.calls.call import Call
    from prism.calls.namespace import Namespace

Action = Literal["open", "close", "auto"]
"""What an operator can have of it; ``auto`` is what it does by itself."""

COUNTED = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.INTERNAL,
        StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""The plugin's answers that count as failures. All others are its callers' doing, or a good
plugin's: one that finds no such key works."""
BUSY_PAUSE = 1.0
"""Seconds after which to come again while another call is tried."""

STATE = Measure(
    "prism_breaker_state", "gauge", "Instances whose circuit breaker is in this state", ("state",)
)
CHANGES = Measure(
    "prism_breaker_changes", "counter", "Times that a circuit breaker got into a state", ("state",)
)
REFUSED = Measure("prism_breaker_refused", "counter", "Calls that a circuit breaker refused")

_OK = StatusCode.OK
_CLOSED = CircuitState.CLOSED
_GOOD, _BAD, _NOTHING = Outcome.GOOD, Outcome.BAD, Outcome.NOTHING


class CircuitBreaker(Policy):
    """The breakers of a namespace's instances; in the list where ``breaker`` is configured.

    Whether an instance may be called is decided when one is chosen: for every attempt (``begin``),
    whose end the breaker is told (``end``). A new instance has a new breaker, which is closed.
    What an operator has said (``by_hand``) is the namespace's, and holds for all of its instances.
    """

    name = "breaker"
    measures = (STATE, CHANGES, REFUSED)

    def __init__(self, namespace: "Namespace") -> None:
        self.by_hand: Action = "auto"
        self._operated: dict[str, object] = {}
        self.refused = 0
        self.changes: Counter[CircuitState] = Counter()
        self._config = BreakerConfig()
        super().__init__(namespace)

    @classmethod
    def applies(cls, namespace: "Namespace") -> bool:
        return namespace.config.breaker is not None

    def configure(self) -> None:
        if self.namespace.config.breaker is not None:
            self._config = self.namespace.config.breaker

    def discard(self) -> None:
        for instance in self._instances():
            instance.breaker = None  # if there is one again, it begins anew

    def enter(self, call: "Call") -> None:
        call.circuit = self

    def precheck(self, call: "Call") -> None:
        if self.by_hand == "close":
            return
        if self.by_hand == "open":
            self._refuse(None, 0.0)
        least: tuple[float, Breaker] | None = None
        now = turn_time()
        for instance in self._instances():
            breaker = instance.breaker
            seconds = None if breaker is None else breaker.refused_for(now)
            if breaker is None or seconds is None:
                return
            if least is None or seconds < least[0]:
                least = seconds, breaker
        if least is not None:
            self._refuse(least[1], least[0])

    def refuses(self) -> bool:
        """Would each instance's breaker refuse a call now? Nothing is counted."""
        if self.by_hand != "auto":
            return self.by_hand == "open"
        now, instances = turn_time(), self._instances()
        return bool(instances) and all(instance.is_open(now) for instance in instances)

    def is_closed(self, instance: Instance) -> bool:
        """Do all calls of ``instance`` pass?"""
        return self._state_of(instance) is CircuitState.CLOSED

    # -- one attempt ----------------------------------------------------------------

    def begin(self, instance: Instance) -> int:
        """``instance`` is to be called now. Returns what ``end`` is to be told of it.

        Raises:
            CircuitOpen: it may not; the call never ran.
        """
        if self.by_hand != "auto":
            if self.by_hand == "open":
                self._refuse(None, 0.0)
            return 0
        breaker = instance.breaker
        if breaker is None:
            breaker = instance.breaker = self._new_breaker(instance)
        elif breaker.config is not self._config:
            breaker.configure(self._config)
        if breaker.state is _CLOSED:
            return breaker.period
        now = turn_time()
        seconds = breaker.refused_for(now)
        if seconds is not None:
            self._refuse(breaker, seconds)
        return breaker.begin(now)

    def end(
        self,
        instance: Instance,
        period: int,
        error: CallError | None,
        status: StatusCode,
        seconds: float | None,
    ) -> None:
        """The attempt has ended with ``error``, or the plugin's answer of ``status``, after
        ``seconds``. Of a stream, for which that is None, it is the opening that counts."""
        breaker = instance.breaker
        if breaker is None or period != breaker.period:
            return
        if error is None and status is _OK:
            outcome = _GOOD
        else:
            outcome = _outcome(error, status, seconds)
        breaker.end(period, outcome, seconds or 0.0, turn_time())

    def _new_breaker(self, instance: Instance) -> Breaker:
        return Breaker(self._config, partial(self._note, instance.id))

    def _note(self, instance: str, _before: CircuitState, after: CircuitState, reason: str) -> None:
        self.changes[after] += 1
        level = WARNING if after is CircuitState.OPEN else INFO
        said = f"{after.replace('_', ' ')}: {reason}"
        self.namespace.slot.journal.step("breaker", instance, said, level=level)

    def _refuse(self, breaker: Breaker | None, seconds: float) -> None:
        self.refused += 1
        name = self.namespace.name
        if breaker is None:
            raise CircuitOpen(name, "an operator has opened it")
        if breaker.state is CircuitState.OPEN:
            why = f"{breaker.reason}; {tried_again(seconds)}"
            raise CircuitOpen(name, why, retry_after=seconds)
        pause = min(seconds, BUSY_PAUSE)
        raise CircuitOpen(name, "a call was let through, to see how it goes", retry_after=pause)

    # -- what operators do, and see ---------------------------------------------------

    def operate(self, action: Action, by: str) -> None:
        """Keep it open, or closed, for all instances, as ``by`` wants it; or have it go by their
        calls, anew."""
        if action == self.by_hand:
            return
        self.by_hand = action
        self._operated = {} if action == "auto" else {"by": by, "since": time.time()}
        said = {"open": "opened by hand", "close": "closed by hand", "auto": "left to itself again"}
        told = f"{said[action]}, by {by}"
        self.namespace.slot.journal.step("breaker", "", told, level=WARNING)
        for instance in self._instances():
            if instance.breaker is not None:
                instance.breaker.reset()

    def _instances(self) -> list[Instance]:
        slot = self.namespace.slot
        return slot.instances() if slot.canary is None else [*slot.instances(), slot.canary]

    def _state_of(self, instance: Instance) -> CircuitState:
        if self.by_hand != "auto":
            return CircuitState.OPEN if self.by_hand == "open" else CircuitState.CLOSED
        return CircuitState.CLOSED if instance.breaker is None else instance.breaker.state

    def state(self) -> dict[str, object]:
        """As a whole, and each instance where there are several."""
        instances = self._instances()
        found: dict[str, object] = {"action": self.by_hand, **self._operated}
        for instance in instances:
            found |= self._described(instance) if len(instances) == 1 else {}
        if len(instances) > 1:
            found["instances"] = [{"instance": i.id, **self._described(i)} for i in instances]
        return found | {"opened": self.changes[CircuitState.OPEN], "refused": self.refused}

    def _described(self, instance: Instance) -> dict[str, object]:
        found: dict[str, object] = {"state": self._state_of(instance)}
        breaker = instance.breaker
        if breaker is None or self.by_hand != "auto":
            return found
        now, window = turn_time(), breaker.window
        if breaker.state is CircuitState.CLOSED:
            window.slide(now)
            calls = window.calls
            found["calls"] = calls
            found["error_rate"] = round(window.bad / calls, 4) if calls else 0.0
            if breaker.config.slow_seconds is not None:
                found["slow_rate"] = round(window.slow / calls, 4) if calls else 0.0
        elif breaker.state is CircuitState.OPEN:
            found["tried_in"] = round(max(breaker.open_until - now, 0.0), 3)
        else:
            found["good_probes"] = f"{breaker.good_probes} of {breaker.config.probes}"
        if breaker.reason:
            found["reason"] = breaker.reason
        return found

    def measure(self) -> Iterator[tuple[Measure, tuple[str, ...], float]]:
        states = Counter(self._state_of(instance) for instance in self._instances())
        for state in CircuitState:
            yield STATE, (state,), states[state]
            yield CHANGES, (state,), self.changes[state]
        yield REFUSED, (), self.refused


def _outcome(error: CallError | None, status: StatusCode, seconds: float | None) -> Outcome:
    """What the end of an attempt says of the plugin; not what the proxy itself has refused, nor
    what its client did."""
    if isinstance(error, DeadlineExceeded) and seconds is None:
        return _NOTHING  # a stream on which nothing happened for as long as its client wanted it
    if error is None or isinstance(error, PluginError | DeadlineExceeded):
        if status is StatusCode.DEADLINE_EXCEEDED and (seconds or 0.0) < SHORTEST:
            return _NOTHING
        return _BAD if status in COUNTED else _GOOD
    return _BAD if isinstance(error, PluginCrashed | PluginMisbehaved) else _NOTHING
