"""``/healthz`` and ``/readyz``, as orchestrators and load balancers ask them.

Alive means that the process answers; it says nothing of plugins, because
restarting the proxy does not mend a plugin. Ready means that every namespace that is ``required``
has an instance and the proxy is not draining. Who may only make calls is told no more than
whether; operators read which namespaces wait, and why.
"""

from collections.abc import Mapping

from prism.calls.router import Router
from prism.contract.errors import MethodNotAllowed
from prism.frontends.responses import Response, json_response

HEALTHZ = b"/healthz"
READYZ = b"/readyz"
PROBES = frozenset({HEALTHZ, READYZ})
GET_METHODS = ("GET", "HEAD")


def check_get(method: str, path: str) -> None:
    """Raises MethodNotAllowed unless ``method`` is GET or HEAD."""
    if method not in GET_METHODS:
        raise MethodNotAllowed(method, path, GET_METHODS)


def answer_probe(
    path: bytes, router: Router, *, draining: bool, namespaces: Mapping[str, str] | None = None
) -> Response:
    """The answer to a GET of one of ``PROBES``; ``namespaces`` is what operators read of each."""
    if path == HEALTHZ:
        return json_response(200, {"status": "alive"})
    status = "draining" if draining else "ready" if router.is_ready else "not ready"
    answer: dict[str, object] = {"status": status}
    if namespaces is not None:
        answer["namespaces"] = namespaces
    return json_response(200 if status == "ready" else 503, answer)
