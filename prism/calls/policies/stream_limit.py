"""A namespace carries a bounded number of streams at a time, and of each client's."""

from typing import TYPE_CHECKING

from prism.calls.policies.policy import Policy
from prism.contract.errors import TooManyStreams

if TYPE_CHECKING:
    from prism.calls.call import Call


class StreamLimit(Policy):
    """Refuses the stream that would be one too many; other calls pass.

    Streams last, so they are counted apart from calls: neither can starve the other.
    """

    def enter(self, call: "Call") -> None:
        if call.stream is not None:
            self.precheck(call)
            self.namespace.streams_by_client[call.client] += 1

    def precheck(self, call: "Call") -> None:
        if call.stream is None:
            return
        namespace, client = self.namespace, call.client
        limits, streams = namespace.limits, namespace.streams_by_client
        if streams.total() >= limits.max_streams:
            raise TooManyStreams(f"namespace {namespace.name!r}", limits.max_streams)
        if streams.get(client, 0) >= limits.max_streams_per_client:
            raise TooManyStreams(
                f"this client of namespace {namespace.name!r}", limits.max_streams_per_client
            )

    def leave(self, call: "Call") -> None:
        if call.stream is None:
            return
        streams = self.namespace.streams_by_client
        streams[call.client] -= 1
        if not streams[call.client]:
            del streams[call.client]
