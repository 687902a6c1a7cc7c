"""The data port's ASGI application: each kind of request goes to its own front end."""

from prism.calls.router import Router
from prism.frontends.grpc import GrpcApp, is_grpc
from prism.frontends.rest import RestApp
from prism.frontends.web_pages import WebPages
from prism.frontends.websocket import WebSocketApp
from prism.observability.metrics import Metrics
from prism.server import Receive, Scope, Send


class DoorApp:
    """ASGI application; ``origins`` are those of ``WebPages``.

    ``stop`` it when the proxy begins to stop: calls still run.
    """

    def __init__(
        self, router: Router, metrics: Metrics, origins: frozenset[str] = frozenset()
    ) -> None:
        pages = WebPages(origins)
        self._rest = RestApp(router, metrics, pages)
        self._grpc = GrpcApp(router, metrics)
        self._websocket = WebSocketApp(router, metrics, pages)

    def stop(self, *, replaced: bool = False) -> None:
        """Tell probes and watches that the proxy drains.

        Where a successor serves at the same address, probes are answered as before.
        """
        self._rest.draining = not replaced
        self._grpc.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif is_grpc(scope):
            await self._grpc(scope, receive, send)
        else:
            await self._rest(scope, receive, send)
