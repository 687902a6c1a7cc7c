"""A front end for gRPC clients, on Prism's server, in a process of its own.

Usage: python grpc_echo.py CODEC [CERTIFICATE KEY]; it prints its port. Calls of any method get
their messages back, or status 5 with the message as details if they say ``missing``.
"""

import sys
from pathlib import Path

import trio

from prism.server.exchange import Exchange
from prism.server.serve import serve
from prism.server.settings import ServerSettings
from prism.streams.listeners import bound_address, open_listeners
from prism.streams.tls import ServerTLS

PREFIX = 5  # a flag and the length, before each message


class Echo:
    def begin(self, exchange: Exchange) -> None:
        exchange.tasks.start(self.answer, exchange)

    async def answer(self, exchange: Exchange) -> None:
        body = b""
        while part := await exchange.read():
            body += part
        trailers = [(b"grpc-status", b"0")]
        if body[PREFIX:] == b"missing":
            body, trailers = b"", [(b"grpc-status", b"5"), (b"grpc-message", body[PREFIX:])]
        exchange.respond(200, [(b"content-type", b"application/grpc")], body, trailers)


async def main(codec: str, *files: str) -> None:
    settings = ServerSettings(http2_codec=codec)
    tls = ServerTLS(*map(Path, files)) if files else None
    listeners = await open_listeners("127.0.0.1", 0, tls=tls)
    print(bound_address(listeners[0]).port, flush=True)
    await serve(Echo(), listeners, settings, shutdown=trio.Event())


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
