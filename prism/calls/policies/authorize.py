"""A caller does no more than it may."""

from typing import TYPE_CHECKING

from prism.access.permissions import closed_namespace, needed
from prism.calls.policies.policy import Policy

if TYPE_CHECKING:
    from prism.calls.call import Call
    from prism.calls.namespace import Namespace


class Authorize(Policy):
    """Refuses who may not make the call, as far as that can be said before its body is read.
    In the list only where clients are authenticated.

    What the operation takes is known for certain only when an instance is chosen, and over gRPC
    even its name comes with the body: ``invoke`` has the last word.
    """

    @classmethod
    def applies(cls, namespace: "Namespace") -> bool:
        return namespace.access is not None

    def enter(self, call: "Call") -> None:
        access = self.namespace.access
        if access is None:
            return
        declared = self.namespace.slot.operations.get(call.operation)
        if declared is not None:
            call.needs = needed(declared)
            call.decision = access.check(call.identity, call.operation, call.needs)
        elif not access.admits(call.identity):
            raise closed_namespace(call.identity, self.namespace.name)
