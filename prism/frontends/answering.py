"""How every front end answers: one call, one record, one ending.

``ExchangeCall`` is a call that came as an HTTP request. Whatever ends it — the plugin's answer, an
error, the client that leaves, the proxy that stops — comes to ``Call.end`` (or ``answered``), which
lets go of what the call held, has the front end write the answer, and has ``Observer`` log and
count it. So REST, gRPC, WebSocket and admin say the same of the same ending:

======================  ==========================  ==================  ==============
ending                  gRPC status                 HTTP status         reason
======================  ==========================  ==================  ==============
the plugin's answer     OK, or what it says         200, or that's own  plugin_error
a ``CallError``         the error's                 the error's         the error's
any other exception     INTERNAL                    500                 internal
the client left         CANCELLED                   499                 client_gone
the proxy stopped       UNAVAILABLE                 503                 draining
======================  ==========================  ==================  ==============

The table from errors to statuses stands with the errors, in ``contract.errors``. The HTTP status
of a response that had begun stays what it was; gRPC's is 200 unless the client left.
"""

import logging
from collections.abc import Awaitable, Callable

import trio
from mypy_extensions import mypyc_attr

from prism.access.authentication import Authentication
from prism.access.identity import KeysAwaited
from prism.calls.call import BODY_PAUSE, BODY_RATE, Call
from prism.calls.ids import random_hex
from prism.calls.memory import OVERHEAD, UNCOUNTED, AnswerHold, Hold
from prism.calls.refusals import Refusals
from prism.contract.errors import (
    AuthenticationUnavailable,
    CallCancelled,
    CallError,
    Draining,
    InternalError,
    PayloadTooLarge,
)
from prism.observability.access_log import AccessLog
from prism.observability.audit import AuditLog
from prism.observability.metrics import Metrics
from prism.server.exchange import Cancelled, Exchange, Headers, Phase
from prism.server.problems import problem
from prism.streams.outlet import turn_time
from prism.wire.parts import Parts

logger = logging.getLogger("prism.frontends")

SMALL_BODY = 64 * 1024
"""Bytes of a body that a client may send in vain while its refusal is late."""


class Observer:
    """Who is told of calls that are over: the metrics, the access log, and the audit log; and, of
    those that are refused, ``refusals``, which may have their clients told later."""

    def __init__(
        self,
        metrics: Metrics,
        access_log: AccessLog,
        audit: AuditLog | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self.metrics = metrics
        self.access_log = access_log
        self.audit = audit
        self.refusals = refusals

    def observe(self, call: Call) -> None:
        """Count and log ``call``."""
        seconds = turn_time() - call.started
        self.metrics.observe(call, seconds)
        self.access_log.add(call, seconds)
        if self.audit is not None and call.is_call:
            self.audit.add(call, seconds)

    def log(self, call: Call) -> None:
        """Log a request that was no call."""
        self.access_log.add(call, trio.current_time() - call.started)


@mypyc_attr(allow_interpreted_subclasses=True)
class ExchangeCall(Call):
    """A call that came as an HTTP request, and is answered as its response.

    ``declared`` is the size of the request's body, if its head says it. ``extra_headers`` go out
    with every answer. Without an ``observer`` nobody is told of its end.
    """

    __slots__ = (
        "_beside",
        "_body",
        "_has_waited",
        "_limit",
        "declared",
        "exchange",
        "extra_headers",
        "observer",
    )

    def __init__(self, exchange: Exchange, observer: Observer | None) -> None:
        super().__init__(turn_time(), exchange.tasks)
        self.exchange = exchange
        self.observer = observer
        self.declared: int | None = None
        self.extra_headers: Headers = []
        self._body: Parts | None = None  # what has come of it, while more is to come
        self._limit = 0
        self._beside = 0  # bytes of the request beside its body
        self._has_waited = False
        exchange.watch(self)

    def identify(self, request_id: str = "", trace: tuple[str, str, str] | None = None) -> None:
        """Name the call: with what the client gave, where it gave any.

        ``trace`` is (trace id, traceparent, tracestate).
        """
        fresh = random_hex(80)
        self.request_id = request_id or fresh[:32]
        if trace is None:
            self.trace_id = fresh[32:64]
            self.traceparent = f"00-{self.trace_id}-{fresh[64:]}-00"
        else:
            self.trace_id, self.traceparent, self.tracestate = trace

    def authenticate(self, authentication: Authentication) -> None:
        """Find out who calls, from what the request shows.

        Raises:
            CallError: it does not say, or wrongly.
            KeysAwaited: that can be said in a moment; raised once.
        """
        try:
            self.identity = authentication.identify(
                self.exchange.headers, self.exchange.peer.certificate
            )
        except KeysAwaited:
            if self._has_waited:
                raise AuthenticationUnavailable("the token issuer's keys keep changing") from None
            self._has_waited = True
            raise
        self.principal = self.identity.name

    def begin_later(self, awaited: KeysAwaited, begin: Callable[[], None]) -> None:
        """Have a task wait for what is ``awaited``, and then ``begin`` the call anew."""

        async def wait() -> None:
            try:
                await awaited.wait()
                if not self.done:
                    begin()
            except CallError as error:
                self.end(error)
            except Exception:
                logger.exception("request %s failed", self.request_id)
                self.end(InternalError())

        self.wait_for(self.tasks.start(wait))

    # -- the request's body -----------------------------------------------------

    def use_body(self, body: bytes | bytearray) -> None:
        """The whole body has come. Raises CallError if it will not do."""
        self.params = body

    def read_params(self, limit: int) -> bool:
        if self.declared is not None and self.declared > limit:
            raise PayloadTooLarge(limit)
        exchange = self.exchange
        self._limit = limit
        if exchange.received_all:
            body = exchange.take()
            self.bytes_in = len(body)
            if len(body) > limit:
                raise PayloadTooLarge(limit)
            if len(body) > UNCOUNTED:
                self.hold(len(body))
            self.use_body(body)
            return False
        self.precheck()
        exchange.want_body(self.declared)
        self._beside = OVERHEAD + sum(len(name) + len(value) for name, value in exchange.headers)
        self._read_some()
        self.reading_until = self._body_due()
        if self.target is not None:
            self.target.deadlines.add(self, min(self.reading_until, self.deadline))
        return True

    def _read_some(self) -> None:
        part = self.exchange.take()
        self.bytes_in += len(part)
        if self.bytes_in > self._limit:
            raise PayloadTooLarge(self._limit)
        self.hold(self._beside + self.bytes_in)
        if self._body is None:
            self._body = Parts()
        self._body.add(part)

    def _body_due(self) -> float:
        """When more of the body must have come."""
        slowest = self.started + BODY_PAUSE + self.bytes_in / BODY_RATE
        return min(turn_time() + BODY_PAUSE, slowest)

    def drop_params(self) -> None:
        super().drop_params()
        self._body = None

    def new_hold(self) -> Hold:
        hold = super().new_hold()
        memory = self.exchange.peer.memory
        return hold if memory is None else Hold(*hold.accounts, memory.requests)

    def keep_answer(self, size: int) -> None:
        if self.target is None:
            return
        hold = self.new_answer_memory()
        hold.resize(size)
        self.exchange.held = hold

    def new_answer_memory(self) -> AnswerHold:
        hold, memory = super().new_answer_memory(), self.exchange.peer.memory
        return hold if memory is None else AnswerHold(memory.answers, *hold.accounts)

    def new_stream_memory(self) -> AnswerHold:
        self.exchange.is_counted = True
        hold, memory = super().new_answer_memory(), self.exchange.peer.memory
        return hold if memory is None else AnswerHold(memory.streams, *hold.accounts)

    def received(self) -> None:
        """From the exchange: more of the body has come, or its end."""
        if self.refusal is not None:
            self._drop_body()
        if self.reading_until is None or self.done:
            return
        try:
            self._read_some()
            if not self.exchange.received_all:
                self.reading_until = self._body_due()
                return
            self.reading_until = None
            body, self._body = self._body, None
            self.use_body(b"" if body is None else body.take())
        except CallError as error:
            self.end(error)
        except Exception:
            logger.exception("request %s failed", self.request_id)
            self.end(InternalError())
        else:
            self.proceed()

    # -- its end ------------------------------------------------------------------

    def address(self) -> str:
        client = self.exchange.peer.client
        return client[0] if client else ""

    def own_headers(self) -> Headers:
        """The headers that every answer of this call has."""
        headers = [(b"x-request-id", self.request_id.encode()), *self.extra_headers]
        if self.standing is not None:
            headers += self.standing.headers()
        return headers

    def cancelled(self, why: Cancelled) -> None:
        """From the exchange: nobody waits for the response, or the proxy cannot."""
        self.end(cancellation(why))

    def is_told_later(self, error: CallError) -> bool:
        observer, exchange = self.observer, self.exchange
        if observer is None or observer.refusals is None or exchange.cancelled is not None:
            return False
        if isinstance(error, CallCancelled | Draining):
            return False
        if not observer.refusals.hold(self, exchange.peer.memory):
            return False
        self._drop_body()
        return True

    def _drop_body(self) -> None:
        """Nobody wants what has come of the body, and the client is told so later. One that has
        much to send is told now, to spare both that."""
        exchange = self.exchange
        if exchange.received and not exchange.is_websocket:
            self.bytes_in += len(exchange.take())
            if self.bytes_in > SMALL_BODY:
                self.tell_refusal()

    def note(self, error: CallError) -> None:
        told = self.http_status
        super().note(error)
        if self.exchange.phase is not Phase.WAITING and not isinstance(error, CallCancelled):
            self.http_status = told  # the response had begun

    def break_off(self) -> None:
        self.exchange.abort()

    def send_error(self, error: CallError) -> None:
        if self.exchange.phase is not Phase.WAITING:
            self.exchange.abort()  # too late to say anything
            return
        status, headers, body = problem(error, self.request_id, self.namespace, self.operation)
        if not self.exchange.is_gone:
            self.bytes_out = len(body)
        self.respond(status, headers, body)

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send the whole response. The call is over, so that nothing can happen to it any more."""
        self.exchange.unwatch()
        headers = headers + self.own_headers()
        if self.retries or self.hedge is not None:
            headers += self.attempts_headers()
        self.exchange.respond(status, headers, body)

    def attempts_headers(self) -> Headers:
        """How often the call was made, where that was more than once."""
        attempts = self.attempts
        return [(b"prism-attempts", b"%d" % attempts)] if attempts > 1 else []

    def observe(self) -> None:
        if self.observer is not None:
            try:
                self.observer.observe(self)
            except Exception:  # it may be a plugin's reader that would end of it
                logger.exception("request %s could not be counted and logged", self.request_id)

    async def run(self, work: Callable[[], Awaitable[object]]) -> None:
        """Await ``work``, which answers; see that the call ends, however that goes."""
        try:
            await work()
        except CallError as error:
            self.end(error)
        except Exception:
            logger.exception("request %s failed", self.request_id)
            self.end(InternalError())
        else:
            self.end_well()

    def end_well(self) -> None:
        """The answer has been sent."""
        if not self.done:
            self.close()
            self.observe()


def cancellation(why: Cancelled) -> CallError:
    """The error that a call ends with when its response is not waited for."""
    if why is Cancelled.CLIENT_LEFT:
        return CallCancelled("the client left")
    return Draining("the proxy stopped")
