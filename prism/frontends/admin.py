"""The admin port's ASGI application: ``/metrics``, ``/healthz``, ``/readyz``."""

import logging

import trio

from prism.contract.exceptions import CallError, InternalError, NotFound
from prism.core.ids import random_hex
from prism.core.observability.metrics import Metrics
from prism.core.observability.trace import new_trace
from prism.core.request import CallRecord
from prism.core.router import Router
from prism.frontends.lifespan import decline_protocol
from prism.frontends.probes import PROBES, answer_probe, check_get
from prism.frontends.problems import problem
from prism.frontends.responses import Response, send_response
from prism.frontends.server import Receive, Scope, Send

logger = logging.getLogger(__name__)


class AdminApp:
    """ASGI application. Set ``draining`` when the proxy begins to stop."""

    def __init__(self, router: Router, metrics: Metrics) -> None:
        self._router = router
        self._metrics = metrics
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await decline_protocol(scope, receive, send)
            return
        record = CallRecord(trio.current_time(), random_hex(32), new_trace())
        try:
            response = self._answer(scope)
        except CallError as error:
            response = problem(error, record)
        except Exception:
            logger.exception("request %s failed", record.request_id)
            response = problem(InternalError(), record)
        await send_response(send, response, head=scope["method"] == "HEAD")

    def _answer(self, scope: Scope) -> Response:
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        if path == b"/metrics":
            check_get(scope["method"], "/metrics")
            accept = dict(scope["headers"]).get(b"accept", b"")
            body, content_type = self._metrics.exposition(accept.decode("latin-1"))
            return Response(200, [(b"content-type", content_type.encode("ascii"))], body)
        if path in PROBES:
            check_get(scope["method"], path.decode("ascii"))
            return answer_probe(path, self._router, draining=self.draining, for_operators=True)
        raise NotFound("nothing is at this path; the admin port has /metrics, /healthz and /readyz")
