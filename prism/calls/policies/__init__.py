"""The policies that every call enters, in this order, and leaves in reverse.

To add one: write ``class X(Policy)`` in a file of its own, and put it in
``POLICIES`` where it belongs, with the reason for the place.

Around all of them, in the front end, is the call's record: refused calls are
logged and counted too. Innermost is the call to the plugin (``calls.invoke``).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prism.calls.policies.audited import Audited
from prism.calls.policies.authorize import Authorize
from prism.calls.policies.await_plugin import AwaitPlugin
from prism.calls.policies.circuit_breaker import CircuitBreaker
from prism.calls.policies.deadline import Deadline
from prism.calls.policies.hedging import Hedging
from prism.calls.policies.in_flight import InFlightLimit
from prism.calls.policies.policy import Policy
from prism.calls.policies.rate_limit import RateLimit
from prism.calls.policies.read_params import CheckParams, ReadParams
from prism.calls.policies.record import Record
from prism.calls.policies.retries import Retries
from prism.calls.policies.shadow import Shadow
from prism.calls.policies.shed import Shed
from prism.calls.policies.stream_limit import StreamLimit

if TYPE_CHECKING:
    from prism.calls.namespace import Namespace

POLICIES: tuple[type[Policy], ...] = (
    # First, so that the client gets its answer in time whatever any other does.
    Deadline,
    # Before all that costs anything: it is there because there is too much to do.
    Shed,
    # Before all that counts or takes in: who may not call uses up nothing.
    Authorize,
    # Before the places of execution, so that clients that do not send what they have
    # announced cannot hold them; ``calls.memory`` bounds what bodies take meanwhile. And
    # before the lease on an instance, so that a slow client cannot hold up a drain.
    ReadParams,
    # After the params, since over gRPC the operation comes with them; before what holds a place:
    # a call that waits for the limits store takes none.
    RateLimit,
    # Before the check, so that refusing is cheap.
    InFlightLimit,
    StreamLimit,
    CheckParams,
    # After all that refuses by itself, whose refusals are recorded once that can be done again.
    Audited,
    # After all that may wait, so that from here to the lease nothing else takes time.
    AwaitPlugin,
    # Last of those that refuse: it is an instance's breaker that does, and that is chosen now.
    CircuitBreaker,
    # They only count what reaches the plugin; what they do comes in ``calls.invoke``, or later.
    Retries,
    Hedging,
    # They only watch: what is refused is neither copied nor recorded.
    Shadow,
    Record,
)


def build_policies(namespace: "Namespace", kept: Iterable[Policy] = ()) -> tuple[Policy, ...]:
    """The policies for ``namespace`` as it is configured now; those of ``kept`` that are still
    among them stay, with what they know."""
    present = {type(policy): policy for policy in kept}
    policies = []
    for kind in POLICIES:
        if kind.applies(namespace):
            policy = present.get(kind)
            if policy is None:
                policy = kind(namespace)
            else:
                policy.configure()
            policies.append(policy)
    for gone in present.values():
        if gone not in policies:
            gone.discard()
    return tuple(policies)
