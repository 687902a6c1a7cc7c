"""The innermost step of a call: it is handed to an instance of the plugin, and again, to that or
to the next one, if it failed and that is safe."""

import logging
from typing import TYPE_CHECKING

import trio

from prism.access.permissions import needed
from prism.calls.budget import Budget
from prism.calls.deadlines import Alarm
from prism.calls.policies.await_plugin import wait_for_plugin
from prism.calls.policies.retries import Retries
from prism.calls.relay import relay_stream
from prism.calls.stream import ClientStream
from prism.contract.errors import (
    NEVER_BEGAN,
    CallError,
    CircuitOpen,
    Draining,
    InternalError,
    InvalidRequest,
    PluginCrashed,
    PluginError,
    PluginMisbehaved,
    PluginUnavailable,
    UnknownOperation,
)
from prism.contract.status import StatusCode
from prism.streams.outlet import turn_time
from prism.supervision.instance import Instance

if TYPE_CHECKING:
    from prism.calls.call import Call

log = logging.getLogger("prism.calls")

MAY_HAVE_RUN = (PluginCrashed, PluginMisbehaved, Draining)
"""What it ends with when the instance went away under it: safe if declared idempotent."""


def invoke(call: "Call", following: "NextAttempt | None" = None) -> None:
    """Hand ``call``, which every policy has let pass, to an instance of the namespace's plugin; as
    the attempt ``following``, to another one than has failed if there is any.

    Raises:
        PluginUnavailable: there is none.
        CircuitOpen: it gets no calls now.
        UnknownOperation, InvalidRequest: it does not offer this.
    """
    assert call.target is not None  # noqa: S101 - no call comes here without
    instance = call.target.slot.choose(None if following is None else following.failed)
    call.instance_id = instance.id
    _check_offered(call, instance)
    if following is None:
        call.begin_attempt(instance)
    else:
        following.begin(instance)
    if call.hedge is not None:
        call.hedge.begin(instance)
    if call.stream is not None:
        relay_stream(call, instance, call.stream)
        return
    try:
        instance.channel.start(call)
    except CallError as error:
        call.failed(error)
    except Exception:
        log.exception("request %s failed", call.request_id)
        call.failed(InternalError())


def _check_offered(call: "Call", instance: Instance) -> None:
    declared = instance.operations.get(call.operation)
    if declared is None:
        raise UnknownOperation(call.namespace, call.operation, list(instance.operations))
    access = call.target.access if call.target is not None else None
    if access is not None:
        needs = needed(declared)
        # Unless that was decided a moment ago, by the table that is there now.
        if call.decision is None or call.decision.table is not access or call.needs != needs:
            call.needs = needs
            call.decision = access.check(call.identity, call.operation, needs)
    if call.stream is None:
        if declared.streaming:
            raise InvalidRequest(
                f"operation {call.operation!r} answers with a stream, not with one result; "
                "accept text/event-stream or application/x-ndjson (gRPC: ExecuteStream)"
            )
    elif not (declared.streaming or declared.also_streaming):
        raise InvalidRequest(
            f"operation {call.operation!r} answers with one result, not with a stream; "
            "accept application/json (gRPC: Execute)"
        )


def retry(call: "Call", error: CallError, failed: Instance | None) -> None:
    """Make a call again that ``failed`` has not answered, or with UNAVAILABLE, if that is safe and
    allowed.

    Once that is at once, and free: if its instance is gone, or did not begin it and there is
    another; one that the only instance refuses stays refused. All else ``retries`` must allow in
    the configuration, and their budget. Further attempts have what is left of the call's deadline.
    """
    hedge = call.hedge
    if hedge is not None and hedge.is_running:
        return  # it has an attempt that may still answer
    assert call.target is not None  # noqa: S101 - it was invoked
    is_gone = not call.target.slot.still_serves(call.instance_id)
    retries = call.find_policy(Retries)
    why = None
    # What one of several replicas had no room for, another may have.
    if is_gone or (isinstance(error, NEVER_BEGAN) and call.target.slot.has_another(failed)):
        why = _why_safe(call, error, None, is_gone=is_gone)
    is_free = why is not None
    if retries is not None and not is_free:
        why = _why_safe(call, error, retries, is_gone=is_gone)
    if why is None or _is_kept_away(call):
        call.end(error)
        return
    if is_free or retries is None:
        NextAttempt(call, error, why, failed, None, 0.0).ring()
        return
    pause = retries.pause(call, error.retry_after, at_once=is_gone)
    due = turn_time() + pause
    if due >= call.deadline or not retries.budget.take():
        call.end(error)
        return
    following = NextAttempt(call, error, why, failed, retries.budget, due)
    if pause:
        call.target.deadlines.alarms.add(following)
        call.wait_for(following)
    else:
        following.ring()


def _why_safe(
    call: "Call", error: CallError, retries: Retries | None, *, is_gone: bool
) -> str | None:
    """The reason for which the call may be repeated, by ``retries`` or without; None if it may
    not."""
    assert call.target is not None  # noqa: S101 - it was invoked
    if call.retries >= (1 if retries is None else retries.attempts - 1):
        return None
    if call.stream is not None and not _may_begin_anew(call.stream, error, retries):
        return None
    if isinstance(error, NEVER_BEGAN):
        return "not_started" if is_gone else "refused"
    if not call.target.slot.is_idempotent(call.operation):
        return None
    if isinstance(error, PluginError):
        is_refusal = retries is not None and error.status is StatusCode.UNAVAILABLE
        return "unavailable" if is_refusal else None
    return "idempotent" if is_gone and isinstance(error, MAY_HAVE_RUN) else None


def _may_begin_anew(stream: ClientStream, error: CallError, retries: Retries | None) -> bool:
    """What the client has sent behind its first message may have been read, and is not kept."""
    if isinstance(error, PluginUnavailable):
        return True
    return stream.one_way and (retries is not None or isinstance(error, NEVER_BEGAN))


def _is_kept_away(call: "Call") -> bool:
    """Do the circuit breakers of all instances that there are let no call pass?"""
    return call.circuit is not None and call.circuit.refuses()


class NextAttempt(Alarm):
    """The next attempt of a call that ``failed`` ended with ``error``, after its pause. The
    ``budget`` has paid for it, and has that back if it is not made."""

    __slots__ = ("_budget", "_call", "_error", "_task", "_why", "failed")

    def __init__(
        self,
        call: "Call",
        error: CallError,
        why: str,
        failed: Instance | None,
        budget: Budget | None,
        due: float,
    ) -> None:
        super().__init__(due)
        self.failed = failed
        self._call = call
        self._error = error
        self._why = why
        self._budget = budget
        self._task: trio.CancelScope | None = None

    def ring(self) -> None:
        """Make it, or wait for an instance that it can be made on."""
        call = self._call
        assert call.target is not None  # noqa: S101 - it was invoked
        if _is_kept_away(call):
            self._give_back()
            call.end(self._error)
        elif call.target.slot.is_ready:
            self._make()
        else:
            self._task = call.tasks.start(self._wait)
            call.wait_for(self)

    def cancel(self) -> None:
        """The call has ended before."""
        assert self._call.target is not None  # noqa: S101 - it was invoked
        self._call.target.deadlines.alarms.forget(self)
        if self._task is not None:
            self._task.cancel()
        self._give_back()

    def begin(self, instance: Instance) -> None:
        """It is about to be given to ``instance``: it counts from now on.

        Raises:
            CallError: what the call ended with, if that gets no calls now.
        """
        call = self._call
        assert call.target is not None  # noqa: S101 - it was invoked
        try:
            call.begin_attempt(instance)
        except CircuitOpen:
            raise self._error from None  # it may have run, which the other would deny
        self._budget = None
        call.retries += 1
        call.target.slot.retried[self._why] += 1

    def _make(self) -> None:
        self._call.proceed(self)
        self._give_back()

    def _give_back(self) -> None:
        """It is not made, if it was not."""
        budget, self._budget = self._budget, None  # once, also where the call's end comes of it
        if budget is not None:
            budget.give_back()

    async def _wait(self) -> None:
        """Wait for the next instance; if none comes, the call ends as it did, or as never begun."""
        call, error = self._call, self._error
        assert call.target is not None  # noqa: S101 - it was invoked
        try:
            await wait_for_plugin(call.target, call.deadline)
        except PluginUnavailable as unavailable:
            self._give_back()
            if isinstance(error, NEVER_BEGAN):
                call.end(unavailable)
            else:
                error.retry_after = unavailable.retry_after
                call.end(error)
        except Exception:
            log.exception("request %s failed", call.request_id)
            self._give_back()
            call.end(InternalError())
        else:
            self._make()
