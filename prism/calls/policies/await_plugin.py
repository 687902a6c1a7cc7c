"""A call that comes while its plugin restarts may wait for it."""

from typing import TYPE_CHECKING

import trio

from prism.calls.policies.policy import Policy
from prism.contract.errors import PluginUnavailable

if TYPE_CHECKING:
    from prism.calls.call import Call
    from prism.calls.namespace import Namespace

WAIT_SHARE = 1 / 3
"""Of the time that a call has left: how long it waits for its plugin at most."""


class AwaitPlugin(Policy):
    """Waits for an instance, if the namespace wants that and one can be expected.

    It costs a call whose instance is there one look at the slot, and at the instance: its channel
    may have broken a moment ago, by which a call that waited in the queue has its turn.
    """

    def enter(self, call: "Call") -> bool | None:
        slot = self.namespace.slot
        current = slot.current
        if (current is not None and current.channel.ended is None) or slot.is_ready:
            return None
        check_may_wait(self.namespace)
        self._wait(call)
        return True

    # A method of its own: a closure in a compiled one costs all calls, also those without any.

    def _wait(self, call: "Call") -> None:
        call.wait_in_task(lambda: wait_for_plugin(self.namespace, call.deadline))


def check_may_wait(namespace: "Namespace") -> None:
    """See that one more call may wait for the namespace's plugin.

    Calls are held whatever the namespace says while its plugin is replaced on purpose.

    Raises:
        PluginUnavailable: it may not; it never ran.
    """
    slot = namespace.slot
    if slot.current is None and not slot.expected:
        raise slot.unavailable()
    if namespace.config.while_unavailable == "fail" and not slot.held:
        raise slot.unavailable()
    limit = namespace.limits.max_waiting
    if slot.waiting >= limit:
        raise PluginUnavailable(
            f"{slot.unavailable()}; {limit} calls wait for it already, the namespace's limit"
        )


async def wait_for_plugin(namespace: "Namespace", deadline: float) -> None:
    """Return once an instance takes calls; ``deadline`` is the call's. Cancelling leaves nothing
    behind.

    A plugin that breaks again and again must not keep its callers for as long as they would
    wait for an answer: they are told when to come again.

    Raises:
        PluginUnavailable: the call should not wait, or waits in vain; it never ran.
    """
    check_may_wait(namespace)
    slot = namespace.slot
    now = trio.current_time()
    until = deadline if slot.held else now + (deadline - now) * WAIT_SHARE
    if slot.current is None and slot.retry_at is not None and slot.retry_at >= until:
        raise slot.unavailable()
    with trio.move_on_at(until) as waiting:
        while True:
            try:
                await slot.wait_filled()
            except PluginUnavailable:
                if slot is namespace.slot:
                    raise
                slot = namespace.slot  # of several replicas, or one, in the place of that
            else:
                break
    if waiting.cancelled_caught:
        raise slot.unavailable()
