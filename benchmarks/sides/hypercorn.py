"""Stock hypercorn on trio.

Two things are done for it. It answers any number of requests on one connection,
since a load generator keeps to one. And it is started again when it ends, as it
does on trio when a client leaves unanswered.

Usage: python -m benchmarks.sides.hypercorn; it prints its URL.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from benchmarks.load.target import Target
from benchmarks.processes import module, server
from benchmarks.sides.constant_app import app


@contextmanager
def hypercorn() -> Iterator[Target]:
    """A running hypercorn with the constant application."""
    with server(module("sides.hypercorn"), "(http:.*)") as (pid, url):
        yield Target(url, [pid])


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    config = Config()
    config.accesslog = "/dev/null"
    config.keep_alive_max_requests = 10**9
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    while True:
        config.bind = [f"fd://{listener.dup().detach()}"]  # hypercorn closes it at its end
        with suppress(BaseExceptionGroup):
            trio.run(serve, app, config)
            break


if __name__ == "__main__":
    main()
