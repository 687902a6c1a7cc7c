"""``prism.plugin.BackendPlugin`` for clients: Execute and ExecuteStream.

The namespace is named in the metadata ``prism-namespace``. Operation and params come in
the message, so that they are known only once it was read, within the policies.
"""

import base64
from math import inf
from typing import TypeVar

import trio

from prism.calls.call import BODY_PAUSE
from prism.calls.json_text import check_params
from prism.calls.overload import parse_priority
from prism.calls.router import Router
from prism.calls.stream import ClientStream, taken_from
from prism.contract.errors import (
    CallError,
    InvalidRequest,
    PayloadTooLarge,
    RemoteProtocolError,
    RequestTimeout,
)
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    StreamRequest,
    StreamResponse,
)
from prism.contract.names import namespace_name, operation_name
from prism.contract.service import LAST_EVENT_ID_KEY
from prism.frontends.grpc.call import GrpcCall, broken
from prism.grpc.framing import PREFIX_SIZE
from prism.grpc.protobuf import decode, encode

NAMESPACE = b"prism-namespace"
PRIORITY = b"prism-priority"
PLACE = "params_json"
BESIDE_PARAMS = 64 * 1024
"""Bytes of a message for what is not params: the operation's name, metadata."""
M = TypeVar("M", bound=ExecuteRequest | StreamRequest)

_RESERVED = ("prism-", "grpc-", "traceparent", "tracestate")


class ExecuteCall(GrpcCall):
    """Execute: one message in, one out."""

    __slots__ = ("_params_limit",)

    def read_params(self, limit: int) -> bool:
        self._params_limit = limit
        self.expect_messages(limit + BESIDE_PARAMS)
        return super().read_params(limit + BESIDE_PARAMS + PREFIX_SIZE)

    def use_body(self, body: bytes | bytearray) -> None:
        message = _decoded(ExecuteRequest, self.only_message_of(body))
        _take_message(self, message, self._params_limit)

    def send_result(self, result: bytes, content_type: bytes) -> None:
        if content_type == b"application/json":
            response = ExecuteResponse(success=True, result_json=result.decode())
        else:
            response = ExecuteResponse(success=True, result_raw=result)
        self.send_message(encode(response))


class ExecuteStreamCall(GrpcCall):
    """ExecuteStream: messages both ways."""

    __slots__ = ()

    def read_params(self, limit: int) -> bool:
        self.expect_messages(limit + BESIDE_PARAMS)
        self.precheck()
        self.wait_in_task(lambda: self._read_first(limit))
        return True

    async def _read_first(self, limit: int) -> None:
        with trio.move_on_after(BODY_PAUSE) as in_time:
            payload = await self.next_message()
        if in_time.cancelled_caught:
            raise RequestTimeout(f"no first message came within {BODY_PAUSE:g} s")
        if payload is None:
            raise InvalidRequest("the stream has no first message")
        _take_message(self, _decoded(StreamRequest, payload), limit)

    def send_result(self, result: bytes, content_type: bytes) -> None:
        """A stream has no result of its own."""


class _MessageStream(ClientStream):
    """The messages of ExecuteStream, after the first."""

    one_way = False

    def __init__(self, call: GrpcCall) -> None:
        self._call = call

    async def begin(self) -> None:
        self.begun = True
        await self._call.begin()

    async def send(self, response: StreamResponse) -> None:
        await self.send_some([response])

    async def send_some(self, responses: list[StreamResponse]) -> None:
        self.begun = True
        await self._call.send_messages(map(encode, taken_from(responses)))

    async def receive(self) -> StreamRequest | None:
        payload = await self._call.next_message()
        if payload is None:
            return None
        message = _decoded(StreamRequest, payload)
        if message.params_raw:
            return StreamRequest(params_raw=message.params_raw)
        return StreamRequest(params_json=check_params(message.params_json.encode(), PLACE))

    async def end(self, error: CallError | None) -> None:
        await self._call.finish(error)


def _decoded(kind: type[M], payload: bytes) -> M:
    """The client's message.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        return decode(kind, payload)
    except RemoteProtocolError as error:
        raise broken(str(error)) from None


def _take_message(call: GrpcCall, message: ExecuteRequest | StreamRequest, limit: int) -> None:
    """Operation, params and metadata of the first message become the call's."""
    call.operation = operation_name(message.operation.encode())
    for name, value in message.metadata.items():
        if not name.lower().startswith(_RESERVED):
            call.metadata = call.metadata or {}
            call.metadata[name] = value
    if len(message.params_raw) > limit or len(message.params_json) > limit:
        raise PayloadTooLarge(limit, "the call's params")
    call.raw = message.params_raw
    call.params = message.params_json.encode()
    call.hold(max(call.bytes_in, len(call.raw), len(call.params)))  # it may be compressed
    call.place = PLACE


def begin(call: ExecuteCall | ExecuteStreamCall, router: Router) -> None:
    """Begin the call. Raises CallError if its head alone refuses it."""
    name = call.request_headers.get(NAMESPACE)
    if name is None:
        raise InvalidRequest("name the namespace in the metadata prism-namespace")
    call.is_call = True
    call.namespace = namespace_name(name)
    namespace = call.target = router.find_for(call.namespace, call.identity)
    priority = call.request_headers.get(PRIORITY)
    if priority is not None:
        call.priority = parse_priority(priority.decode("latin-1"))
    timeout = call.timeout()
    if isinstance(call, ExecuteStreamCall):
        call.deadline = inf if timeout is None else call.started + timeout
        call.stream = _MessageStream(call)
    else:
        call.deadline = namespace.deadline(call.started, timeout)
    if resume_after := _resume_after(call):
        call.metadata = {LAST_EVENT_ID_KEY: resume_after}
    call.proceed()


def _resume_after(call: GrpcCall) -> str:
    """The position after which a stream goes on. What metadata cannot carry as text, it carries
    under the same name with ``-bin``, in base64 (gRPC over HTTP/2, "Custom-Metadata").

    Raises:
        InvalidRequest: it cannot be read.
    """
    given = call.request_headers.get(b"prism-last-event-id-bin")
    if given is None:
        return call.header(b"prism-last-event-id")
    try:
        return base64.b64decode(given + b"=" * (-len(given) % 4), validate=True).decode()
    except ValueError:
        raise InvalidRequest("prism-last-event-id-bin is not UTF-8 in base64") from None
