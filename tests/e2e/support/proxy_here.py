"""A proxy in the process of the test, which can hold what it returns; all else is real."""

import json
from contextlib import asynccontextmanager

import trio

from prism.app import Proxy
from prism.config import load_config


@asynccontextmanager
async def proxy_here(directory, config):
    """A proxy with ``config``, and any ports; yields it and the one of its data."""
    file = directory / "prism.yaml"
    file.write_text(json.dumps({"listen": {"port": 0}, "admin": {"port": 0}, **config}))
    proxy = Proxy(load_config(file).config, load=lambda: load_config(file))
    ready = trio.Event()
    ports = []

    def on_ready(where):
        ports.append(where.data[0].port)
        ready.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy.run, on_ready)
        with trio.fail_after(60):
            await ready.wait()
        try:
            yield proxy, ports[0]
        finally:
            proxy.stop()
