"""A namespace runs a bounded number of calls at a time."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from prism.calls.admission import INSIDE, WAITING, Admission, Ticket
from prism.calls.policies.policy import Measure, Policy
from prism.contract.errors import TooManyInFlight
from prism.contract.status import StatusCode
from prism.streams.outlet import turn_time

if TYPE_CHECKING:
    from prism.calls.call import Call
    from prism.calls.namespace import Namespace

REFUSED = Measure(
    "prism_in_flight_refused",
    "counter",
    "Calls refused for want of a place",
    ("cause",),
)
LIMIT = Measure("prism_in_flight_limit", "gauge", "Calls that may be in flight now")
QUEUED = Measure("prism_queue_calls", "gauge", "Calls that wait for a place")
DEQUEUED = Measure(
    "prism_queue_left",
    "counter",
    "Calls that were in the queue, by what became of them there",
    ("outcome",),
)
QUEUE_SECONDS = Measure("prism_queue_wait_seconds", "counter", "Time that these were in the queue")

_OK, _LATE = StatusCode.OK, StatusCode.DEADLINE_EXCEEDED


class InFlightLimit(Policy):
    """Refuses the call that would be one too many, at once; or has it wait, where the namespace
    has a queue. Streams are ``StreamLimit``'s.

    Without a queue, shares and an adaptive limit this is a count. An ``Admission`` is there from
    when one of them is configured first, and stays. A call that is made again keeps its place.
    """

    name: ClassVar[str] = "concurrency"
    measures: ClassVar[tuple[Measure, ...]] = (REFUSED, LIMIT, QUEUED, DEQUEUED, QUEUE_SECONDS)

    def __init__(self, namespace: "Namespace") -> None:
        self.admission: Admission | None = None
        self._tickets: dict[Call, Ticket] = {}
        self._refused = 0
        self._is_admitting = False
        super().__init__(namespace)

    def configure(self) -> None:
        namespace, limits = self.namespace, self.namespace.limits
        adaptive = limits.adaptive
        if self.admission is None:
            if not limits.max_queued and not limits.fair_shares and adaptive is None:
                return
            self.admission = Admission(namespace.name, namespace.in_flight)
            self.admission.refused["in_flight"] = self._refused
        bounds = None
        if adaptive is not None:
            bounds = (adaptive.min, adaptive.max or limits.max_in_flight)
        self.admission.configure(
            limits.max_in_flight, limits.max_queued, fair=limits.fair_shares, adaptive=bounds
        )
        self._admit(self.admission)

    def state(self) -> dict[str, object]:
        admission = self.admission
        if admission is None:
            return {"limit": self.namespace.limits.max_in_flight, "refused": self._refused}
        state: dict[str, object] = {
            "limit": admission.limit,
            "refused": admission.refused.total(),
            "queued": admission.queued,
        }
        if admission.fair:
            state["principals"] = admission.principals
        if admission.gradient is not None:
            state["probing"] = admission.gradient.is_probing
        return state

    def measure(self) -> Iterator[tuple[Measure, tuple[str, ...], float]]:
        admission = self.admission
        if admission is None:
            yield LIMIT, (), self.namespace.limits.max_in_flight
            yield REFUSED, ("in_flight",), self._refused
            return
        yield LIMIT, (), admission.limit
        yield QUEUED, (), admission.queued
        yield QUEUE_SECONDS, (), admission.queue_seconds
        for cause, number in admission.refused.items():
            yield REFUSED, (cause,), number
        for outcome, number in admission.dequeued.items():
            yield DEQUEUED, (outcome,), number

    def enter(self, call: "Call") -> bool | None:
        if call.stream is not None:
            return None
        admission = self.admission
        if admission is not None:
            return self._ask(admission, call)
        namespace = self.namespace
        limit = namespace.limits.max_in_flight
        if namespace.in_flight >= limit:
            self._refused += 1
            raise TooManyInFlight(namespace.name, limit)
        namespace.in_flight += 1
        return None

    def precheck(self, call: "Call") -> None:
        if call.stream is not None:
            return
        admission = self.admission
        if admission is not None:
            admission.check(call.principal, call.deadline, turn_time())
            return
        namespace = self.namespace
        limit = namespace.limits.max_in_flight
        if namespace.in_flight >= limit:
            self._refused += 1
            raise TooManyInFlight(namespace.name, limit)

    def leave(self, call: "Call") -> None:
        if call.stream is not None:
            return
        admission = self.admission
        if admission is None:
            self.namespace.in_flight -= 1
            return
        ticket = self._tickets.pop(call, None)
        if ticket is None:
            admission.leave_unknown()
        else:
            now = turn_time()
            most = max(ticket.most, admission.inside)
            was_inside = ticket.state == INSIDE
            admission.leave(ticket, now)
            if was_inside and admission.gradient is not None:
                self._sample(admission, call, most, now)
        self.namespace.in_flight = admission.inside
        self._admit(admission)

    def _ask(self, admission: Admission, call: "Call") -> bool | None:
        ticket, displaced = admission.ask(call, call.principal, call.deadline, turn_time())
        self._tickets[call] = ticket
        self.namespace.in_flight = admission.inside
        if displaced is not None:
            limit, queued = admission.limit, admission.queued
            displaced.call.end(TooManyInFlight(self.namespace.name, limit, queued, "displaced"))
        if ticket.state != WAITING:
            return None
        call.wait_for(ticket)
        return True

    def _sample(self, admission: Admission, call: "Call", most: int, now: float) -> None:
        """Tell the adaptive limit what the plugin took. Of a call that ended otherwise it is not
        known how long it would have taken, nor whether an error says what an answer does."""
        seconds, gradient = call.plugin_seconds, admission.gradient
        if seconds is None or gradient is None:
            return
        if call.status == _OK:
            gradient.sample(call.operation, seconds, most, now)
        elif call.status == _LATE:
            gradient.sample(call.operation, seconds, most, now, timed_out=True)

    def _admit(self, admission: Admission) -> None:
        """Let in who waits, while there are places. A call that is over at once comes back here
        (``leave``): the loop that runs already has its place."""
        if self._is_admitting or not admission.queued:
            return
        self._is_admitting = True
        try:
            while (ticket := admission.next(turn_time())) is not None:
                self.namespace.in_flight = admission.inside
                if ticket.state == INSIDE:
                    ticket.call.proceed()
                else:
                    ticket.call.end(ticket.too_late())
        finally:
            self._is_admitting = False
