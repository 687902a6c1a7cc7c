"""Answers about the configuration in use, and its change for what the file says now."""

from prism.config import redacted
from prism.control.plan import ConfigOutcome, ConfigPlan
from prism.frontends.admin.call import AdminCall
from prism.frontends.admin.messages import ConfigInUse


async def config(call: AdminCall) -> ConfigInUse:
    """The configuration in use, with its secrets hidden."""
    live = call.proxy.config
    return ConfigInUse(live.generation, live.settled, live.changed_at, redacted(live.current))


async def plan(call: AdminCall) -> ConfigPlan:
    """What applying the configuration file, as it is now, would change. Changes nothing."""
    return await call.proxy.config.plan()


async def apply(call: AdminCall) -> ConfigOutcome:
    """Use the configuration file as it is now: as one change, or not at all.

    Answers when what was replaced or removed has ended; `applied` says how it went.
    """
    return await call.proxy.config.apply()
