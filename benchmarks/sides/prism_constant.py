"""Prism's HTTP server alone, with a front end that answers the constant.

It reads the request's body, as the constant application for the other servers does.

Usage: python -m benchmarks.sides.prism_constant; it prints its URL.
"""

import trio

from benchmarks.sides.constant_app import BODY
from prism.server.exchange import Cancelled, Exchange
from prism.server.serve import serve
from prism.streams.listeners import bound_address, open_listeners

HEADERS = [(b"content-type", b"application/json")]


class Constant:
    """Answers each request when its body is there."""

    def begin(self, exchange: Exchange) -> None:
        if exchange.received_all:
            exchange.take()
            exchange.respond(200, HEADERS, BODY)
        else:
            exchange.watch(Waiting(exchange))


class Waiting:
    """A request whose body is still coming."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def received(self) -> None:
        self._exchange.take()
        if self._exchange.received_all:
            self._exchange.respond(200, HEADERS, BODY)

    def cancelled(self, why: Cancelled) -> None:
        """Nothing is held for it."""


async def main() -> None:
    listeners = await open_listeners("127.0.0.1", 0)
    print(bound_address(listeners[0]), flush=True)
    await serve(Constant(), listeners, shutdown=trio.Event())


if __name__ == "__main__":
    trio.run(main)
