"""Answers that change something: reload, restart, drain, reset, and the proxy's own stop.

A reload that comes to nothing is no error: its receipt says ``rolled_back``, and why.
"""

from prism.frontends.admin.call import AdminCall
from prism.frontends.admin.messages import Stopping
from prism.supervision.status import NamespaceStatus, Receipt


async def reload(call: AdminCall) -> Receipt:
    """Replace a plugin without losing a call; answers when the old instance has ended."""
    body = call.body
    name = call.find(body.namespace).name
    return await call.proxy.supervisor.reload(name, body.version, body.trial())


async def restart(call: AdminCall) -> Receipt:
    """End a plugin, then start it again; calls wait meanwhile. Also after a drain."""
    return await call.proxy.supervisor.restart(call.find(call.body.namespace).name)


async def drain(call: AdminCall) -> Receipt:
    """Let a plugin finish its calls and end; none is started until a restart."""
    return await call.proxy.supervisor.drain(call.find(call.body.namespace).name)


async def reset(call: AdminCall) -> NamespaceStatus:
    """Forget a plugin's failures, and try to start it now if it does not run."""
    return call.proxy.supervisor.reset(call.find(call.body.namespace).name)


async def drain_all(call: AdminCall) -> Stopping:
    """Stop serving: accept nothing more, finish what is in flight, end the process."""
    call.proxy.stop()
    return Stopping()
