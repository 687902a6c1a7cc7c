"""What the proxy is compared with: stock hypercorn on trio, an app that returns a constant.

Three things are done for it. It answers any number of requests on one connection,
since a load generator keeps to one. The app reads the request's body, since
hypercorn 0.18 stops serving an HTTP/2 connection whose app does not. And it is
started again when it ends, as it does on trio when a client leaves unanswered.

Usage: python -m benchmarks.bare_hypercorn; it prints its port.
"""

import socket
from contextlib import suppress
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

BODY = b'{"key":"user:123","value":{"name":"Ada"}}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


if __name__ == "__main__":
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
