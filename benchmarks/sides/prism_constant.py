"""Prism's HTTP server alone, with the constant application.

Usage: python -m benchmarks.sides.prism_constant; it prints its URL.
"""

import trio

from benchmarks.sides.constant_app import app
from prism.server import bound_address, open_listeners, serve


async def main() -> None:
    listeners = await open_listeners("127.0.0.1", 0)
    print(bound_address(listeners[0]), flush=True)
    await serve(app, listeners, shutdown=trio.Event())


if __name__ == "__main__":
    trio.run(main)
