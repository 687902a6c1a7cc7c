"""A plugin that is a gRPC server: the contract's five calls, made as any gRPC client makes them.

The server needs to know nothing of Prism but ``schemas/prism/plugin.proto``. Each call
names its namespace in the metadata ``prism-namespace``, for servers that serve several.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio
from hpack import NeverIndexedHeaderTuple

from prism.channels.channel import AnswerMemory, PluginChannel, StreamCall, wrong_json
from prism.channels.frames.channel import ChannelSettings
from prism.channels.grpc.exchange import GrpcExchange
from prism.channels.grpc.link import WINDOW, Header, HTTP2Link
from prism.channels.grpc.stream import GrpcStreamCall, ending_of
from prism.contract.errors import (
    CallError,
    Overloaded,
    PluginError,
    PluginMisbehaved,
    PluginUnavailable,
    RemoteProtocolError,
)
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    HealthCheckRequest,
    HealthCheckResponse,
    InitializeRequest,
    InitializeResponse,
    Message,
    ShutdownRequest,
    ShutdownResponse,
    StreamRequest,
)
from prism.contract.redaction import Redaction
from prism.contract.service import NAMESPACE_KEY, Method
from prism.contract.status import StatusCode
from prism.grpc import framing, protobuf
from prism.grpc.status import format_timeout
from prism.wire.events import Fault, GoAway

M = TypeVar("M", bound=Message)

SERVICE = "prism.plugin.BackendPlugin"
PATHS = {
    method: f"/{SERVICE}/{''.join(part.capitalize() for part in method.name.split('_'))}"
    for method in Method
}
SMALL = 64 * 1024
"""Bytes of an answer that is not counted while it arrives, nor later while it is sent."""
MAX_TIMEOUT = 10 * 365 * 86_400.0
"""Seconds; a deadline further away is sent as none."""


class GrpcChannel(PluginChannel):
    """Calls a gRPC server over ``stream``. ``handshake`` first, then ``run`` in a nursery.

    ``authority`` is the endpoint as the server's clients write it. ``on_goaway`` is called
    from the reader when the server drains, ``on_fault`` when it made a mistake that costs a
    call only: they must not block.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        settings: ChannelSettings | None = None,
        *,
        authority: str,
        namespace: str = "",
        name: str = "the plugin",
        version: str = "",
        on_goaway: Callable[[GoAway], None] = lambda _goaway: None,
        on_fault: Callable[[Fault], None] = lambda _fault: None,
    ) -> None:
        self.name = name
        self._on_fault = on_fault
        self.settings = settings or ChannelSettings()
        self._link = HTTP2Link(
            name,
            stream,
            self.settings,
            max_message=self.settings.max_frame,
            on_leaving=lambda reason, failed: on_goaway(GoAway(0, reason, failed)),
        )
        secure = isinstance(stream, trio.SSLStream)
        self._pseudo_headers = [
            (":method", "POST"),
            (":scheme", "https" if secure else "http"),
            (":authority", authority),
        ]
        self._headers = [
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", f"prism/{version}" if version else "prism"),
            ("grpc-accept-encoding", framing.ACCEPT_ENCODING),
            (NAMESPACE_KEY, namespace),
        ]

    # -- life -----------------------------------------------------------------

    async def handshake(self) -> None:
        """Agree on HTTP/2 with the server. Cancelling leaves a dead channel.

        Raises:
            HandshakeFailed: it is no HTTP/2 server, or says nothing in time.
        """
        await self._link.handshake()

    async def run(self) -> None:
        """Carry calls until the channel ends. Returns then; raises only Cancelled."""
        await self._link.run()

    async def aclose(self) -> None:
        """Send GOAWAY, if the server reads on, and close. Never raises."""
        await self._link.aclose()

    async def wait_broken(self) -> Exception:
        """Wait for the end of the channel; returns its reason."""
        return await self._link.wait_ended()

    @property
    def ended(self) -> Exception | None:
        """Why the channel can carry no more calls; None while it can."""
        return self._link.ended

    def cancel_calls(self, error: CallError) -> None:
        """Cancel every open call, and let each end with ``error``."""
        self._link.cancel_calls(error)

    @property
    def open_calls(self) -> int:
        """Calls whose answer is not complete; gRPC tells nothing of cancelled ones."""
        return self._link.open_exchanges

    def go_away(self, reason: str) -> None:
        """Does nothing: a gRPC server learns of a drain by Shutdown only."""

    # -- calls ----------------------------------------------------------------

    async def initialize(self, request: InitializeRequest) -> InitializeResponse:
        """Configure the plugin; the first call, made exactly once."""
        self.redaction = Redaction(request.credentials)
        answer = await self._unary(Method.INITIALIZE, request, InitializeResponse)
        return self.redaction.fields(answer, "error", "plugin_version")

    async def execute(
        self, request: ExecuteRequest, memory: AnswerMemory | None = None
    ) -> ExecuteResponse:
        """Run one operation."""
        answer = await self._unary(Method.EXECUTE, request, ExecuteResponse, memory)
        if not answer.success:
            return self.redaction.fields(answer, "error")
        self._check_json(answer.result_json)
        return answer

    def _check_json(self, text: str) -> None:
        """Raises PluginMisbehaved where a result is none; a strict connection ends."""
        wrong = wrong_json(text, all_of_it=self.settings.strict)
        if not wrong:
            return
        self._on_fault(Fault("not_json", f"result_json is {wrong}"))
        if self.settings.strict:
            self._link.finish(RemoteProtocolError(f"strict: result_json is {wrong}"))
        raise PluginMisbehaved(f"{self.name} answered with what is no JSON: {wrong}")

    async def health_check(self, request: HealthCheckRequest) -> HealthCheckResponse:
        """Ask for the plugin's health."""
        answer = await self._unary(Method.HEALTH_CHECK, request, HealthCheckResponse)
        return self.redaction.fields(answer, "message", "details")

    async def shutdown(self, request: ShutdownRequest) -> ShutdownResponse:
        """Ask the plugin to finish and end. Call ``aclose`` afterwards."""
        answer = await self._unary(Method.SHUTDOWN, request, ShutdownResponse)
        return self.redaction.fields(answer, "error")

    @asynccontextmanager
    async def execute_stream(
        self, first: StreamRequest, memory: AnswerMemory | None = None
    ) -> AsyncIterator[StreamCall]:
        """Open a stream with its first message; leaving the block early cancels it."""
        await trio.lowlevel.checkpoint_if_cancelled()
        exchange = self._begin(Method.EXECUTE_STREAM, first, end=False)
        exchange.memory, exchange.uncounted = memory, WINDOW
        try:
            yield GrpcStreamCall(exchange, self.name, self.redaction, self._check_json)
        finally:
            exchange.cancel()
            _release(memory)

    def _begin(self, method: Method, message: Message, *, end: bool) -> GrpcExchange:
        """
        Raises:
            PluginUnavailable, Overloaded: the call was not made.
        """
        if self._link.ended is not None:
            raise PluginUnavailable(f"{self.name} is gone: {self._link.ended}")
        if self._link.unsent > self.settings.max_queued:
            raise Overloaded(f"{self.name} does not keep up with what it is sent")
        payload = framing.pack(protobuf.encode(message))
        headers: list[Header] = [
            *self._pseudo_headers,
            (":path", PATHS[method]),
            *self._headers,
        ]
        left = trio.current_effective_deadline() - trio.current_time()
        if left < MAX_TIMEOUT:
            # Never indexed: it would push the others, which repeat, out of HPACK's table.
            headers.append(NeverIndexedHeaderTuple("grpc-timeout", format_timeout(left)))
        calls = (Method.EXECUTE, Method.EXECUTE_STREAM)
        exchange = self._link.open(headers, spare=method not in calls)
        exchange.queue(payload, end=end)
        return exchange

    async def _unary(
        self, method: Method, request: Message, kind: type[M], memory: AnswerMemory | None = None
    ) -> M:
        await trio.lowlevel.checkpoint_if_cancelled()
        exchange = self._begin(method, request, end=True)
        exchange.memory, exchange.uncounted = memory, SMALL
        try:
            payload = await exchange.next_message()
            if payload is not None and await exchange.next_message() is not None:
                raise RemoteProtocolError("it answered a unary call with two messages")
            ending_of(exchange)
            if payload is None:
                raise RemoteProtocolError("it answered OK without a message")
            return protobuf.decode(kind, payload)
        except RemoteProtocolError as error:
            why = self.redaction.text(str(error))
            raise PluginMisbehaved(f"{self.name} broke the rules of gRPC: {why}") from error
        except PluginError as error:
            return _failed(kind, error.status, error.detail)
        finally:
            exchange.cancel()
            _release(memory)


def _release(memory: AnswerMemory | None) -> None:
    if memory is not None:
        memory.release()


def _failed(kind: type[M], status: StatusCode, detail: str) -> M:
    """The response that says what a gRPC status said."""
    fields: dict[str, Any] = {
        "success": False,
        "error": detail,
        "error_code": int(status),
        "message": detail,  # HealthCheckResponse's, whose status is UNHEALTHY by default
    }
    return kind(**{name: fields[name] for name in fields.keys() & set(kind.__struct_fields__)})
