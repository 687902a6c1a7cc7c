"""A call that cannot be recorded does not run, where the configuration says so."""

from typing import TYPE_CHECKING

from prism.calls.policies.policy import Policy
from prism.contract.errors import AuditUnavailable

if TYPE_CHECKING:
    from prism.calls.call import Call
    from prism.calls.namespace import Namespace


class Audited(Policy):
    """Refuses calls while the audit log takes no records. In the list only where there is one;
    that each call is recorded, refused ones too, the front end sees to."""

    @classmethod
    def applies(cls, namespace: "Namespace") -> bool:
        return namespace.audit_refusal is not None

    def enter(self, call: "Call") -> None:
        self.precheck(call)

    def precheck(self, call: "Call") -> None:
        refusal = self.namespace.audit_refusal
        if refusal is not None and (why := refusal()):
            raise AuditUnavailable(why)
