"""The gRPC front end: which method is called."""

import logging
from collections.abc import Awaitable, Callable

import trio

from prism.access.authentication import Authentication
from prism.access.identity import KeysAwaited
from prism.calls.router import Router
from prism.contract.errors import CallError, InternalError, NotForClients, UnknownMethod
from prism.frontends.answering import Observer
from prism.frontends.grpc import execute, health, reflection
from prism.frontends.grpc.call import GrpcCall
from prism.frontends.grpc.execute import ExecuteCall, ExecuteStreamCall
from prism.frontends.headers import RequestHeaders
from prism.server.exchange import Exchange

logger = logging.getLogger("prism.frontends")

_PROXYS_OWN = {"Initialize", "HealthCheck", "Shutdown"}
_REFLECTION = {"grpc.reflection.v1", "grpc.reflection.v1alpha"}
_SERVICE = "prism.plugin.BackendPlugin"


def is_grpc(exchange: Exchange, headers: RequestHeaders) -> bool:
    """Whether a request is gRPC's, and can be answered as such (which takes trailers)."""
    return headers.is_grpc and exchange.takes_trailers


class ServiceCall(GrpcCall):
    """A call of one of the proxy's own services."""

    __slots__ = ()

    def send_result(self, result: bytes, content_type: bytes) -> None:
        """No plugin answers it."""

    def read_params(self, limit: int) -> bool:
        return False

    def observe(self) -> None:
        """Probes and tools ask often, and would drown the rest."""


class GrpcApp:
    """A front end for requests that ``is_grpc``. ``stop`` when the proxy begins to."""

    def __init__(
        self, router: Router, observer: Observer, authentication: Authentication | None = None
    ) -> None:
        self._router = router
        self._authentication = authentication
        self._observer = observer
        self._stopping = trio.Event()

    def stop(self) -> None:
        """End health watches; calls still run."""
        self._stopping.set()
        self._router.changed()

    def begin(self, exchange: Exchange) -> None:
        """Answer one call."""
        path = exchange.target
        if path == b"/prism.plugin.BackendPlugin/Execute":
            self._begin(ExecuteCall(exchange, self._observer))
        elif path == b"/prism.plugin.BackendPlugin/ExecuteStream":
            self._begin(ExecuteStreamCall(exchange, self._observer))
        else:
            call = ServiceCall(exchange, self._observer)
            call.wait_for(call.tasks.start(call.run, lambda: self._serve(call)))

    def _begin(self, call: ExecuteCall | ExecuteStreamCall) -> None:
        try:
            self._execute(call)
        except KeysAwaited as awaited:
            call.begin_later(awaited, lambda: self._execute(call))
        except CallError as error:
            call.end(error)
        except Exception:
            logger.exception("request %s failed", call.request_id)
            call.end(InternalError())

    def _execute(self, call: ExecuteCall | ExecuteStreamCall) -> None:
        if self._authentication is not None:
            call.authenticate(self._authentication)
        execute.begin(call, self._router)

    async def _serve(self, call: ServiceCall) -> None:
        authentication = self._authentication
        if authentication is not None and not _is_probe(call):
            try:
                call.authenticate(authentication)
            except KeysAwaited as awaited:
                await awaited.wait()
                call.authenticate(authentication)
        await self._service(call)()

    def _service(self, call: ServiceCall) -> Callable[[], Awaitable[None]]:
        path = call.exchange.target.partition(b"?")[0].decode("ascii")
        match path.split("/"):
            case ["", service, method] if service == _SERVICE and method in _PROXYS_OWN:
                raise NotForClients(method)
            case ["", "grpc.health.v1.Health", "Check"]:
                draining = self._stopping.is_set()
                return lambda: health.check(call, self._router, draining=draining)
            case ["", "grpc.health.v1.Health", "Watch"]:
                return lambda: health.watch(call, self._router, self._stopping)
            case ["", service, "ServerReflectionInfo"] if service.startswith("grpc.reflection.v1"):
                package, _, name = service.rpartition(".")
                if name == "ServerReflection" and package in _REFLECTION:
                    return lambda: reflection.server_reflection_info(call, package)
        raise UnknownMethod(path)


def _is_probe(call: ServiceCall) -> bool:
    """Whether health is asked by who shows no credentials, such as a load balancer: it learns of
    the proxy as a whole, and of no namespace."""
    return call.exchange.target.startswith(b"/grpc.health.v1.Health/") and not call.header(
        b"authorization"
    )
