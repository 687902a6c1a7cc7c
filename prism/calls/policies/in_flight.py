"""A namespace runs a bounded number of calls at a time."""

from prism.calls.policies.policy import Policy
from prism.calls.request import Reply, Request
from prism.contract.errors import TooManyInFlight


class InFlightLimit(Policy):
    """Refuses the call that would be one too many, at once: a queue would only add delay.

    Streams are ``StreamLimit``'s.
    """

    async def __call__(self, request: Request) -> Reply:
        if request.stream is not None:
            return await self.following(request)
        namespace = self.namespace
        limit = namespace.limits.max_in_flight
        if namespace.in_flight >= limit:
            raise TooManyInFlight(namespace.name, limit)
        namespace.in_flight += 1
        try:
            return await self.following(request)
        finally:
            namespace.in_flight -= 1
