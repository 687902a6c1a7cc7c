"""The errors that several floors raise: of the protocol, of channels, and of calls.

Errors of one floor stand there: ``config.errors``, ``streams.errors``, ``verification.refusals``,
``control.live_config``, ``process.errors``.

::

    PrismError
    ├── ProtocolError               a rule of the frame protocol was broken ...
    │   ├── LocalProtocolError      ... by this side: a bug here
    │   └── RemoteProtocolError     ... by the peer; the only class its bytes can cause
    ├── ChannelError                a channel to a plugin cannot carry calls ...
    │   ├── ChannelClosed           ... because this side closed it
    │   ├── ChannelBroken           ... because the peer, or the path to it, failed
    │   │   └── ChannelAged         ... or ended the connection as a matter of routine
    │   └── HandshakeFailed         ... because both sides could not agree to start
    │       └── SaidNothing         ... as the peer closed the connection first
    └── CallError                   a call failed; this is what a client is told
        ├── InvalidRequest          400  the request cannot be understood
        │   ├── RefusedParams       400  the params hold what is refused
        │   ├── MethodNotAllowed    405  wrong HTTP method for this path
        │   ├── UnsupportedEncoding 415  compressed in a way not spoken here
        │   ├── UnsupportedContentType 415  the body is of a format not taken here
        │   ├── NotForClients       403  a call that only the proxy makes
        │   ├── ForeignOrigin       403  a web page of another site
        │   └── PayloadTooLarge     413  the body is over the namespace's limit
        ├── Unauthenticated         401  who asks has not said who it is, or wrongly
        ├── Forbidden               403  who asks may not do this here
        ├── NotFound                404  nothing is at this path
        │   ├── UnknownNamespace    404  no such namespace, or none the caller may see
        │   ├── UnknownOperation    404  the plugin offers no such operation
        │   ├── UnknownMethod       404  no such gRPC method
        │   └── UnknownVersion      404  the catalogue has no such version of the plugin
        ├── RequestTimeout          408  the request's body did not arrive in time
        ├── OperationInProgress     409  the namespace's plugin is being reloaded already
        ├── TooManyInFlight         429  the namespace's in-flight limit is reached
        ├── QueueTooLong            429  ... and its place in the queue came too late; never ran
        ├── TooManyStreams          429  the limit on open streams is reached
        ├── RateLimited             429  calls come faster than a rate limit lets them; never ran
        ├── LimitsUnavailable       503  ... or how fast they come cannot be said now; never ran
        ├── AuditUnavailable        503  calls cannot be recorded now; it never ran
        ├── LoadShed                503  the proxy has more to do than it can; it never ran
        ├── MemoryFull              503  what requests may take of memory is taken; never ran
        ├── AnswerDropped           503  ... or what answers may take; it ran
        ├── CallCancelled           499  the caller went away
        ├── InternalError           500  a bug in Prism; the client learns no more
        ├── PluginCrashed           502  the plugin's connection broke; outcome unknown
        ├── AnswerTooLarge          502  the plugin's answer is over the proxy's limit; it ran
        ├── PluginMisbehaved        502  the plugin broke the protocol; outcome unknown
        ├── AuthenticationUnavailable 503 a credential cannot be judged now; the call never ran
        ├── PluginUnavailable       503  no instance can take the call; it never ran
        ├── CircuitOpen             503  the plugin fails, and is left alone for a while; never ran
        ├── Overloaded              503  the plugin takes no more work now; it never ran
        ├── Draining                503  the proxy is stopping, or the instance replaced
        ├── DeadlineExceeded        504  the call's time is up; outcome unknown
        └── PluginError             ---  the plugin's own answer, with its status

Classes take facts and build their sentence in ``__str__``. ``PluginError`` is
also what a plugin raises (through ``prism.sdk``) to answer a call with an error.
"""

import math
from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache

from prism.contract.status import StatusCode


class PrismError(Exception):
    """Base of all errors raised by Prism."""


class ProtocolError(PrismError):
    """A rule of the frame protocol (docs/protocol.md) was broken."""


class LocalProtocolError(ProtocolError):
    """This side tried to send what the protocol forbids now: a bug in the caller."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids. The connection is of no more use."""


class ChannelError(PrismError):
    """A channel to a plugin cannot carry calls."""


class ChannelClosed(ChannelError):
    """This side closed the channel."""


class ChannelBroken(ChannelError):
    """The plugin, or the path to it, failed."""


class ChannelAged(ChannelBroken):
    """The peer, or something on the way to it, ended the connection as a matter of routine: it
    was old, or the server restarts. Another one can be had."""


class HandshakeFailed(ChannelError):
    """The two sides could not agree on how to talk."""


class SaidNothing(HandshakeFailed):
    """The peer closed the connection before its first byte."""


class CallError(PrismError):
    """A call failed. ``detail`` is shown to the client: no secrets, no internals.

    ``status`` is the gRPC status, ``http_status`` the HTTP one; ``reason`` is a
    stable word for programs; ``retryable`` says whether repeating a call that
    is *not* idempotent is safe, because this one is known not to have run.
    ``retry_after``: seconds until repeating it may help, where that is known.
    """

    status: StatusCode = StatusCode.INTERNAL
    http_status: int = 500
    reason: str = "internal"
    retryable: bool = False
    retry_after: float | None = None

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        return self.detail

    def members(self) -> dict[str, object]:
        """What an answer says beside: further members of its JSON."""
        return {}


class InvalidRequest(CallError):
    """The request cannot be understood."""

    status = StatusCode.INVALID_ARGUMENT
    http_status = 400
    reason = "invalid_request"


class RefusedParams(InvalidRequest):
    """Something in the params is refused, which ``detail`` quotes; ``logged`` does not."""

    def __init__(self, detail: str, logged: str) -> None:
        super().__init__(detail)
        self.logged = logged


class MethodNotAllowed(InvalidRequest):
    """The path exists, but not for this HTTP method."""

    status = StatusCode.UNIMPLEMENTED
    http_status = 405
    reason = "method_not_allowed"

    def __init__(self, method: str, path: str, allowed: Sequence[str], hint: str = "") -> None:
        use = f"use {' or '.join(allowed)}{hint}"
        super().__init__(f"{method} is not supported on {path}; {use}")
        self.allowed = tuple(allowed)


class UnsupportedEncoding(InvalidRequest):
    """The request is compressed in a way that is not spoken here."""

    status = StatusCode.UNIMPLEMENTED
    http_status = 415
    reason = "unsupported_encoding"

    def __init__(self, encoding: str, known: Sequence[str]) -> None:
        super().__init__(f"encoding {encoding[:40]!r} is not known here; use {' or '.join(known)}")


class UnsupportedContentType(InvalidRequest):
    """The body says that it is of a format that is not taken here."""

    http_status = 415
    reason = "unsupported_content_type"

    def __init__(self, content_type: str) -> None:
        super().__init__(
            f"a body of {content_type[:100]!r} is not taken; send JSON (application/json), or for "
            "a stream lines of it (application/x-ndjson)"
        )


class NotForClients(InvalidRequest):
    """A method of the contract that only the proxy calls."""

    status = StatusCode.PERMISSION_DENIED
    http_status = 403
    reason = "not_for_clients"

    def __init__(self, method: str) -> None:
        super().__init__(f"{method} is the proxy's to call; clients have Execute and ExecuteStream")


class ForeignOrigin(InvalidRequest):
    """A web page of another site tries to use its visitor's access."""

    status = StatusCode.PERMISSION_DENIED
    http_status = 403
    reason = "foreign_origin"

    def __init__(self, origin: str) -> None:
        super().__init__(
            f"pages of {origin[:200]} may not call here; listen.web_origins lists who may"
        )


class PayloadTooLarge(InvalidRequest):
    """The body, or an encoded message, is over a limit."""

    status = StatusCode.RESOURCE_EXHAUSTED
    http_status = 413
    reason = "payload_too_large"
    retryable = False

    def __init__(
        self,
        limit: int,
        what: str = "the request body",
        whose: str = ", the namespace's max_payload_bytes",
    ) -> None:
        super().__init__(f"{what} is larger than the limit of {limit} bytes{whose}")
        self.limit = limit


class Unauthenticated(CallError):
    """Who asks has not said who it is, or not rightly.

    ``shown``: a credential was there, and is not good (RFC 6750, 3.1: ``invalid_token``).
    ``logged`` is ``detail``, with what is for operators alone.
    """

    status = StatusCode.UNAUTHENTICATED
    http_status = 401
    reason = "unauthenticated"

    def __init__(self, detail: str, *, shown: bool = False, logged: str = "") -> None:
        super().__init__(detail)
        self.shown = shown
        self.logged = logged or detail


class Forbidden(CallError):
    """Who asks may not do this here.

    ``shown``: a good credential was there, and does not suffice (RFC 6750, 3.1:
    ``insufficient_scope``).
    """

    status = StatusCode.PERMISSION_DENIED
    http_status = 403
    reason = "forbidden"

    def __init__(self, detail: str, *, shown: bool = False) -> None:
        super().__init__(detail)
        self.shown = shown


class NotFound(CallError):
    """Nothing is at this path."""

    status = StatusCode.NOT_FOUND
    http_status = 404
    reason = "not_found"


@lru_cache(maxsize=256)
def _nearest(name: str, names: tuple[str, ...]) -> str:
    """Which of ``names`` was probably meant by ``name``; empty if none. It takes some hundred
    microseconds, and clients that ask for what there is not often do so again and again."""
    close = get_close_matches(name, names, 1, 0.7)
    return close[0] if close else ""


MOST_NAMES_COMPARED = 100
"""Namespaces among which one that is probably meant is looked for."""


class UnknownNamespace(NotFound):
    """There is no such namespace, or none that the caller may know of.

    ``known`` is for operators: what there is; ``hint`` for clients: who lists what they may see.
    ``near``: the names that may be told where one of them is probably meant.
    """

    reason = "unknown_namespace"

    def __init__(
        self,
        namespace: str,
        known: Sequence[str] = (),
        hint: str = "",
        near: Sequence[str] = (),
    ) -> None:
        rest = f"there is {', '.join(known)}" if known else hint
        choices = known or near
        # Who may be anybody must not have many names compared with each of many requests.
        is_few = len(choices) <= MOST_NAMES_COMPARED
        close = _nearest(namespace[:64], tuple(choices)) if is_few else ""
        meant = f"; did you mean {close!r}?" if close else ""
        separator = " " if meant else "; "
        told = f"there is no namespace {namespace[:200]!r}{meant}"
        super().__init__(f"{told}{separator}{rest}" if rest else told)
        self.namespace = namespace


class UnknownOperation(NotFound):
    """The namespace's plugin does not offer this operation."""

    status = StatusCode.UNIMPLEMENTED
    reason = "unknown_operation"

    def __init__(self, namespace: str, operation: str, supported: Sequence[str]) -> None:
        close = _nearest(operation[:64], tuple(supported))
        meant = f"; did you mean {close!r}?" if close else ";"
        offered = ", ".join(sorted(supported)) or "none"
        super().__init__(
            f"namespace {namespace!r} has no operation {operation!r}{meant} it offers: {offered}"
        )


class UnknownMethod(NotFound):
    """There is no such gRPC method."""

    status = StatusCode.UNIMPLEMENTED
    reason = "unknown_method"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"there is no method {path[:200]!r}; server reflection lists what there is"
        )


class UnknownVersion(NotFound):
    """The catalogue has no such version of the namespace's plugin; says what it has."""

    reason = "unknown_version"


class RequestTimeout(CallError):
    """The client did not deliver its request in time."""

    status = StatusCode.DEADLINE_EXCEEDED
    http_status = 408
    reason = "request_timeout"
    retryable = True


class OperationInProgress(CallError):
    """One reload, restart or drain at a time is run on a namespace."""

    status = StatusCode.ABORTED
    http_status = 409
    reason = "operation_in_progress"
    retryable = True

    def __init__(self, namespace: str, operation: str) -> None:
        super().__init__(f"a {operation} of namespace {namespace!r} is already under way")
        self.namespace = namespace
        self.operation = operation


class TooManyInFlight(CallError):
    """The namespace already runs as many calls as it may, and has as many in its queue.

    ``why``: ``in_flight``, or ``fair_share`` or ``displaced``, where the place is for callers who
    have less.
    """

    status = StatusCode.RESOURCE_EXHAUSTED
    http_status = 429
    reason = "too_many_in_flight"
    retryable = True

    def __init__(self, namespace: str, limit: int, queued: int = 0, why: str = "in_flight") -> None:
        if why == "fair_share":
            told = (
                f"of the {limit} calls that namespace {namespace!r} may have in flight this caller "
                "has its share; the rest is kept for others"
            )
        else:
            told = f"namespace {namespace!r} already has {limit} calls in flight, its limit"
            if queued:
                told += f", and {queued} in its queue"
            if why == "displaced":
                told += ", where this one made room for a caller who has fewer"
        super().__init__(told)


class QueueTooLong(CallError):
    """The call's deadline would pass in the namespace's queue, or has. It never ran.

    429, as where there is no queue: neither the proxy nor the plugin is ill, as 503 would tell load
    balancers; and UNAVAILABLE many gRPC clients repeat at once, which is the last thing wanted.
    """

    status = StatusCode.RESOURCE_EXHAUSTED
    http_status = 429
    reason = "queue_too_long"
    retryable = True

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class TooManyStreams(CallError):
    """The namespace, or this client of it, already has as many streams as it may."""

    status = StatusCode.RESOURCE_EXHAUSTED
    http_status = 429
    reason = "too_many_streams"
    retryable = True

    def __init__(self, whose: str, limit: int) -> None:
        super().__init__(f"{whose} already has {limit} streams open, the limit")


OPERATIONS_NAMED = 5
"""Operations of a rate limit that a sentence has room for."""
_WHOSE = {
    "namespace": "namespace {!r} takes",
    "principal": "each principal may make in namespace {!r}",
    "operation": "each operation of namespace {!r} takes",
    "client": "each client address may make in namespace {!r}",
}


class RateLimited(CallError):
    """Calls come faster than a rate limit lets them. This one never ran.

    ``per`` is who has the limit, of ``operations`` alone if there are any; ``cost`` what the call
    would have used of it. It fits after ``retry_after`` seconds, never if that is infinite.
    """

    status = StatusCode.RESOURCE_EXHAUSTED
    http_status = 429
    reason = "rate_limited"
    retryable = True

    def __init__(
        self,
        namespace: str,
        per: str,
        calls_per_second: float,
        burst: int,
        cost: int,
        retry_after: float,
        operations: Sequence[str] = (),
    ) -> None:
        self.namespace = namespace
        self.per = per
        self.operations = operations
        self.calls_per_second = calls_per_second
        self.burst = burst
        self.cost = cost
        self.retry_after = retry_after
        takes = f"{_WHOSE[per].format(namespace)} {calls_per_second:g} calls a second"
        if operations:
            named = ", ".join(operations[:OPERATIONS_NAMED])
            takes += f" of {named}{', ...' if len(operations) > OPERATIONS_NAMED else ''}"
        takes = f"{takes}, {burst} at once"
        if cost > burst:
            super().__init__(f"{takes}: one that uses {cost} can never pass")
            self.retryable = False
            return
        uses = f"this one uses {cost}, and " if cost > 1 else ""
        super().__init__(f"{takes}; {uses}there is room for it in {retry_after:.3g} s")

    def members(self) -> dict[str, object]:
        limit: dict[str, object] = {
            "per": self.per,
            "calls_per_second": self.calls_per_second,
            "burst": self.burst,
        }
        if self.operations:
            limit["operations"] = list(self.operations)
        return {"limit": limit}


class LimitsUnavailable(CallError):
    """What is used of a rate limit cannot be said now, and the call is not to run without. It
    never ran."""

    status = StatusCode.UNAVAILABLE
    http_status = 503
    reason = "limits_unavailable"
    retryable = True

    def __init__(self, why: str = "the limits store does not answer") -> None:
        super().__init__(f"calls are not allowed while they cannot be counted: {why}")


class AuditUnavailable(CallError):
    """The call could not be recorded in the audit log now, and is not to run without. It never
    ran."""

    status = StatusCode.UNAVAILABLE
    http_status = 503
    reason = "audit_unavailable"
    retryable = True

    def __init__(self, why: str) -> None:
        super().__init__(f"calls are not allowed while they cannot be recorded: {why}")


class LoadShed(CallError):
    """The proxy has more to do than it can, and this call is among the less important. It never
    ran. ``retry_after``: seconds after which to come again."""

    status = StatusCode.UNAVAILABLE
    http_status = 503
    reason = "overloaded_proxy"
    retryable = True

    def __init__(self, priority: str, *, retry_after: float) -> None:
        super().__init__(
            f"the proxy has more to do than it can, and refuses calls of {priority} priority"
        )
        self.retry_after = retry_after


class MemoryFull(CallError):
    """There is no room for the request's bytes now: in its connection's share, its namespace's,
    or the proxy's memory. It never ran."""

    status = StatusCode.RESOURCE_EXHAUSTED
    http_status = 503
    reason = "memory_full"
    retryable = True

    def __init__(self, of: str, limit: int) -> None:
        super().__init__(f"{of} take {limit} bytes already, the limit")
        self.of = of
        self.limit = limit


class AnswerDropped(CallError):
    """There is no room to keep the answer until the client takes it. The call ran."""

    status = StatusCode.RESOURCE_EXHAUSTED
    http_status = 503
    reason = "answer_dropped"

    def __init__(self, size: int, of: str, limit: int) -> None:
        super().__init__(
            f"the call ran, but its answer of {size} bytes is dropped: "
            f"{of} take {limit} bytes already, the limit"
        )


class CallCancelled(CallError):
    """The caller went away before the answer."""

    status = StatusCode.CANCELLED
    http_status = 499
    reason = "client_gone"


class InternalError(CallError):
    """A bug in Prism. The log has the cause, under the request id."""

    def __init__(self, detail: str = "internal error; the proxy's log has the cause") -> None:
        super().__init__(detail)


class PluginCrashed(CallError):
    """The connection to the plugin broke while the call was open: outcome unknown."""

    status = StatusCode.UNAVAILABLE
    http_status = 502
    reason = "plugin_crashed"


class AnswerTooLarge(CallError):
    """The plugin's answer does not fit into what the proxy takes. The call has run."""

    status = StatusCode.RESOURCE_EXHAUSTED
    http_status = 502
    reason = "answer_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the plugin's answer is larger than the {limit} bytes that the proxy takes of it "
            "(plugin.max_frame_bytes in the configuration); the call has run"
        )


class PluginMisbehaved(CallError):
    """The plugin broke the frame protocol while the call was open: outcome unknown."""

    status = StatusCode.UNAVAILABLE
    http_status = 502
    reason = "protocol_error"


class AuthenticationUnavailable(CallError):
    """Whether a credential is good cannot be said now: what it takes is not to be had."""

    status = StatusCode.UNAVAILABLE
    http_status = 503
    reason = "authentication_unavailable"
    retryable = True


class PluginUnavailable(CallError):
    """No instance can take the call. It never ran.

    ``retry_after``: seconds until the next start of the plugin, where that is known; infinite
    where somebody has to ask for it.
    """

    status = StatusCode.UNAVAILABLE
    http_status = 503
    reason = "plugin_unavailable"
    retryable = True

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class CircuitOpen(CallError):
    """The plugin fails most of its calls, or an operator wants it to get none. It never ran.

    ``why`` are the breaker's words; ``retry_after`` the seconds until the next call is let through,
    infinite where an operator decides on that.
    """

    status = StatusCode.UNAVAILABLE
    http_status = 503
    reason = "circuit_open"
    retryable = True

    def __init__(self, namespace: str, why: str, *, retry_after: float = math.inf) -> None:
        super().__init__(f"the circuit breaker of namespace {namespace!r} is open: {why}")
        self.retry_after = retry_after


class Overloaded(CallError):
    """The plugin cannot take the call now. It never ran."""

    status = StatusCode.UNAVAILABLE
    http_status = 503
    reason = "overloaded"
    retryable = True


NEVER_BEGAN = (Overloaded, PluginUnavailable)
"""What an attempt ends with that its instance did not start: repeating it is safe, writes too."""


class Draining(CallError):
    """The proxy is stopping, or the instance replaced, and could not finish the call."""

    status = StatusCode.UNAVAILABLE
    http_status = 503
    reason = "draining"


class DeadlineExceeded(CallError):
    """The call's time is up. It may have run."""

    status = StatusCode.DEADLINE_EXCEEDED
    http_status = 504
    reason = "deadline_exceeded"


class PluginError(CallError):
    """The plugin's own answer to a call: a gRPC status and a sentence."""

    reason = "plugin_error"

    def __init__(self, status: StatusCode, detail: str) -> None:
        super().__init__(detail or f"the plugin answered {status.name} without a message")
        self.status = status
        self.http_status = HTTP_STATUS[status]


HTTP_STATUS: dict[StatusCode, int] = {
    StatusCode.OK: 200,
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNAUTHENTICATED: 401,
}
"""The HTTP status for a plugin's gRPC status (google.rpc.Code's mapping)."""
