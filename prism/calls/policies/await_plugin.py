"""A call that comes while its plugin restarts may wait for it."""

from collections.abc import Awaitable

from prism.calls.namespace import Namespace
from prism.calls.policies.policy import Policy
from prism.calls.request import Reply, Request
from prism.contract.errors import PluginUnavailable


class AwaitPlugin(Policy):
    """Waits for an instance, if the namespace wants that and one can be expected.

    It costs a call whose instance is there one look at the slot.
    """

    def __call__(self, request: Request) -> Awaitable[Reply]:
        if self.namespace.slot.current is None:
            return self._wait(request)
        return self.following(request)

    async def _wait(self, request: Request) -> Reply:
        await wait_for_plugin(self.namespace)
        return await self.following(request)


async def wait_for_plugin(namespace: Namespace) -> None:
    """Return once an instance takes calls; the caller's scope has the deadline.

    Calls are held whatever the namespace says while its plugin is replaced on purpose.

    Raises:
        PluginUnavailable: the call should not wait, or waits in vain; it never ran.
    """
    slot = namespace.slot
    if namespace.while_unavailable == "fail" and not slot.held:
        raise slot.unavailable()
    limit = namespace.limits.max_waiting
    if slot.waiting >= limit:
        raise PluginUnavailable(
            f"{slot.unavailable()}; {limit} calls wait for it already, the namespace's limit"
        )
    await slot.wait_filled()
