"""The way out of service: let calls end, then Shutdown. Each part has its limit."""

import logging
import math

import trio

from prism.contract.errors import CallError, Draining
from prism.contract.messages import ShutdownRequest
from prism.supervision.instance import Instance

log = logging.getLogger("prism.supervision")

SHUTDOWN_PATIENCE = 2.0
"""Seconds beyond its own limit that a plugin's Shutdown may take."""
REPLACED = "replaced"
"""The reason of a Shutdown after which a plugin that dialled in need not dial again."""


async def drain(instance: Instance, limit: float) -> None:
    """Let the calls end for ``limit`` seconds; those that take longer are told so, and cancelled.

    Call it once the instance is out of its slot.
    """
    instance.channel.go_away("the proxy no longer sends calls here")
    with trio.move_on_after(limit) as in_time:
        await instance.wait_no_leases()
    if in_time.cancelled_caught:
        log.warning("%s: %d calls did not end within %g s", instance.id, instance.leases, limit)
        detail = f"the plugin is being replaced, and the call did not end within {limit:g} s"
        instance.channel.give_up_calls(Draining(f"{detail}; it may have run"))
        with trio.move_on_after(SHUTDOWN_PATIENCE):
            await instance.wait_no_leases()


async def shut_down(instance: Instance, limit: float, reason: str) -> None:
    """Ask the plugin to shut down within ``limit`` seconds; one that hangs is left behind."""
    request = ShutdownRequest(timeout_seconds=math.ceil(limit), reason=reason)
    with trio.move_on_after(limit + SHUTDOWN_PATIENCE) as in_time:
        try:
            answer = await instance.channel.shutdown(request)
        except CallError as error:
            log.debug("%s could not be told to shut down: %s", instance.id, error)
            return
        if not answer.success:
            log.warning("%s did not shut down cleanly: %s", instance.id, answer.error)
    if in_time.cancelled_caught:
        log.warning("%s did not answer Shutdown", instance.id)
