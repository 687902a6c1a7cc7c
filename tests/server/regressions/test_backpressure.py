"""Memory and other clients must not depend on one client that does not read or write on."""

import pytest
import trio

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

    async def outcome(self):
        await self.begun.wait()
        await trio.testing.wait_all_tasks_blocked(0.1)
        return "is stored" if self.sent == MUCH else "waits"


@pytest.mark.outcomes(hypercorn="is stored", prism="waits")
async def test_a_response_to_a_client_whose_window_is_shut(start, expected, h2_client, helpers):
    app = Download(helpers)
    client = h2_client(await (await start(app)).connect(), window=0)
    await client.request()
    assert await app.outcome() == expected


@pytest.mark.outcomes(hypercorn="is stored", prism="waits")
async def test_a_response_to_a_client_that_gives_no_window_back(
    start, expected, h2_client, helpers
):
    app = Download(helpers)
    client = h2_client(await (await start(app)).connect())
    client.take_data = False
    await client.request()
    with trio.move_on_after(0.1):
        await client.read_to_end()
    assert await app.outcome() == expected


@pytest.mark.outcomes(hypercorn="waits for the other", prism="is answered")
async def test_a_request_beside_one_whose_body_nobody_reads(start, expected, h2_client, helpers):
    async def app(scope, receive, send):
        if scope["path"] == "/unread":
            await trio.sleep_forever()
        await helpers.respond(send, 200)

    client = h2_client(await (await start(app)).connect())
    unread = await client.request("POST", "/unread", end=False)
    for _ in range(30):
        await client.data(unread, b"x")
    stream_id = await client.request()
    outcome = "waits for the other"
    with trio.move_on_after(0.5):
        assert await client.response(stream_id) == (200, b"")
        outcome = "is answered"
    assert outcome == expected


@pytest.mark.outcomes(hypercorn=20, prism=0)
async def test_connections_left_with_a_body_that_nobody_read(start, expected, h2_client, helpers):
    """As tasks: hypercorn keeps one connection's, with its descriptor, for each of these."""

    async def app(scope, receive, send):
        await trio.testing.wait_all_tasks_blocked(0.01)  # hypercorn's queue is full now
        await helpers.respond(send, 200)

    server = await start(app)
    tasks = trio.lowlevel.current_statistics().tasks_living
    for _ in range(20):
        client = h2_client(await server.connect())
        async with client.sending:  # so that all of it leaves at once
            client.h2.send_headers(1, HEAD)
            for _ in range(30):
                client.h2.send_data(1, b"x")
        await client.flush()
        await client.stream.aclose()
    await trio.testing.wait_all_tasks_blocked(0.3)
    left = trio.lowlevel.current_statistics().tasks_living - tasks
    assert left == 0 if expected == 0 else left >= expected


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.outcomes(hypercorn="runs on", prism="is cancelled")
async def test_an_application_whose_client_left(start, expected, h2_client, version):
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
    with trio.move_on_after(0.7):
        await cancelled.wait()
    assert ("is cancelled" if cancelled.is_set() else "runs on") == expected
