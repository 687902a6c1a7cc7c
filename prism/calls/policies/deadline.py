"""No call outlives its deadline."""

from math import inf
from typing import TYPE_CHECKING

from prism.calls.policies.policy import Policy

if TYPE_CHECKING:
    from prism.calls.call import Call


class Deadline(Policy):
    """Answers when the time is up, whether or not the plugin reacts to the cancel."""

    def enter(self, call: "Call") -> None:
        if call.deadline < inf:
            self.namespace.deadlines.add(call, call.deadline)

    def leave(self, call: "Call") -> None:
        self.namespace.deadlines.forget(call)
