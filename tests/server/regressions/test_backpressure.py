"""Memory and other clients must not depend on one client that does not read or write on."""

import pytest
import trio

from prism.streams.tasks import MAX_IDLE

CHUNK = 64 * 1024
HEAD = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
MUCH = 20 * 2**20


class Download:
    """An application that sends ``MUCH``, and counts what ``send`` has taken from it."""

    def __init__(self, helpers):
        self.helpers = helpers
        self.sent = 0
        self.begun = trio.Event()

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/alive":
            await self.helpers.respond(send, 200)
            return
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.begun.set()
        while self.sent < MUCH:
            body = {"type": "http.response.body", "body": bytes(CHUNK), "more_body": True}
            await send(body)
            self.sent += CHUNK
        await trio.sleep_forever()

    async def is_held_back(self):
        await self.begun.wait()
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert self.sent < MUCH


async def test_a_response_to_a_client_whose_window_is_shut(start, h2_client, helpers):
    app = Download(helpers)
    client = h2_client(await (await start(app)).connect(), window=0)
    await client.request()
    await app.is_held_back()


async def test_a_response_to_a_client_that_gives_no_window_back(start, h2_client, helpers):
    app = Download(helpers)
    client = h2_client(await (await start(app)).connect())
    client.take_data = False
    await client.request()
    with trio.move_on_after(0.1):
        await client.read_to_end()
    await app.is_held_back()


async def test_a_request_beside_one_whose_body_nobody_reads(start, h2_client, helpers):
    async def app(scope, receive, send):
        if scope["path"] == "/unread":
            await trio.sleep_forever()
        await helpers.respond(send, 200)

    client = h2_client(await (await start(app)).connect())
    unread = await client.request("POST", "/unread", end=False)
    for _ in range(30):
        await client.data(unread, b"x")
    assert await client.response(await client.request()) == (200, b"")


async def test_connections_left_with_a_body_that_nobody_read(start, h2_client, helpers):
    async def app(scope, receive, send):
        await trio.testing.wait_all_tasks_blocked(0.01)  # the body is waiting to be read
        await helpers.respond(send, 200)

    server = await start(app)
    tasks = trio.lowlevel.current_statistics().tasks_living
    for _ in range(100):
        client = h2_client(await server.connect())
        async with client.sending:  # so that all of it leaves at once
            client.h2.send_headers(1, HEAD)
            for _ in range(30):
                client.h2.send_data(1, b"x")
        await client.flush()
        await client.stream.aclose()
    most = tasks + MAX_IDLE
    while trio.lowlevel.current_statistics().tasks_living > most:  # noqa: ASYNC110 - the server's
        await trio.sleep(0.01)


@pytest.mark.parametrize("version", [1, 2])
async def test_an_application_whose_client_left(start, h2_client, version):
    """It waits for something else than the client, as one for a backend does."""
    begun, cancelled = trio.Event(), trio.Event()

    async def app(scope, receive, send):
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    server = await start(app)
    stream = await server.connect()
    if version == 1:
        await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await begun.wait()
        await stream.aclose()
    else:
        client = h2_client(stream)
        stream_id = await client.request()
        await begun.wait()
        client.h2.reset_stream(stream_id)
        await client.flush()
    await cancelled.wait()
