"""``prism.plugin.BackendPlugin`` for clients: Execute and ExecuteStream.

The namespace is named in the metadata ``prism-namespace``. Operation and params come in
the message, so that they are known only once it was read, within the policies.
"""

from math import inf
from typing import TypeVar

from prism.calls.json_text import check_params
from prism.calls.request import CallRecord, Params, Request
from prism.calls.router import Router
from prism.calls.stream import ClientStream
from prism.contract.errors import InvalidRequest, PayloadTooLarge, RemoteProtocolError
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    StreamRequest,
    StreamResponse,
)
from prism.contract.names import namespace_name, operation_name
from prism.frontends.grpc.call import GrpcCall
from prism.grpc.protobuf import decode, encode

NAMESPACE = b"prism-namespace"
PLACE = "params_json"
BESIDE_PARAMS = 64 * 1024
"""Bytes of a message for what is not params: the operation's name, metadata."""
M = TypeVar("M", bound=ExecuteRequest | StreamRequest)

_RESERVED = ("prism-", "grpc-", "traceparent", "tracestate")


class _MessageParams(Params):
    """Params and the operation's name, in the call's first message."""

    place = PLACE

    def __init__(
        self,
        call: GrpcCall,
        kind: type[ExecuteRequest | StreamRequest],
        record: CallRecord,
        metadata: dict[str, str],
    ) -> None:
        self._call = call
        self._kind = kind
        self._record = record
        self._metadata = metadata

    async def read(self, limit: int) -> bytes:
        self._call.expect_messages(limit + BESIDE_PARAMS)
        payload = (
            await self._call.only_message()
            if self._kind is ExecuteRequest
            else await self._call.next_message()
        )
        if payload is None:
            raise InvalidRequest("the stream has no first message")
        message: ExecuteRequest | StreamRequest = decoded(self._kind, payload)
        self.operation = operation_name(message.operation.encode())
        self._record.operation = self.operation
        for name, value in message.metadata.items():
            if not name.lower().startswith(_RESERVED):
                self._metadata[name] = value
        if len(message.params_raw) > limit or len(message.params_json) > limit:
            raise PayloadTooLarge(limit, "the call's params")
        self.raw = message.params_raw
        return message.params_json.encode()


class _MessageStream(ClientStream):
    """The messages of ExecuteStream, after the first."""

    one_way = False

    def __init__(self, call: GrpcCall) -> None:
        self._call = call

    async def begin(self) -> None:
        await self._call.begin()

    async def send(self, response: StreamResponse) -> None:
        await self.send_some([response])

    async def send_some(self, responses: list[StreamResponse]) -> None:
        await self._call.send_messages(map(encode, responses))

    async def receive(self) -> StreamRequest | None:
        payload = await self._call.next_message()
        if payload is None:
            return None
        message = decoded(StreamRequest, payload)
        if message.params_raw:
            return StreamRequest(params_raw=message.params_raw)
        return StreamRequest(params_json=check_params(message.params_json.encode(), PLACE))


def decoded(kind: type[M], payload: bytes) -> M:
    """The client's message.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        return decode(kind, payload)
    except RemoteProtocolError as error:
        raise InvalidRequest(str(error)) from None


async def execute(call: GrpcCall, router: Router, record: CallRecord) -> None:
    """Run one operation, and answer. Raises CallError where there is no good answer."""
    request = _request(call, router, record, ExecuteRequest)
    reply = await router.call(request)
    if reply.content_type == b"application/json":
        response = ExecuteResponse(success=True, result_json=reply.body.decode())
    else:
        response = ExecuteResponse(success=True, result_raw=reply.body)
    await call.finish(last=encode(response))


async def execute_stream(call: GrpcCall, router: Router, record: CallRecord) -> None:
    """Carry one stream. Raises CallError where it does not end well."""
    await router.call(_request(call, router, record, StreamRequest))
    await call.finish()


def _request(
    call: GrpcCall,
    router: Router,
    record: CallRecord,
    kind: type[ExecuteRequest | StreamRequest],
) -> Request:
    if NAMESPACE not in call.headers:
        raise InvalidRequest("name the namespace in the metadata prism-namespace")
    record.is_call = True
    record.namespace = namespace_name(call.headers[NAMESPACE])
    namespace = record.target = router.find(record.namespace)
    timeout = call.timeout()
    streaming = kind is StreamRequest
    if streaming:
        deadline = inf if timeout is None else record.started + timeout
    else:
        deadline = namespace.deadline(record.started, timeout)
    metadata = record.metadata()
    if resume_after := call.header(b"prism-last-event-id"):
        metadata["prism-last-event-id"] = resume_after
    return Request(
        namespace=record.namespace,
        operation="",
        params=_MessageParams(call, kind, record, metadata),
        metadata=metadata,
        principal=record.principal,
        deadline=deadline,
        record=record,
        client=call.client,
        stream=_MessageStream(call) if streaming else None,
    )
