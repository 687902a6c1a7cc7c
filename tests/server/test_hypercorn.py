"""An application written for this server runs unchanged on stock hypercorn."""

import hypercorn.trio
import trio
from hypercorn.config import Config


async def test_the_same_application_on_stock_hypercorn(nursery, helpers, h2_client, start_server):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
        scope["state"].get("prism.draining")
        await helpers.echo(scope, receive, send)

    async def ask(host, port):
        async with await trio.open_tcp_stream(host, port) as stream:
            client = h2_client(stream)
            stream_id = await client.request("POST", end=False)
            await client.data(stream_id, b"hello", end=True)
            return await client.response(stream_id)

    config = Config()
    config.bind, config.errorlog = ["127.0.0.1:0"], None
    stop = trio.Event()

    async def run(task_status):
        await hypercorn.trio.serve(app, config, shutdown_trigger=stop.wait, task_status=task_status)

    [bound] = await nursery.start(run)
    ours = await start_server(app)
    host, _, port = bound.removeprefix("http://").rpartition(":")
    assert await ask(host, int(port)) == await ask(ours.address.host, ours.address.port)
    stop.set()
