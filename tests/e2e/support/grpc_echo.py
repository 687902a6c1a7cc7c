"""An ASGI application for gRPC clients, on Prism's server, in a process of its own.

Usage: python grpc_echo.py CODEC [CERTIFICATE KEY]; it prints its port. Calls of any method get
their messages back, or status 5 with the message as details if they say ``missing``.
"""

import sys
from pathlib import Path
from typing import Any

import trio

from prism.server import ServerSettings, ServerTLS, bound_address, open_listeners, serve

PREFIX = 5  # a flag and the length, before each message


async def app(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    headers = [(b"content-type", b"application/grpc")]
    await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
    trailers = [(b"grpc-status", b"0")]
    if body[PREFIX:] == b"missing":
        body, trailers = b"", [(b"grpc-status", b"5"), (b"grpc-message", body[PREFIX:])]
    await send({"type": "http.response.body", "body": body})
    await send({"type": "http.response.trailers", "headers": trailers})


async def main(codec: str, *files: str) -> None:
    settings = ServerSettings(http2_codec=codec)
    tls = ServerTLS(*map(Path, files)) if files else None
    listeners = await open_listeners("127.0.0.1", 0, tls=tls)
    print(bound_address(listeners[0]).port, flush=True)
    await serve(app, listeners, settings, shutdown=trio.Event())


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
