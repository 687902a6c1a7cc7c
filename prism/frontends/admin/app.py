"""The admin port's ASGI application: admit, find the route, understand, answer, note."""

import logging
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import trio

from prism.calls.ids import random_hex
from prism.calls.request import CallRecord
from prism.calls.trace import new_trace
from prism.contract.errors import CallError, InternalError, InvalidRequest
from prism.frontends.admin.access import Access, Right
from prism.frontends.admin.call import AdminCall, Administered
from prism.frontends.admin.openapi import OPENAPI
from prism.frontends.admin.routes import OPENAPI_PATH, Route, find_route
from prism.frontends.body_params import BodyParams
from prism.frontends.lifespan import decline_protocol
from prism.frontends.probes import check_get
from prism.frontends.problems import problem
from prism.frontends.responses import Response, json_response, send_response
from prism.server import Receive, Scope, Send

logger = logging.getLogger("prism.admin")

MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 10.0
"""For the whole of a body, which is a line of JSON."""
MAX_QUERY_KEYS = 16


class AdminApp:
    """ASGI application for the proxy ``proxy``, open to whom ``access`` admits."""

    def __init__(self, proxy: Administered, access: Access | None = None) -> None:
        self._proxy = proxy
        self.access = access or Access()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await decline_protocol(scope, receive, send)
            return
        record = CallRecord(trio.current_time(), random_hex(32), new_trace())
        try:
            response = await self._answer(scope, receive, send, record)
        except CallError as error:
            self._note_refusal(scope, record, error)
            response = problem(error, record)
        except Exception:
            logger.exception("request %s failed", record.request_id)
            response = problem(InternalError(), record)
        if response is not None:
            response.headers.append((b"x-request-id", record.request_id.encode("ascii")))
            await send_response(send, response, head=scope["method"] == "HEAD")

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, record: CallRecord
    ) -> Response | None:
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        headers = dict(scope["headers"])
        state = scope.get("state") or {}
        if path.decode("latin-1") == OPENAPI_PATH:
            self.access.admit(state, headers, Right.READ)
            check_get(scope["method"], OPENAPI_PATH)
            return json_response(200, OPENAPI)
        try:
            route, values = find_route(scope["method"], path)
        except CallError:
            self.access.admit(state, headers, Right.READ)  # strangers learn of no paths
            raise
        record.principal = self.access.admit(state, headers, route.right)
        call = AdminCall(
            proxy=self._proxy,
            scope=scope,
            send=send,
            headers=headers,
            record=record,
            values=values,
            query=_query(route, scope.get("query_string", b"")),
            body=await _body(route, receive, headers, record),
            may_read=self.access.may_read(state, headers),
        )
        if route.follow is not None and getattr(call.query, "follow", True):
            if scope["method"] == "HEAD":
                return Response(200, [], b"")
            await _follow(route.follow, call)
            return None
        if route.right is Right.CHANGE:
            self._note_change(scope, call)  # before it: who asked may leave, and it goes on
        answer = await route.handler(call)
        return answer if isinstance(answer, Response) else json_response(route.status, answer)

    def _note_change(self, scope: Scope, call: AdminCall) -> None:
        named = getattr(call.body, "namespace", None)
        logger.info(
            "%s%s is asked for by %s",
            scope["path"],
            f" of namespace {named:.100}" if named else "",
            call.record.principal,
            extra={"fields": {"request_id": call.record.request_id}},
        )

    def _note_refusal(self, scope: Scope, record: CallRecord, error: CallError) -> None:
        if scope["method"] not in ("GET", "HEAD") or error.http_status in (401, 403):
            logger.warning(
                "%s %.200s is refused: %s",
                scope["method"],
                scope["path"],
                error,
                extra={"fields": {"request_id": record.request_id, "reason": error.reason}},
            )


async def _follow(handler: Any, call: AdminCall) -> None:
    begun = False

    async def send(message: Any) -> None:
        nonlocal begun
        begun = True
        await call.send(message)

    try:
        await handler(call._replace(send=send))
    except CallError:
        raise
    except Exception:
        if not begun:
            raise
        logger.exception("request %s failed", call.record.request_id)


def _query(route: Route, raw: bytes) -> Any:
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(raw),
            max_num_fields=MAX_QUERY_KEYS,
        )
    except ValueError:
        raise InvalidRequest("the query is not key=value pairs joined by &") from None
    given = dict(pairs)
    if len(given) < len(pairs):
        raise InvalidRequest("a key of the query is given twice")
    try:
        return msgspec.convert(given, route.query, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the query does not fit: {error}") from None


async def _body(
    route: Route, receive: Receive, headers: dict[bytes, bytes], record: CallRecord
) -> Any:
    if route.body is None:
        return None
    declared = headers.get(b"content-length", b"")
    length = int(declared) if declared.isdigit() and len(declared) < 20 else None
    deadline = trio.current_time() + 10 * BODY_SECONDS
    with trio.move_on_after(BODY_SECONDS):
        content = await BodyParams(receive, length, deadline, record).read(MAX_BODY_BYTES)
        try:
            return msgspec.json.decode(content or b"{}", type=route.body)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"the body does not fit: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"the body is not JSON: {error}") from None
    raise InvalidRequest(f"the body did not come within {BODY_SECONDS:g} s")
