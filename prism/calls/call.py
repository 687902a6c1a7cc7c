"""One call: what was asked, who deals with it now, what became of it. One way for all of them.

Theory of operation. A front end makes a ``Call`` from a request's head and calls ``proceed``. The
call *enters* its namespace's policies one after another (``calls.policies``), all of it plain
code: a policy may refuse by raising, or have the call wait. Then it is *invoked*: handed to the
channel of an instance of the plugin. The channel tells the answer with ``answered`` or
``failed``, from the task that reads it, and that leads straight to ``end``: the policies are
*left* in reverse order, the client is answered, the log and the metrics are told.

Only what truly waits has a task (``wait_in_task``): a plugin that is being started again, the
check of a large body, a stream's messages. A body that is still arriving and an answer that is
still awaited need none.

``end`` happens exactly once, at what comes first: the plugin's answer, the deadline, the client
that leaves, the proxy that stops. Each of them calls ``end``; all but the first change nothing.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from mypy_extensions import mypyc_attr

from prism.access.identity import ANONYMOUS
from prism.access.permissions import Decision
from prism.calls.admission import Ticket
from prism.calls.invoke import NextAttempt, invoke, retry
from prism.calls.memory import UNCOUNTED, AnswerHold, Hold
from prism.calls.namespace import Namespace
from prism.calls.overload import HIGH
from prism.calls.policies.circuit_breaker import CircuitBreaker
from prism.calls.policies.hedging import Hedge
from prism.calls.policies.policy import Policy, Witness
from prism.calls.policies.rate_limit import Standing, StoreWait
from prism.calls.stream import ClientStream
from prism.contract.errors import (
    NEVER_BEGAN,
    CallCancelled,
    CallError,
    DeadlineExceeded,
    InternalError,
    PluginError,
    PluginMisbehaved,
    RefusedParams,
    RequestTimeout,
    Unauthenticated,
)
from prism.contract.messages import ExecuteResponse
from prism.contract.service import (
    NAMESPACE_KEY,
    PRINCIPAL_KEY,
    REQUEST_ID_KEY,
    TRACEPARENT_KEY,
    TRACESTATE_KEY,
)
from prism.contract.status import StatusCode
from prism.streams.outlet import turn_time
from prism.streams.tasks import TaskPool
from prism.supervision.balance import SHORTEST
from prism.supervision.instance import Instance

log = logging.getLogger("prism.calls")

_OK = StatusCode.OK  # on every call's way: on Python 3.11 an enum's attribute costs a call
_UNAVAILABLE = StatusCode.UNAVAILABLE

P = TypeVar("P", bound=Policy)

MAX_DETAIL = 4096
"""Characters of a plugin's error message that a client gets to see."""

BODY_PAUSE = 30.0
"""Seconds that a client may pause within a body. The call's deadline holds beside it."""


BODY_RATE = 1024
"""Bytes a second that a body must have come at on average, after one such pause: else a byte now
and then would hold its place as long as the deadline lets it."""

SMALL_ANSWER = 64 * 1024
"""Bytes of an answer up to which it is sent without looking for room: there always is as much."""


class Waiting(Protocol):
    """What a call waits for; a task's cancel scope is one."""

    def cancel(self) -> None:
        """The call has ended: it waits no more."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Call(ABC):
    """One request of a client, from its head to its answer, and the record of it.

    ``namespace`` and ``operation`` are the names that the client used, empty while they have
    not been recognised as names; ``target`` is the namespace, once it is known to exist.
    ``is_call``: an operation of a plugin is meant, so that it counts as a call.

    ``params`` is the JSON exactly as received (empty: ``{}``), or ``raw`` MessagePack in its
    place, and complete once ``has_params``; ``place`` is where the client put them, for errors.
    ``metadata`` is what a client may
    tell the plugin by itself; ``principal``, the name of ``identity``, the proxy tells it.
    ``stream`` is there when the caller wants a stream; the params are its first message then.
    ``client`` is the address by which streams are counted. ``priority`` is what its client takes
    it for (``calls.overload``), the highest where it does not say. ``tasks`` runs what has to wait.
    ``circuit`` is told of each attempt, where the namespace has circuit breakers; ``standing`` is
    what the answer says of its rate limits, where there are some.

    ``decision`` is what let the call pass, where clients are authenticated, by the permission
    ``needs``: the table may be another by the time it ends.

    Times are on trio's clock. ``plugin_seconds`` is what the last attempt took that the plugin has
    begun, or may have, and None while there is none; ``witnesses`` see what becomes of it there.
    ``retries`` counts further attempts, one after the other; ``hedge`` is there where one beside
    the first may be made. ``status``, ``http_status``
    and ``reason`` are what the client was told, ``detail`` why, in the proxy's own words.
    ``refusal`` is what it ended with and its client is still to be told (``calls.refusals``).
    """

    __slots__ = (
        "_attempt_began",
        "_breaker_period",
        "_entered",
        "_policies",
        "_waiting",
        "bytes_in",
        "bytes_out",
        "circuit",
        "client",
        "deadline",
        "decision",
        "detail",
        "done",
        "has_params",
        "hedge",
        "held",
        "http_status",
        "identity",
        "instance",
        "instance_id",
        "is_call",
        "metadata",
        "namespace",
        "needs",
        "operation",
        "params",
        "place",
        "plugin_seconds",
        "principal",
        "priority",
        "raw",
        "reading_until",
        "reason",
        "refusal",
        "request_id",
        "retries",
        "standing",
        "started",
        "status",
        "stream",
        "stream_number",
        "target",
        "tasks",
        "trace_id",
        "traceparent",
        "tracestate",
        "witnesses",
    )

    def __init__(self, started: float, tasks: TaskPool) -> None:
        self.started = started
        self.tasks = tasks
        self.request_id = ""
        self.trace_id = ""
        self.traceparent = ""
        self.tracestate = ""
        self.identity = ANONYMOUS
        self.principal = ANONYMOUS.name
        self.decision: Decision | None = None
        self.needs = 0
        self.client = ""
        self.priority = HIGH
        self.target: Namespace | None = None
        self.namespace = ""
        self.operation = ""
        self.is_call = False
        self.params: bytes | bytearray = b""
        self.raw = b""
        self.place = "the body"
        self.has_params = False
        self.metadata: dict[str, str] | None = None
        self.stream: ClientStream | None = None
        self.deadline = 0.0
        self.held: Hold | None = None
        self.circuit: CircuitBreaker | None = None
        self.standing: Standing | None = None
        self.reading_until: float | None = None
        self.instance: Instance | None = None
        self.instance_id = ""
        self.stream_number = 0
        self.plugin_seconds: float | None = None
        self.retries = 0
        self.hedge: Hedge | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.status = _OK
        self.http_status = 0
        self.reason = ""
        self.detail = ""
        self.done = False
        self.refusal: CallError | None = None
        self.witnesses: tuple[Witness, ...] = ()
        self._entered = 0
        self._policies: tuple[Policy, ...] = ()
        self._waiting: Waiting | None = None
        self._attempt_began = 0.0
        self._breaker_period = 0

    # -- what a front end fills in ---------------------------------------------

    @abstractmethod
    def read_params(self, limit: int) -> bool:
        """Set ``params`` or ``raw`` if all of them have come; else return True, and call
        ``proceed`` when they have.

        Raises:
            PayloadTooLarge: there are more bytes than ``limit``.
            InvalidRequest: they are no message.
        """

    @abstractmethod
    def send_result(self, result: bytes, content_type: bytes) -> None:
        """Send the plugin's result to the client. Never waits."""

    def keep_answer(self, size: int) -> None:
        """An answer of ``size`` bytes follows, which the client may not take at once.

        Raises:
            AnswerDropped: there is no room for it.
        """

    def address(self) -> str:
        """The client's address; empty if it has none."""
        return self.client

    @abstractmethod
    def send_error(self, error: CallError) -> None:
        """Send ``error`` to the client, if it is still there. Never waits."""

    def is_told_later(self, error: CallError) -> bool:
        """The call, which never was with a plugin, has ended with ``error``: is somebody going to
        call ``tell_refusal``?"""
        return False

    @abstractmethod
    def observe(self) -> None:
        """Log and count this call, which is over."""

    # -- its way ----------------------------------------------------------------

    def plugin_metadata(self) -> dict[str, str]:
        """What the plugin is told of the call beside its params."""
        metadata = {
            NAMESPACE_KEY: self.namespace,
            PRINCIPAL_KEY: self.principal,
            REQUEST_ID_KEY: self.request_id,
            TRACEPARENT_KEY: self.traceparent,
        }
        if self.tracestate:
            metadata[TRACESTATE_KEY] = self.tracestate
        return {**metadata, **self.metadata} if self.metadata else metadata

    def proceed(self, following: NextAttempt | None = None) -> None:
        """Enter the policies that were not entered yet, and invoke the plugin then, as the attempt
        ``following`` if it was before. The first time, ``target`` and ``deadline`` are set."""
        if self.done or self.target is None:
            return
        self._waiting = None
        if not self._entered:
            self._policies = self.target.policies
        try:
            for policy in self._policies[self._entered :]:
                waits = policy.enter(self)
                self._entered += 1
                if waits:
                    return
            invoke(self, following)
        except CallError as error:
            self.end(error)
        except Exception:
            log.exception("request %s failed", self.request_id)
            self.end(InternalError())

    def drop_params(self) -> None:
        """Free what is counted: the call may be there until its answer is taken."""
        self.params = self.raw = b""

    def precheck(self) -> None:
        """The params are to be waited for: see that the call is not sure to be refused then.

        Raises:
            CallError: it is.
        """
        assert self.target is not None  # noqa: S101 - its params are read
        for policy in self.target.policies:
            policy.precheck(self)

    def hold(self, size: int) -> None:
        """Count ``size`` bytes of the request, in place of those before; of a stream, whose
        messages come one after another, beside its params.

        Raises:
            MemoryFull: there is no room for them.
        """
        if self.done:  # its task had something to read in the moment in which the call ended
            return
        if self.stream is not None and self.has_params:
            size += len(self.params) + len(self.raw)
        if self.held is None:
            if size <= UNCOUNTED:
                return
            self.held = self.new_hold()
        # Not to be among those that give way for it.
        until, self.reading_until = self.reading_until, None
        try:
            self.held.resize(size)
        finally:
            self.reading_until = until

    def new_hold(self) -> Hold:
        """Where the request's bytes are counted."""
        assert self.target is not None  # noqa: S101 - its params are read
        return Hold(self.target.requests, self.target.requests.parent)

    def new_answer_memory(self) -> AnswerHold:
        """Where an answer's bytes are counted."""
        assert self.target is not None  # noqa: S101 - it was invoked
        return AnswerHold(self.target.answers, self.target.answers.parent)

    def new_stream_memory(self) -> AnswerHold:
        """Where the messages of a stream are counted that the plugin makes, or has sent. The call
        counts what of it is being sent, so that the exchange need not."""
        return self.new_answer_memory()

    def find_policy(self, kind: type[P]) -> P | None:
        """The policy of this kind among those that the call has entered."""
        for policy in self._policies[: self._entered]:
            if isinstance(policy, kind):
                return policy
        return None

    def wait_for(self, waiting: Waiting) -> None:
        """The call waits for something that calls ``proceed``, and is told if it ends before."""
        self._waiting = waiting

    def wait_in_task(self, work: Callable[[], Awaitable[object]]) -> None:
        """Have a task await ``work``; the call goes on after it, or ends with its error."""

        async def wait() -> None:
            try:
                await work()
            except CallError as error:
                self.end(error)
            except Exception:
                log.exception("request %s failed", self.request_id)
                self.end(InternalError())
            else:
                self.proceed()

        self._waiting = self.tasks.start(wait)

    # -- the plugin ---------------------------------------------------------------

    def begin_attempt(self, instance: Instance) -> None:
        """Hold ``instance`` until its answer, or the call's end.

        Raises:
            CircuitOpen: it gets no calls now.
        """
        if self.circuit is not None:
            self._breaker_period = self.circuit.begin(instance)
        if self.witnesses:
            self._tell_began()
        instance.acquire()
        self.instance = instance
        self.instance_id = instance.id
        self._attempt_began = turn_time()

    def end_attempt(self, error: CallError | None, status: StatusCode) -> None:
        """The instance is done with the call."""
        instance = self.instance
        if instance is None:
            return
        self.instance = None
        seconds = turn_time() - self._attempt_began
        if error is None or not isinstance(error, NEVER_BEGAN):
            self.plugin_seconds = seconds
        period, self._breaker_period = self._breaker_period, 0
        self.let_go(instance, period, error, status, seconds)

    def let_go(
        self,
        instance: Instance,
        period: int,
        error: CallError | None,
        status: StatusCode,
        seconds: float,
    ) -> None:
        """End the lease of an attempt, and tell what judges ``instance`` how it went. A fault there
        costs nobody an answer: others' calls may end in the task in which this one does."""
        try:
            instance.release(error, seconds, status)
            if self.circuit is not None:
                took = None if self.stream is not None else seconds
                self.circuit.end(instance, period, error, status, took)
        except Exception:
            log.exception("request %s: its instance could not be judged", self.request_id)

    def abandon_attempt(self, answered_by: Instance) -> None:
        """Nobody waits for the answer of the attempt that runs, if one does: ``answered_by`` has
        answered.

        Where another instance did meanwhile what this one has not done in time enough, that is a
        missed deadline for what judges it. Else hedging would hide from ejection and breaker one
        that hangs; and as its leases end early, it would look idle, and get as many calls as ever.
        """
        instance, waiting = self.instance, self._waiting
        if instance is not None:
            self._waiting = None
            instance.channel.cancel(self, StatusCode.CANCELLED)
            error: CallError = CallCancelled("the second attempt has answered")
            if instance is not answered_by and turn_time() - self._attempt_began >= SHORTEST:
                error = DeadlineExceeded("another instance has answered meanwhile")
            self.end_attempt(error, error.status)
            if waiting is not None:
                waiting.cancel()

    def take_attempt(self, instance: Instance, began: float, period: int) -> None:
        """The second attempt, and the lease that it holds, are the call's own from now on."""
        self._breaker_period = period
        self.instance = instance
        self.instance_id = instance.id
        self._attempt_began = began

    @property
    def is_hedged(self) -> bool:
        """Was it made a second time beside the first?"""
        return self.hedge is not None and self.hedge.was_made

    @property
    def attempts(self) -> int:
        """How often it was made, if it came to that at all."""
        return 1 + self.retries + self.is_hedged

    def stream_opened(self) -> None:
        """The plugin has sent the first message of a stream: for its breaker, that counts."""
        instance = self.instance
        if self.circuit is not None and instance is not None:
            period, self._breaker_period = self._breaker_period, 0
            self.circuit.end(instance, period, None, _OK, None)

    def answered(self, response: ExecuteResponse) -> None:
        """The plugin's answer has come."""
        instance = self.instance
        if instance is None:
            return
        if response.metrics is not None:
            instance.metrics = response.metrics
        if not response.success:
            # A plugin that fails without naming a status has not said what went wrong.
            status = StatusCode.from_wire(response.error_code) or StatusCode.UNKNOWN
            self.end_attempt(None, status)
            refusal = PluginError(status, response.error[:MAX_DETAIL])
            if status is _UNAVAILABLE:
                retry(self, refusal, instance)
                return
            if self.witnesses:
                self._tell_answered(response)
            self.end(refusal)
            return
        self.end_attempt(None, _OK)
        if self.witnesses:
            self._tell_answered(response)
        content_type = b"application/json"
        if response.result_raw and not response.result_json:
            result, content_type = response.result_raw, b"application/msgpack"
        else:
            try:
                # No result is an empty one, just as no params are.
                result = response.result_json.encode() or b"{}"
            except UnicodeEncodeError:
                self.end(PluginMisbehaved("the plugin's result is not valid Unicode"))
                return
        self.close()
        try:
            if len(result) > SMALL_ANSWER:
                self.keep_answer(len(result))
            self.send_result(result, content_type)
        except CallError as error:
            self._tell(error)
        except Exception:
            log.exception("request %s failed", self.request_id)
            self._tell(InternalError())
        self.observe()

    def failed(self, error: CallError) -> None:
        """The plugin gave no answer, and will give none."""
        instance = self.instance
        self.end_attempt(error, error.status)
        if not self.done and self.target is not None:
            retry(self, error, instance)

    # -- its end --------------------------------------------------------------------

    def expire(self, now: float) -> float | None:
        """Time may be up. Returns when to look again, None for never."""
        if self.reading_until is not None and now < self.deadline:
            if now < self.reading_until:
                return min(self.reading_until, self.deadline)
            self.end(
                RequestTimeout(
                    f"the request's body paused for more than {BODY_PAUSE:g} s, "
                    f"or came slower than {BODY_RATE} bytes a second"
                )
            )
            return None
        if now < self.deadline:
            return self.deadline
        if self.stream is None or self.instance is None:  # else the relay sees to it
            self.end(self.too_late())
        return None

    def too_late(self) -> CallError:
        """What a call ends with at its deadline. One that waited for a place, for its plugin or for
        the limits store all the time never ran, and is told that."""
        waiting = self._waiting
        if isinstance(waiting, Ticket):
            return waiting.too_late()
        if isinstance(waiting, StoreWait):
            return waiting.too_late()
        if not self.has_params:
            return RequestTimeout("the request's body did not arrive within the call's deadline")
        hedge = self.hedge
        is_running = self.instance is not None or (hedge is not None and hedge.is_running)
        if self.target is not None and not is_running and self.plugin_seconds is None:
            return self.target.slot.unavailable()
        allowed = self.deadline - self.started
        return DeadlineExceeded(f"the call did not end within its {allowed:g} s; it may have run")

    def end(self, error: CallError) -> None:
        """The call ends with ``error``, unless it has ended."""
        if self.done:
            self.tell_refusal()  # nobody waits for it any longer, or the proxy cannot
            return
        waiting = self._waiting
        if self.stream is None:  # a stream may be cut short by what is no failure
            self.status = error.status  # for the policies that are left
        self.close(error)
        if not self._attempt_began and self.is_told_later(error):
            self.refusal = error
            self.drop_params()
        else:
            self._tell(error)
            self.observe()
        if waiting is not None:  # last: it may be the task that runs this
            waiting.cancel()

    def tell_refusal(self) -> None:
        """Tell the client its ``refusal`` now, if it was not told yet."""
        error, self.refusal = self.refusal, None
        if error is not None:
            self._tell(error)
            self.observe()

    async def end_stream(self, error: CallError | None) -> None:
        """The stream has ended, or was cut short by ``error``, after it had begun.

        What happens to the client while it is told is no part of the call.
        """
        if self.done or self.stream is None:
            return
        self.end_attempt(error, StatusCode.OK if error is None else error.status)
        self.close(error)
        if error is not None:
            self._speak_of_all(error)
            if not self.stream.closed_well:
                self.note(error)
        try:
            await self.stream.end(error)
        finally:
            self.observe()

    def _speak_of_all(self, error: CallError) -> None:
        """Have ``error``, which is of the last attempt, say what is true of all of them: an earlier
        one may have run."""
        if self.plugin_seconds is not None:
            error.retryable = False

    def _tell(self, error: CallError) -> None:
        self._speak_of_all(error)
        self.note(error)
        try:
            self.send_error(error)
        except Exception:
            log.exception("request %s failed", self.request_id)
            self.break_off()

    def break_off(self) -> None:
        """The client cannot be told how its call ended: let it see that there is no answer."""

    def note(self, error: CallError) -> None:
        """Record that the call ends with ``error``."""
        self.status = error.status
        self.http_status = error.http_status
        self.reason = error.reason
        if isinstance(error, RefusedParams | Unauthenticated):
            self.detail = error.logged
        elif not isinstance(error, PluginError):  # whose words may have data in them
            self.detail = error.detail

    def close(self, error: CallError | None = None) -> None:
        """Let go of the plugin, and of what the policies hold."""
        self.done = True
        self._waiting = None
        if self.held is not None:
            self.held.release()
            self.held = None
            self.drop_params()
        if self.hedge is not None or self.instance is not None:
            try:
                self._cancel_attempts(error)
            except Exception:  # a fault in one costs neither the answer nor what policies hold
                log.exception("request %s: an attempt was not given up well", self.request_id)
        policies, number = self._policies, self._entered
        self._entered = 0
        while number:
            try:
                while number:
                    number -= 1
                    policy = policies[number]
                    if policy.is_left:
                        policy.leave(self)
            except Exception:  # a fault in one costs neither the answer nor the others
                log.exception("request %s: a policy failed at the call's end", self.request_id)
        if self.witnesses:
            self._tell_ended(error)

    def _cancel_attempts(self, error: CallError | None) -> None:
        try:
            if self.hedge is not None:
                self.hedge.close(error)
        finally:
            instance = self.instance
            if instance is not None:
                late = isinstance(error, DeadlineExceeded)
                status = StatusCode.DEADLINE_EXCEEDED if late else StatusCode.CANCELLED
                try:
                    instance.channel.cancel(self, status)
                finally:
                    self.end_attempt(error or CallCancelled("the call ended"), status)

    # Methods of their own: a closure in a compiled one costs all calls, also those without any.

    def _tell_began(self) -> None:
        self._tell_witnesses(lambda witness: witness.began(self))

    def _tell_answered(self, response: ExecuteResponse) -> None:
        self._tell_witnesses(lambda witness: witness.answered(self, response))

    def _tell_ended(self, error: CallError | None) -> None:
        self._tell_witnesses(lambda witness: witness.ended(self, error))

    def _tell_witnesses(self, tell: Callable[[Witness], None]) -> None:
        """A fault in one costs neither the call nor the others."""
        for witness in self.witnesses:
            try:
                tell(witness)
            except Exception:
                log.exception("request %s: a witness failed", self.request_id)
