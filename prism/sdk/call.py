"""What a handler may know of the call it answers, beside its params, and what a stream yields."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Generic, NamedTuple, TypeVar

import anyio

from prism.contract.messages import StreamRequest
from prism.contract.service import (
    LAST_EVENT_ID_KEY,
    PRINCIPAL_KEY,
    REQUEST_ID_KEY,
    TRACEPARENT_KEY,
    StreamRequests,
)
from prism.sdk.operation import ParamsDecoder

T = TypeVar("T")


class Call:
    """One call, as its handler sees it. Lives as long as the handler runs.

    ``metadata`` is what the proxy sent along: string to string, set by the proxy
    and never by the client where the name begins with ``prism-``. ``binary`` is
    True when the params came as MessagePack; the result then leaves as MessagePack.
    """

    __slots__ = ("_requests", "binary", "metadata", "namespace", "operation")

    def __init__(
        self,
        operation: str,
        namespace: str,
        metadata: Mapping[str, str],
        *,
        binary: bool,
        requests: AsyncIterator[StreamRequest] | None = None,
    ) -> None:
        self.operation = operation
        self.namespace = namespace
        self.metadata = metadata
        self.binary = binary
        self._requests = requests

    @property
    def principal(self) -> str:
        """Who calls, as authenticated by the proxy; "" when nobody was authenticated."""
        return self.metadata.get(PRINCIPAL_KEY, "")

    @property
    def request_id(self) -> str:
        """The proxy's id of the request, for logs; "" when it sent none."""
        return self.metadata.get(REQUEST_ID_KEY, "")

    @property
    def traceparent(self) -> str:
        """The W3C trace context of the caller's span; "" when there is none."""
        return self.metadata.get(TRACEPARENT_KEY, "")

    @property
    def resume_after(self) -> str:
        """The position after which the client wants its stream; "" for the beginning."""
        return self.metadata.get(LAST_EVENT_ID_KEY, "")

    def time_left(self) -> float:
        """Seconds until the call is cancelled; ``math.inf`` when it has no deadline.

        For handing a timeout to a driver. The handler itself need not watch it:
        it is cancelled when the time is up.
        """
        return max(0.0, anyio.current_effective_deadline() - anyio.current_time())

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[Callable[[Sequence[int]], None]]:
        """Room for ``size`` bytes, which the handler of a stream is about to read, and yields.

        Waits until the client takes more of this stream, and, in the proxy's own process, until
        there is memory, which is counted to the end of the block. What comes with ``as`` is to
        be told the sizes of what was read. Outside of streams it does nothing; rooms do not nest.
        """
        requests = self._requests
        if not isinstance(requests, StreamRequests):
            yield lambda _: None
            return
        await requests.wait_room(size)
        try:
            yield requests.resize_room
        finally:
            requests.resize_room(())

    def messages(self, message_type: type[T]) -> AsyncIterator[T]:
        """The client's further messages on a stream, typed; ends when the client is done.

        The first message is the handler's ``params`` and is not repeated here.
        An operation that is not streaming has no further messages.

        Raises:
            PluginError: INVALID_ARGUMENT, a message did not fit ``message_type``.
        """
        return _Messages(self._requests, ParamsDecoder(message_type))


class _Messages(AsyncIterator[T]):
    """Not a generator, so that a handler may leave its loop without closing it."""

    def __init__(
        self, requests: AsyncIterator[StreamRequest] | None, decoder: ParamsDecoder[T]
    ) -> None:
        self._requests = requests
        self._decoder = decoder

    async def __anext__(self) -> T:
        if self._requests is None:
            raise StopAsyncIteration
        request = await anext(self._requests)
        return self._decoder.decode(request.params_json, request.params_raw)


class Positioned(NamedTuple, Generic[T]):
    """What a streaming operation yields in place of a bare value.

    ``position`` is text of the plugin's own: a client that lost its stream hands the last
    one back, as ``Call.resume_after``, and expects what came after it.
    """

    value: T
    position: str
