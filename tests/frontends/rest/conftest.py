"""Prism's own server and stock hypercorn, for the front ends above them."""

import hypercorn.trio
import pytest
import trio
from hypercorn.config import Config

from prism.frontends.asgi import asgi
from prism.server.serve import serve as own_serve
from prism.server.settings import ServerSettings
from prism.streams.listeners import bound_address, open_listeners


@pytest.fixture(params=["own", "hypercorn"])
async def serve(request, nursery):
    """Serves a front end; returns the address as (host, port)."""
    stop = trio.Event()

    async def start_own(front):
        listeners = await open_listeners("127.0.0.1", 0)
        nursery.start_soon(lambda: own_serve(front, listeners, ServerSettings(), shutdown=stop))
        address = bound_address(listeners[0])
        return address.host, address.port

    async def start_hypercorn(front):
        config = Config()
        config.bind = ["127.0.0.1:0"]
        config.accesslog = config.errorlog = None
        (address,) = await nursery.start(
            lambda task_status: hypercorn.trio.serve(
                asgi(front), config, shutdown_trigger=stop.wait, task_status=task_status
            )
        )
        host, port = address.removeprefix("http://").split(":")
        return host, int(port)

    yield {"own": start_own, "hypercorn": start_hypercorn}[request.param]
    stop.set()
