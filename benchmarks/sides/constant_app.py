"""The ASGI application that every HTTP server under comparison runs: a constant.

It reads the request's body, as applications do; hypercorn 0.18 stops serving an
HTTP/2 connection whose application does not.
"""

from typing import Any

BODY = b'{"key":"user:123","value":{"name":"Ada"}}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": BODY})
