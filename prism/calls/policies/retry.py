"""A call that lost its instance is made again on the next one, once, where that is safe."""

from prism.calls.policies.await_plugin import wait_for_plugin
from prism.calls.policies.policy import Policy
from prism.calls.request import Reply, Request
from prism.contract.errors import (
    CallError,
    Draining,
    Overloaded,
    PluginCrashed,
    PluginMisbehaved,
    PluginUnavailable,
)

NEVER_BEGAN = (Overloaded, PluginUnavailable)
"""What a call ends with that its instance did not start: repeating it is safe, writes too."""
MAY_HAVE_RUN = (PluginCrashed, PluginMisbehaved, Draining)
"""What it ends with when the instance went away under it: safe if declared idempotent."""


class Retry(Policy):
    """Repeats a call whose instance is gone. One that an instance in service refuses stays refused.

    The second attempt has what is left of the call's deadline.
    """

    async def __call__(self, request: Request) -> Reply:
        try:
            return await self.following(request)
        except CallError as error:
            why = self._why_safe(request, error)
            if why is None:
                raise
            await self._next_instance(error)
        request.record.retries += 1
        self.namespace.slot.retried[why] += 1
        return await self.following(request)

    def _why_safe(self, request: Request, error: CallError) -> str | None:
        """The reason for which the call may be repeated; None if it may not."""
        slot = self.namespace.slot
        served_by = request.record.instance
        if not served_by or slot.still_serves(served_by):
            return None
        if request.stream is not None and not isinstance(error, PluginUnavailable):
            return None  # its messages may have been read
        if isinstance(error, NEVER_BEGAN):
            # What was measured was not a call.
            request.record.plugin_seconds = None
            return "not_started"
        if isinstance(error, MAY_HAVE_RUN) and slot.is_idempotent(request.operation):
            return "idempotent"
        return None

    async def _next_instance(self, error: CallError) -> None:
        """Wait for it; if none comes, the call ends as it did, or as one that never ran."""
        slot = self.namespace.slot
        if slot.current is not None and slot.current.takes_calls:
            return
        try:
            await wait_for_plugin(self.namespace)
        except PluginUnavailable as unavailable:
            raise (unavailable if isinstance(error, NEVER_BEGAN) else error) from None
