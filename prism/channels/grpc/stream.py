"""One ExecuteStream call to a gRPC plugin, and how a gRPC call says that it has ended."""

from collections.abc import Callable

import trio

from prism.channels.channel import StreamCall
from prism.channels.grpc.exchange import GrpcExchange
from prism.contract.errors import (
    CallError,
    LocalProtocolError,
    PluginError,
    PluginMisbehaved,
    RemoteProtocolError,
)
from prism.contract.messages import StreamRequest, StreamResponse
from prism.contract.redaction import Redaction
from prism.contract.status import StatusCode
from prism.grpc import framing, protobuf
from prism.grpc.status import decode_message, parse_status


def ending_of(exchange: GrpcExchange) -> None:
    """Check how a complete answer ended.

    Raises:
        PluginError: with a status other than OK.
        RemoteProtocolError: without one.
    """
    fields = exchange.trailers or exchange.headers
    if "grpc-status" not in fields:
        raise RemoteProtocolError("it ended the call without a grpc-status")
    status = parse_status(fields["grpc-status"])
    if status is not StatusCode.OK:
        raise PluginError(status, decode_message(fields.get("grpc-message", "")))


class GrpcStreamCall(StreamCall):
    """Messages of one call; HTTP/2's windows hold each side back.

    ``check`` raises a CallError where a message's text is no JSON.
    """

    def __init__(
        self,
        exchange: GrpcExchange,
        name: str,
        redaction: Redaction,
        check: Callable[[str], None],
    ) -> None:
        self._check = check
        self._exchange = exchange
        self._name = name
        self._redaction = redaction
        self._sent_end = False
        self._over: CallError | trio.EndOfChannel | None = None

    async def send(self, request: StreamRequest) -> None:
        """Send one message; waits while the plugin opens no window."""
        await self._exchange.wait_writable()
        if self._sent_end:
            raise LocalProtocolError("this stream's sending side has ended")
        if isinstance(self._over, CallError):
            raise self._over
        if isinstance(self._exchange.failure, CallError):
            raise self._exchange.failure
        if self._exchange.ended:
            raise PluginError(StatusCode.CANCELLED, "the plugin has finished the stream")
        self._exchange.queue(framing.pack(protobuf.encode(request)), end=False)

    async def end(self) -> None:
        """Say that no more messages will be sent. Calling it again does nothing."""
        if not self._sent_end:
            await self._exchange.wait_writable()
            self._sent_end = True
            self._exchange.queue(b"", end=True)

    async def receive(self) -> StreamResponse:
        """The plugin's next message. Cancelling loses nothing."""
        await trio.lowlevel.checkpoint()
        if self._over is not None:
            raise self._over
        try:
            return await self._receive()
        except RemoteProtocolError as error:
            why = self._redaction.text(str(error))
            self._over = PluginMisbehaved(f"{self._name} broke the rules of gRPC: {why}")
            raise self._over from error
        except PluginError as error:
            self._over = PluginError(error.status, self._redaction.text(error.detail))
            raise self._over from None
        except (CallError, trio.EndOfChannel) as over:
            self._over = over
            raise

    async def _receive(self) -> StreamResponse:
        payload = await self._exchange.next_message()
        self._exchange.taken = 0  # it is passed on, and counted there
        self._exchange.count()
        if payload is None:
            ending_of(self._exchange)
            raise trio.EndOfChannel
        response = protobuf.decode(StreamResponse, payload)
        if response.error_code or response.error:
            status = StatusCode.from_wire(response.error_code) or StatusCode.UNKNOWN
            raise PluginError(status, response.error)
        self._check(response.result_json)
        if response.is_final:
            # Whatever else the server may send, the stream has its end.
            self._over = trio.EndOfChannel()
            if not (response.result_json or response.result_raw):
                raise self._over
        return response
