"""A namespace runs a bounded number of calls at a time."""

from typing import TYPE_CHECKING

from prism.calls.policies.policy import Policy
from prism.contract.errors import TooManyInFlight

if TYPE_CHECKING:
    from prism.calls.call import Call


class InFlightLimit(Policy):
    """Refuses the call that would be one too many, at once: a queue would only add delay.

    Streams are ``StreamLimit``'s.
    """

    def enter(self, call: "Call") -> None:
        if call.stream is None:
            self.precheck(call)
            self.namespace.in_flight += 1

    def precheck(self, call: "Call") -> None:
        namespace = self.namespace
        limit = namespace.limits.max_in_flight
        if namespace.in_flight >= limit and call.stream is None:
            raise TooManyInFlight(namespace.name, limit)

    def leave(self, call: "Call") -> None:
        if call.stream is None:
            self.namespace.in_flight -= 1
