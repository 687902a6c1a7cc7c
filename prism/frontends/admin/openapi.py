"""The OpenAPI 3.1 description of the admin port, made from the routes and their types."""

from typing import Any

import msgspec

from prism import __version__
from prism.frontends.admin.access import Right
from prism.frontends.admin.messages import Nothing
from prism.frontends.admin.routes import OPENAPI_PATH, PLACE, ROUTES, Route, Text
from prism.frontends.stream_text import EVENTS, LINES

_RIGHTS = {
    Right.PROBE: "Open to everybody who can reach the port.",
    Right.READ: "Needs the right to read.",
    Right.OPERATE: "Needs the right to operate.",
    Right.CHANGE: "Needs the right to change.",
}


class FileProblem(msgspec.Struct, frozen=True):
    """One thing wrong with the configuration file, and where."""

    file: str
    line: int
    column: int
    path: str
    message: str


class Problem(msgspec.Struct, frozen=True):
    """An error (RFC 9457): `reason` says for programs what went wrong, `detail` for people;
    `problems` lists what is wrong with a configuration file."""

    type: str
    title: str
    status: int
    code: str
    reason: str
    detail: str
    request_id: str
    retryable: bool
    problems: list[FileProblem] = []


def describe() -> dict[str, Any]:
    """The whole description."""
    types = [route.answer for route in ROUTES if _is_struct(route.answer)]
    types += [route.body for route in ROUTES if route.body is not None]
    types += [route.streamed for route in ROUTES if route.streamed is not None]
    _, components = msgspec.json.schema_components(
        [*dict.fromkeys(types), Problem], ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    paths[OPENAPI_PATH] = {"get": _self()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Prism admin API",
            "version": __version__,
            "description": "What operators ask and tell a Prism proxy. See docs/admin.md.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    summary = " ".join((route.handler.__doc__ or "").split())
    found: dict[str, Any] = {
        "operationId": f"{route.handler.__name__}_{route.method.lower()}",
        "summary": summary.partition(". ")[0].rstrip("."),
        "description": f"{summary} {_RIGHTS[route.right]}".strip(),
        "responses": {
            str(route.status): {"description": "Done.", "content": _content(route)},
            "default": {
                "description": "What went wrong.",
                "content": {"application/problem+json": {"schema": _schema(Problem)}},
            },
        },
        # An empty one beside it: over a Unix socket, or where the configuration says so, none.
        "security": [{"token": []}] + ([{}] if route.right <= Right.READ else []),
    }
    parameters = _parameters(route)
    if parameters:
        found["parameters"] = parameters
    if route.body is not None:
        found["requestBody"] = {
            "required": route.body is not Nothing,
            "content": {"application/json": {"schema": _schema(route.body)}},
        }
    return found


def _content(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.answer is Text:
        content["text/plain"] = {"schema": {"type": "string"}}
    elif route.answer is not None:
        content["application/json"] = {"schema": _schema(route.answer)}
    if route.streamed is not None:
        for kind in (EVENTS, LINES):
            content[kind.decode()] = {"schema": _schema(route.streamed)}
    return content


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if PLACE in route.path:
        found.append(
            {"name": "namespace", "in": "path", "required": True, "schema": {"type": "string"}}
        )
    properties = msgspec.json.schema(route.query)["$defs"][route.query.__name__]["properties"]
    for name, schema in properties.items():
        text = schema.pop("description", "")
        found.append(
            {"name": name, "in": "query", "required": False, "description": text, "schema": schema}
        )
    return found


def _schema(kind: Any) -> dict[str, Any]:
    if not _is_struct(kind):
        return {"type": "object"}
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind is not Text


def _self() -> dict[str, Any]:
    answer = {"description": "Done.", "content": {"application/json": {"schema": {}}}}
    return {
        "operationId": "openapi",
        "summary": "This description",
        "responses": {"200": answer},
        "security": [{"token": []}, {}],
    }


OPENAPI = describe()
