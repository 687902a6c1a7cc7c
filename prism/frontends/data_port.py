"""The data port's front end: each kind of request goes to its own."""

from prism.access.authentication import Authentication
from prism.calls.router import Router
from prism.frontends.answering import Observer
from prism.frontends.grpc import GrpcApp, is_grpc
from prism.frontends.headers import read_headers
from prism.frontends.rest import RestApp
from prism.frontends.web_pages import WebPages
from prism.frontends.websocket import WebSocketApp
from prism.server.exchange import Exchange


class DataPort:
    """A front end; ``origins`` are those of ``WebPages``. Without ``authentication`` all
    clients are anonymous.

    ``stop`` it when the proxy begins to stop: calls still run.
    """

    def __init__(
        self,
        router: Router,
        observer: Observer,
        origins: frozenset[str] = frozenset(),
        authentication: Authentication | None = None,
    ) -> None:
        pages = WebPages(origins)
        self._rest = RestApp(router, observer, pages, authentication)
        self._grpc = GrpcApp(router, observer, authentication)
        self._websocket = WebSocketApp(router, observer, pages, authentication)

    def stop(self, *, replaced: bool = False) -> None:
        """Tell probes and watches that the proxy drains.

        Where a successor serves at the same address, probes are answered as before.
        """
        self._rest.draining = not replaced
        self._grpc.stop()

    def begin(self, exchange: Exchange) -> None:
        """Answer one request."""
        if exchange.websocket is not None:
            self._websocket.begin(exchange)
            return
        headers = read_headers(exchange.headers)
        if is_grpc(exchange, headers):
            self._grpc.begin(exchange)
        else:
            self._rest.answer(exchange, headers)
