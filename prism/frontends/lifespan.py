"""What an HTTP-only ASGI application does with the other protocols of ASGI."""

from prism.server import Receive, Scope, Send


async def decline_protocol(scope: Scope, receive: Receive, send: Send) -> None:
    """Agree to start and stop (lifespan), refuse a WebSocket."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
