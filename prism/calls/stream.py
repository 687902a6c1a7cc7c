"""The client's side of a streaming call, as every front end offers it to the core.

SSE, NDJSON, WebSocket and gRPC differ in how a message travels and in how an error is
said once messages have gone out; what happens between client and plugin is the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import inf

from prism.contract.errors import CallError
from prism.contract.messages import StreamRequest, StreamResponse


def taken_from(responses: list[StreamResponse]) -> Iterator[StreamResponse]:
    """The messages in their order, each of which the list then has no more."""
    responses.reverse()
    while responses:
        yield responses.pop()


class ClientStream(ABC):
    """One client's stream. The first message is the request's params and not repeated here.

    ``one_way``: the client sends nothing after that. ``heartbeat``: seconds without a
    message after which ``beat`` is called. ``begun``: something has gone out, after which an
    error can only be said within the stream. ``closed_well``: the client has ended the stream as
    it may, which is no failure.
    """

    one_way: bool = True
    heartbeat: float = inf
    begun: bool = False
    closed_well: bool = False

    @abstractmethod
    async def begin(self) -> None:
        """The plugin has accepted the call; a first message may be long in coming."""

    @abstractmethod
    async def send(self, response: StreamResponse) -> None:
        """Send one message on; waits while the client takes no more. Calls ``begin`` first.

        Raises:
            PluginMisbehaved: the message cannot be carried.
            CallCancelled: the client went away.
        """

    async def send_some(self, responses: list[StreamResponse]) -> None:
        """As ``send``, for messages that have come together. They come out of ``responses``, and
        are kept no longer than they are of use: the client may take its time."""
        responses.reverse()
        while responses:
            await self.send(responses.pop())

    async def receive(self) -> StreamRequest | None:
        """The client's next message, ``None`` when it has said that there are no more.

        Raises:
            InvalidRequest: what came is not a message.
            CallCancelled: the client went away.
        """
        return None

    async def beat(self) -> None:
        """Show the client that the stream is alive."""

    @abstractmethod
    async def end(self, error: CallError | None) -> None:
        """End the stream; with ``error``, where it was cut short. Cancelling breaks it off."""
