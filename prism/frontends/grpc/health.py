"""``grpc.health.v1.Health``: the readiness of namespaces, as gRPC's load balancers ask it.

``service`` is a namespace's name; empty means the whole proxy, as ``/readyz`` does.
"""

import trio
from google.protobuf.message import DecodeError

from prism.calls.router import Router
from prism.contract.errors import Draining, TooManyStreams, Unauthenticated, UnknownNamespace
from prism.frontends.grpc.call import GrpcCall, broken
from prism.grpc.descriptors import message_class

_Request = message_class("grpc.health.v1.HealthCheckRequest")
_Response = message_class("grpc.health.v1.HealthCheckResponse")
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3

MAX_REQUEST = 4096
MAX_WATCHES = 32
"""Of one connection: clients have one for each service that they balance over it."""
LOOK_INTERVAL = 30.0
"""Seconds after which a watch looks again whether its caller may still see what it watches."""


async def check(call: GrpcCall, router: Router, *, draining: bool) -> None:
    """The present state; NOT_FOUND for a namespace that there is not."""
    service = await _service(call)
    status = _status(call, router, service, draining=draining)
    if status == _SERVICE_UNKNOWN:
        raise UnknownNamespace(service)
    call.send_message(_Response(status=status).SerializeToString())


async def watch(call: GrpcCall, router: Router, stopping: trio.Event) -> None:
    """The present state and every change of it, until the client leaves or the proxy stops.

    Raises:
        TooManyStreams: the connection has ``MAX_WATCHES`` already.
    """
    service = await _service(call)
    connection = call.exchange.peer.memory
    if connection is None:  # another server's
        await _tell_changes(call, router, service, stopping)
        return
    if connection.watches >= MAX_WATCHES:
        raise TooManyStreams("this connection's health service", MAX_WATCHES)
    connection.watches += 1
    try:
        await _tell_changes(call, router, service, stopping)
    finally:
        connection.watches -= 1


async def _tell_changes(call: GrpcCall, router: Router, service: str, stopping: trio.Event) -> None:
    told = None
    while not stopping.is_set():
        change = router.change
        if not router.is_good(call.identity):
            await call.finish(Unauthenticated("the credential is not good any more", shown=True))
            return
        status = _status(call, router, service, draining=False)
        if status != told:
            await call.send_messages([_Response(status=status).SerializeToString()])
            told = status
        with trio.move_on_after(LOOK_INTERVAL):
            await router.wait_changed(change)
    await call.send_messages([_Response(status=_NOT_SERVING).SerializeToString()])
    await call.finish(Draining("the proxy is stopping"))


async def _service(call: GrpcCall) -> str:
    call.expect_messages(MAX_REQUEST)
    try:
        service: str = _Request.FromString(await call.only_message()).service
    except DecodeError:
        raise broken("the message is not a HealthCheckRequest") from None
    return service


def _status(call: GrpcCall, router: Router, service: str, *, draining: bool) -> int:
    ready = router.is_ready
    if service:
        namespaces = router.namespaces_for(call.identity)
        found = next((namespace for namespace in namespaces if namespace.name == service), None)
        if found is None:
            return _SERVICE_UNKNOWN
        ready = found.slot.current is not None
    return _SERVING if ready and not draining else _NOT_SERVING
