"""No call outlives its deadline."""

import trio

from prism.calls.policies.policy import Policy
from prism.calls.request import Reply, Request
from prism.contract.errors import DeadlineExceeded, RequestTimeout


class Deadline(Policy):
    """Answers when the time is up, whether or not the plugin reacts to the cancel.

    A call that waited for its plugin all the time never ran, and is told that.
    """

    async def __call__(self, request: Request) -> Reply:
        with trio.CancelScope(deadline=request.deadline):
            return await self.following(request)
        if not (request.params.text or request.params.raw):
            raise RequestTimeout("the request's body did not arrive within the call's deadline")
        if request.record.plugin_seconds is None:
            raise self.namespace.slot.unavailable()
        allowed = request.deadline - request.record.started
        raise DeadlineExceeded(f"the call did not end within its {allowed:g} s; it may have run")
