"""A namespace carries a bounded number of streams at a time, and of each client's."""

from collections.abc import Awaitable

from prism.calls.policies.policy import Policy
from prism.calls.request import Reply, Request
from prism.contract.errors import TooManyStreams


class StreamLimit(Policy):
    """Refuses the stream that would be one too many; other calls pass.

    Streams last, so they are counted apart from calls: neither can starve the other.
    """

    def __call__(self, request: Request) -> Awaitable[Reply]:
        return self.following(request) if request.stream is None else self._count(request)

    async def _count(self, request: Request) -> Reply:
        namespace, client = self.namespace, request.client
        limits, streams = namespace.limits, namespace.streams_by_client
        if streams.total() >= limits.max_streams:
            raise TooManyStreams(f"namespace {namespace.name!r}", limits.max_streams)
        if streams[client] >= limits.max_streams_per_client:
            raise TooManyStreams(
                f"this client of namespace {namespace.name!r}", limits.max_streams_per_client
            )
        streams[client] += 1
        try:
            return await self.following(request)
        finally:
            streams[client] -= 1
            if not streams[client]:
                del streams[client]
