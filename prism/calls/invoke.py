"""The innermost step of a call: it is handed to an instance of the plugin, and once more to
the next one if the first has gone and that is safe."""

import logging
from typing import TYPE_CHECKING

from prism.access.permissions import needed
from prism.calls.policies.await_plugin import wait_for_plugin
from prism.calls.relay import relay_stream
from prism.contract.errors import (
    CallError,
    Draining,
    InternalError,
    InvalidRequest,
    Overloaded,
    PluginCrashed,
    PluginMisbehaved,
    PluginUnavailable,
    UnknownOperation,
)
from prism.supervision.instance import Instance

if TYPE_CHECKING:
    from prism.calls.call import Call

log = logging.getLogger("prism.calls")

NEVER_BEGAN = (Overloaded, PluginUnavailable)
"""What a call ends with that its instance did not start: repeating it is safe, writes too."""
MAY_HAVE_RUN = (PluginCrashed, PluginMisbehaved, Draining)
"""What it ends with when the instance went away under it: safe if declared idempotent."""


def invoke(call: "Call") -> None:
    """Hand ``call``, which every policy has let pass, to the namespace's current instance.

    Raises:
        PluginUnavailable: there is none.
        UnknownOperation, InvalidRequest: it does not offer this.
    """
    assert call.target is not None  # noqa: S101 - no call comes here without
    instance = call.target.slot.choose()
    call.instance_id = instance.id
    _check_offered(call, instance)
    call.begin_attempt(instance)
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


def retry(call: "Call", error: CallError) -> None:
    """Make a call again that got no answer, if its instance is gone and that is safe; once.

    One that an instance in service refuses stays refused. The second attempt has what is left
    of the call's deadline.
    """
    assert call.target is not None  # noqa: S101 - it was invoked
    slot = call.target.slot
    why = _why_safe(call, error)
    if why is None:
        call.end(error)
    elif slot.is_ready:
        _again(call, why)
        call.proceed()
    else:
        call.wait_in_task(lambda: _wait_for_next(call, error, why))


def _why_safe(call: "Call", error: CallError) -> str | None:
    """The reason for which the call may be repeated; None if it may not."""
    assert call.target is not None  # noqa: S101 - it was invoked
    slot = call.target.slot
    if call.retries or slot.still_serves(call.instance_id):
        return None
    if call.stream is not None and not isinstance(error, PluginUnavailable):
        return None  # its messages may have been read
    if isinstance(error, NEVER_BEGAN):
        call.plugin_seconds = None  # what was measured was not a call
        return "not_started"
    if isinstance(error, MAY_HAVE_RUN) and slot.is_idempotent(call.operation):
        return "idempotent"
    return None


def _again(call: "Call", why: str) -> None:
    assert call.target is not None  # noqa: S101 - it was invoked
    call.retries += 1
    call.target.slot.retried[why] += 1


async def _wait_for_next(call: "Call", error: CallError, why: str) -> None:
    """Wait for the next instance; if none comes, the call ends as it did, or as never begun."""
    assert call.target is not None  # noqa: S101 - it was invoked
    try:
        await wait_for_plugin(call.target, call.deadline)
    except PluginUnavailable as unavailable:
        if isinstance(error, NEVER_BEGAN):
            raise unavailable from None
        error.retry_after = unavailable.retry_after
        raise error from None
    _again(call, why)
