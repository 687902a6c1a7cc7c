"""The data port on stock hypercorn, for those who would rather run a server that others run too
(``listen.server: hypercorn``). What it lacks beside Prism's own is in docs/hypercorn.md.

Sockets, TLS and log are Prism's: hypercorn gets a duplicate of each listening socket, the
context that certificates are reloaded into, and a logger. A connection that breaks it costs
all that are open, but not the proxy: it is started again.
"""

import logging
import os
import ssl
from collections.abc import Sequence
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from prism.frontends.asgi import asgi
from prism.server.exchange import FrontEnd
from prism.server.log import contained
from prism.server.settings import ServerSettings
from prism.streams.addresses import Address
from prism.streams.listeners import BACKLOG, Listener, bound_address, descriptor
from prism.streams.tls import ServerTLS

logger = logging.getLogger("prism.hypercorn")

RESTART_PAUSE = 0.1
"""Seconds until hypercorn is started again after a failure: one that comes back at once must
not take all of a core."""
_ANY_NUMBER = 2**62
"""Requests on a connection: at its limit hypercorn drops those in flight."""


class HypercornConfig(Config):
    """``settings`` as far as hypercorn has the like of them, and Prism's TLS."""

    def __init__(self, settings: ServerSettings, tls: ServerTLS | None) -> None:
        self._tls = tls
        self.errorlog = logger
        self.backlog = BACKLOG
        self.include_server_header = False
        self.graceful_timeout = settings.graceful_timeout
        self.ssl_handshake_timeout = settings.tls_handshake_timeout
        self.keep_alive_timeout = settings.keep_alive_timeout
        self.keep_alive_max_requests = _ANY_NUMBER
        self.h11_max_incomplete_size = settings.max_header_size
        self.h2_max_header_list_size = settings.max_header_size
        self.h2_max_concurrent_streams = settings.max_concurrent_streams
        self.websocket_max_message_size = settings.websocket_max_message
        # No pings: the task that sends them sleeps on after the end, and holds up a stop.

    @property
    def ssl_enabled(self) -> bool:
        """Whether ``bind`` is served over TLS."""
        return self._tls is not None

    def create_ssl_context(self) -> ssl.SSLContext | None:
        """The present context, which hands each handshake on to the one present by then."""
        tls = self._tls
        if tls is None:
            return None

        def use_present(connection: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
            connection.context = tls.context

        tls.context.sni_callback = use_present
        return tls.context


async def serve_on_hypercorn(
    front: FrontEnd,
    listeners: Sequence[Listener],
    settings: ServerSettings | None = None,
    *,
    shutdown: trio.Event,
    tls: ServerTLS | None = None,
    task_status: trio.TaskStatus[list[Address]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As ``prism.server.serve``, which has more of ``settings``, keeps statistics, and answers
    a request whose time is up.

    ``tls`` is what the listeners have. The listeners are closed when ``shutdown`` is set, or at
    the end. Requests in flight have ``graceful_timeout`` seconds then, and are cancelled. A
    client that does not read can hold up the end, and a cancellation, until it leaves.
    """
    config = HypercornConfig(settings or ServerSettings(), tls)
    app: Any = asgi(front)

    async def stop() -> None:
        await shutdown.wait()
        await _close(listeners)

    try:
        task_status.started([bound_address(listener) for listener in listeners])
        while True:
            config.bind = [f"fd://{os.dup(descriptor(listener))}" for listener in listeners]
            with contained("hypercorn"):
                await serve(app, config, shutdown_trigger=stop, mode="asgi")
            if shutdown.is_set():
                return
            await trio.sleep(RESTART_PAUSE)
    finally:
        await _close(listeners)


async def _close(listeners: Sequence[Listener]) -> None:
    with trio.CancelScope(shield=True):
        for listener in listeners:
            await listener.aclose()
