"""The gRPC front door's ASGI application: which method is called, and how each call ends."""

import logging
from collections.abc import Awaitable

import trio

from prism.calls.request import CallRecord
from prism.calls.router import Router
from prism.contract.errors import (
    CallCancelled,
    CallError,
    Draining,
    InternalError,
    NotForClients,
    UnknownMethod,
)
from prism.frontends.disconnect import DisconnectWatch, server_cancels
from prism.frontends.grpc import execute, health, reflection
from prism.frontends.grpc.call import GrpcCall
from prism.frontends.headers import RequestHeaders
from prism.observability.access_log import log_access
from prism.observability.metrics import Metrics
from prism.server import CANCELLED, Receive, Scope, Send

logger = logging.getLogger(__name__)

_CONTENT_TYPES = (b"application/grpc", b"application/grpc+proto")
_PROXYS_OWN = {"Initialize", "HealthCheck", "Shutdown"}


def is_grpc(scope: Scope) -> bool:
    """Whether a request is gRPC's, and can be answered as such (which takes trailers)."""
    if scope["type"] != "http" or "http.response.trailers" not in (scope.get("extensions") or {}):
        return False
    for name, value in scope["headers"]:
        if name == b"content-type":
            return value.partition(b";")[0].strip().lower() in _CONTENT_TYPES
    return False


class GrpcApp:
    """ASGI application for requests that ``is_grpc``. ``stop`` when the proxy begins to."""

    def __init__(self, router: Router, metrics: Metrics) -> None:
        self._router = router
        self._metrics = metrics
        self._stopping = trio.Event()

    def stop(self) -> None:
        """End health watches; calls still run."""
        self._stopping.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call. Cancelling it cancels the call, which is logged as such."""
        headers = RequestHeaders(scope["headers"])
        record = CallRecord(trio.current_time(), headers.request_id(), headers.trace())
        record.http_status = 200
        watch = None if server_cancels(scope) else DisconnectWatch(receive)
        call = GrpcCall(scope, receive if watch is None else watch.receive, send)
        call.request_id = record.request_id
        try:
            if watch is None:
                await self._answer(call, record)
            else:
                await watch.run(lambda: self._answer(call, record))
        finally:
            self._observe(call, record)

    async def _answer(self, call: GrpcCall, record: CallRecord) -> None:
        """Serve the call and see that it ends with a status."""
        try:
            try:
                await self._dispatch(call, record)
                record.is_answered = True
                return
            except CallError as error:
                failure = error
            except Exception:
                logger.exception("request %s failed", record.request_id)
                failure = InternalError()
            record.fail(failure)
            record.http_status = 200
            await call.fail(failure)
            record.is_answered = True
        except CANCELLED:
            if not record.is_answered:
                stopped = self._stopping.is_set()
                record.fail(
                    Draining("the proxy stopped") if stopped else CallCancelled("the client left")
                )
            raise

    def _dispatch(self, call: GrpcCall, record: CallRecord) -> Awaitable[None]:
        match call.path.split("/"):
            case ["", "prism.plugin.BackendPlugin", "Execute"]:
                return execute.execute(call, self._router, record)
            case ["", "prism.plugin.BackendPlugin", "ExecuteStream"]:
                return execute.execute_stream(call, self._router, record)
            case ["", "prism.plugin.BackendPlugin", method] if method in _PROXYS_OWN:
                raise NotForClients(method)
            case ["", "grpc.health.v1.Health", "Check"]:
                draining = self._stopping.is_set()
                return health.check(call, self._router, draining=draining)
            case ["", "grpc.health.v1.Health", "Watch"]:
                return health.watch(call, self._router, self._stopping)
            case ["", service, "ServerReflectionInfo"] if service.startswith("grpc.reflection.v1"):
                package, _, name = service.rpartition(".")
                if name == "ServerReflection" and package in _REFLECTION:
                    return reflection.server_reflection_info(call, package)
        raise UnknownMethod(call.path)

    def _observe(self, call: GrpcCall, record: CallRecord) -> None:
        record.bytes_in, record.bytes_out = call.bytes_in, call.bytes_out
        seconds = trio.current_time() - record.started
        if record.is_call:
            self._metrics.observe(record, seconds)
            log_access(record, seconds)


_REFLECTION = {"grpc.reflection.v1", "grpc.reflection.v1alpha"}
