"""How connections end: drains, GOAWAY, idle timers, clients that leave."""

import h2.events
import pytest
import trio
from hyperframe.frame import GoAwayFrame

FOR_EVER = 1000.0
"""Seconds: longer than a test may run."""


class Gate:
    """An application whose requests to ``/wait`` wait for ``go_on``."""

    def __init__(self, helpers):
        self.helpers = helpers
        self.begun, self.go_on = trio.Event(), trio.Event()

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/wait":
            self.begun.set()
            await self.go_on.wait()
        await self.helpers.respond(send, 200, b"done")


async def test_a_request_that_needs_longer_than_the_grace(start_server, helpers):
    app = Gate(helpers)
    server = await start_server(app, graceful_timeout=0.1)
    stream = await server.connect()
    await stream.send_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n")
    await app.begun.wait()
    server.shutdown.set()
    answer = await helpers.read_all(stream)
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")


async def test_an_idle_connection_is_told_of_the_drain(start, h2_client, helpers):
    server = await start(helpers.echo)
    client = h2_client(await server.connect())
    await client.response(await client.request())
    server.shutdown.set()
    await client.read_to_end()
    goaways = client.got(h2.events.ConnectionTerminated)
    assert [goaway.last_stream_id for goaway in goaways] == [2**31 - 1, 1]


async def test_a_connection_that_never_sent_a_request(start, h2_client, helpers):
    """It does not hold up a stop until the grace is over."""
    server = await start(helpers.echo, graceful_timeout=FOR_EVER)
    client = h2_client(await server.connect())
    await client.flush()
    await client.read()
    server.shutdown.set()
    await client.read_to_end()
    await server.stopped.wait()


async def test_a_connection_that_sent_only_the_preface_is_idle(start, h2_client, helpers):
    server = await start(helpers.echo, keep_alive_timeout=0.1)
    client = h2_client(await server.connect())
    await client.flush()
    await client.read_to_end()


async def test_a_request_on_an_old_connection_in_a_drain(start, h2_client, helpers):
    """While another is in flight, and before the last GOAWAY."""
    app = Gate(helpers)
    server = await start(app, graceful_timeout=FOR_EVER, goaway_grace=FOR_EVER)
    client = h2_client(await server.connect())
    await client.request(path="/wait")
    await app.begun.wait()
    server.shutdown.set()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert await client.response(await client.request()) == (200, b"done")
    app.go_on.set()


@pytest.mark.parametrize("version", [1, 2])
async def test_a_stop_with_a_client_that_does_not_read(start, h2_client, helpers, version):
    stuck = trio.Event()

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            with trio.move_on_after(0.1) as attempt:
                body = {"type": "http.response.body", "body": bytes(2**20), "more_body": True}
                await send(body)
            if attempt.cancelled_caught:
                stuck.set()
                await trio.sleep_forever()

    server = await start(app, graceful_timeout=0.1, send_stall_timeout=0.2)
    stream = await server.connect()
    if version == 1:
        await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    else:
        client = h2_client(stream)
        client.h2.increment_flow_control_window(2**30)
        client.h2.update_settings({4: 2**31 - 1})
        await client.request()
    await stuck.wait()
    server.shutdown.set()
    await server.stopped.wait()


async def test_the_response_to_a_client_that_said_goaway(start, h2_client, helpers):
    app = Gate(helpers)
    client = h2_client(await (await start(app)).connect())
    stream_id = await client.request(path="/wait")
    await app.begun.wait()
    await client.stream.send_all(GoAwayFrame(0).serialize())
    await trio.testing.wait_all_tasks_blocked(0.02)
    app.go_on.set()
    assert await client.response(stream_id) == (200, b"done")


async def test_twelve_hundred_requests_on_one_connection(start, h2_client, helpers):
    client = h2_client(await (await start(helpers.echo)).connect())
    for _ in range(60):
        ids = [await client.request() for _ in range(20)]
        answers = [await client.response(stream_id) for stream_id in ids]
        assert answers == [(200, b"")] * 20
        client.events.clear()


async def test_an_idle_connection_that_its_client_closes(start, h2_client, helpers):
    server = await start(helpers.echo, keep_alive_timeout=60)
    clients = []
    for _ in range(5):
        clients.append(h2_client(await server.connect()))
        await clients[-1].response(await clients[-1].request())
    for client in clients:
        await client.stream.aclose()
    while server.statistics.connections:  # noqa: ASYNC110 - the server's
        await trio.sleep(0.01)
