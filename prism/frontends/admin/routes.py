"""All that the admin port answers, in one table: the OpenAPI description is made from it."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from prism.calls.comparison import ShadowReport
from prism.contract.errors import MethodNotAllowed, NotFound
from prism.contract.names import namespace_name
from prism.control.plan import ConfigOutcome, ConfigPlan
from prism.frontends.admin import answers, follow
from prism.frontends.admin.access import Right
from prism.frontends.admin.call import AdminCall
from prism.frontends.admin.messages import (
    BreakerRequest,
    BreakerState,
    ConfigInUse,
    EventsQuery,
    LogLines,
    LogsQuery,
    NamespaceDescription,
    NamespaceList,
    NamespaceRequest,
    NoQuery,
    Nothing,
    PluginHealth,
    PluginList,
    ReloadRequest,
    Restarted,
    RestartRequest,
    Stopping,
    Traffic,
)
from prism.supervision.events import Event, LogLine
from prism.supervision.frame_traces import TracedFrame
from prism.supervision.instance import SHADOW
from prism.supervision.status import NamespaceStatus, Receipt

Handler = Callable[[AdminCall], Awaitable[Any]]
PLACE = "{namespace}"


class Text(msgspec.Struct, frozen=True):
    """In place of a type: the answer is not JSON."""


class Route(NamedTuple):
    """One method of one path.

    ``answer`` is the type of the JSON that comes back; ``follow`` answers in its place,
    as a stream of ``streamed``, where the query says ``follow`` (or there is no other).
    """

    method: str
    path: str
    right: Right
    handler: Handler
    answer: Any
    body: Any = None
    query: type[msgspec.Struct] = NoQuery
    streamed: Any = None
    follow: Handler | None = None
    status: int = 200


P, R, OP, C = Right.PROBE, Right.READ, Right.OPERATE, Right.CHANGE

# The paths are those of RFC-008 where it has one; the others are named alike.
ROUTES: tuple[Route, ...] = (
    Route("GET", "/healthz", P, answers.healthz, dict[str, Any]),
    Route("GET", "/readyz", P, answers.readyz, dict[str, Any]),
    Route("GET", "/metrics", R, answers.metrics, Text),
    Route("GET", "/admin/plugins", R, answers.plugins, PluginList),
    Route("GET", "/admin/plugins/{namespace}", R, answers.plugin, NamespaceStatus),
    Route("GET", "/admin/plugins/{namespace}/health", R, answers.health, PluginHealth),
    Route(
        "GET",
        "/admin/plugins/{namespace}/logs",
        R,
        answers.logs,
        LogLines,
        query=LogsQuery,
        streamed=LogLine,
        follow=follow.logs,
    ),
    Route(
        "GET",
        "/admin/plugins/{namespace}/frames",
        R,
        follow.frames,
        None,
        streamed=TracedFrame,
        follow=follow.frames,
    ),
    Route(
        "GET",
        "/admin/plugins/{namespace}/frames/payloads",
        OP,
        follow.payloads,
        None,
        streamed=TracedFrame,
        follow=follow.payloads,
    ),
    Route("POST", "/admin/plugin/reload", OP, answers.reload, Receipt, ReloadRequest),
    Route("POST", "/admin/plugin/abort", OP, answers.abort, Receipt, NamespaceRequest),
    Route("POST", "/admin/plugin/restart", OP, answers.restart, Receipt, NamespaceRequest),
    Route("POST", "/admin/plugin/drain", OP, answers.drain, Receipt, NamespaceRequest),
    Route("POST", "/admin/plugin/reset", OP, answers.reset, NamespaceStatus, NamespaceRequest),
    Route("POST", "/admin/breaker", OP, answers.breaker, BreakerState, BreakerRequest),
    Route("GET", "/admin/namespaces", R, answers.namespaces, NamespaceList),
    Route("GET", "/admin/namespaces/{namespace}", R, answers.namespace, NamespaceDescription),
    Route("GET", "/admin/traffic", R, answers.traffic, Traffic),
    Route("GET", "/admin/namespaces/{namespace}/shadow", R, answers.shadow, ShadowReport),
    Route(
        "GET",
        "/admin/events",
        R,
        follow.events,
        None,
        query=EventsQuery,
        streamed=Event,
        follow=follow.events,
    ),
    Route("GET", "/admin/config", R, answers.config, ConfigInUse),
    Route("GET", "/admin/config/plan", R, answers.plan, ConfigPlan),
    Route("POST", "/admin/config/apply", C, answers.apply, ConfigOutcome, Nothing),
    Route("POST", "/admin/restart", C, answers.restart_proxy, Restarted, RestartRequest),
    Route("POST", "/admin/drain", C, answers.drain_all, Stopping, status=202),
)
OPENAPI_PATH = "/admin/openapi.json"


def find_route(method: str, path: bytes) -> tuple[Route, dict[str, str]]:
    """The route of a request, and what stands in the places of its path.

    Raises:
        NotFound, MethodNotAllowed: there is none; says what there is.
        InvalidRequest: what stands in the place of a namespace is no such name.
    """
    parts = path.decode("latin-1").split("/")
    there = [route for route in ROUTES if _fits(route.path.split("/"), parts)]
    if not there:
        raise NotFound(f"nothing is at this path; {OPENAPI_PATH} lists what the admin port has")
    wanted = "GET" if method == "HEAD" else method
    route = next((route for route in there if route.method == wanted), None)
    if route is None:
        raise MethodNotAllowed(method, there[0].path, [route.method for route in there])
    values = {}
    template = route.path.split("/")
    if PLACE in template:
        given = parts[template.index(PLACE)]
        suffix = SHADOW if template[2] == "plugins" and given.endswith(SHADOW) else ""
        name = namespace_name(given.removesuffix(suffix).encode("latin-1"))
        values["namespace"] = name + suffix
    return route, values


def _fits(template: list[str], parts: list[str]) -> bool:
    return len(template) == len(parts) and all(
        expected in (PLACE, part) for expected, part in zip(template, parts, strict=True)
    )
