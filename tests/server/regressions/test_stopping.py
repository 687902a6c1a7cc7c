"""How connections end: drains, GOAWAY, idle timers, clients that leave."""

import h2.events
import pytest
import trio
from h2.errors import ErrorCodes
from hyperframe.frame import GoAwayFrame


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


async def stops_within(server, seconds):
    with trio.move_on_after(seconds):
        await server.returned.wait()
    return server.returned.is_set()


@pytest.mark.outcomes(hypercorn=b"", prism=b"HTTP/1.1 503 Service Unavailable\r\n")
async def test_a_request_that_needs_longer_than_the_grace(start, expected, helpers):
    app = Gate(helpers)
    server = await start(app, hypercorn={"graceful_timeout": 0.1}, prism={"graceful_timeout": 0.1})
    stream = await server.connect()
    await stream.send_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n")
    await app.begun.wait()
    server.shutdown.set()
    answer = await helpers.read_all(stream)
    assert answer[: answer.find(b"\r\n") + 2] == expected


@pytest.mark.outcomes(hypercorn=[], prism=[2**31 - 1, 1])
async def test_an_idle_connection_is_told_of_the_drain(start, expected, h2_client, helpers):
    server = await start(helpers.echo)
    client = h2_client(await server.connect())
    await client.response(await client.request())
    server.shutdown.set()
    await client.read_to_end()
    goaways = client.got(h2.events.ConnectionTerminated)
    assert [goaway.last_stream_id for goaway in goaways] == expected


@pytest.mark.outcomes(hypercorn="holds up the stop", prism="does not")
async def test_a_connection_that_never_sent_a_request(start, expected, h2_client, helpers):
    server = await start(
        helpers.echo, hypercorn={"graceful_timeout": 5}, prism={"graceful_timeout": 5}
    )
    client = h2_client(await server.connect())
    await client.flush()
    await client.read()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.read_to_end)
        server.shutdown.set()
        stopped = await stops_within(server, 2.5)
        nursery.cancel_scope.cancel()
    assert ("does not" if stopped else "holds up the stop") == expected


@pytest.mark.outcomes(hypercorn="lives for ever", prism="is closed")
async def test_a_connection_that_sent_only_the_preface_is_idle(start, expected, h2_client, helpers):
    server = await start(
        helpers.echo,
        hypercorn={"keep_alive_timeout": 0.1},
        prism={"keep_alive_timeout": 0.1},
    )
    client = h2_client(await server.connect())
    await client.flush()
    with trio.move_on_after(1.5):
        await client.read_to_end()
    assert ("is closed" if client.closed else "lives for ever") == expected


@pytest.mark.outcomes(hypercorn=ErrorCodes.NO_ERROR, prism=200)
async def test_a_request_on_an_old_connection_in_a_drain(start, expected, h2_client, helpers):
    """While another is in flight. hypercorn resets it, and not so that it may be retried."""
    app = Gate(helpers)
    server = await start(
        app, hypercorn={"graceful_timeout": 5}, prism={"graceful_timeout": 5, "goaway_grace": 0.1}
    )
    client = h2_client(await server.connect())
    await client.request(path="/wait")
    await app.begun.wait()
    server.shutdown.set()
    await trio.testing.wait_all_tasks_blocked(0.02)
    late = await client.request()
    while not client.got(h2.events.StreamReset, late) and not client.got(
        h2.events.StreamEnded, late
    ):
        await client.read()
    resets = client.got(h2.events.StreamReset, late)
    outcome = resets[0].error_code if resets else (await client.response(late))[0]
    assert outcome == expected
    app.go_on.set()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.outcomes(hypercorn="never ends", prism="ends")
async def test_a_stop_with_a_client_that_does_not_read(
    start, expected, h2_client, helpers, version
):
    stuck = trio.Event()

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            with trio.move_on_after(0.1) as patience:
                body = {"type": "http.response.body", "body": bytes(2**20), "more_body": True}
                await send(body)
            if patience.cancelled_caught:
                stuck.set()
                await trio.sleep_forever()

    server = await start(
        app,
        hypercorn={"graceful_timeout": 0.1},
        prism={"graceful_timeout": 0.1, "send_stall_timeout": 0.2},
    )
    stream = await server.connect()
    if version == 1:
        await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    else:
        client = h2_client(stream)
        client.h2.increment_flow_control_window(2**30)
        client.h2.update_settings({4: 2**31 - 1})
        await client.request()
    with trio.move_on_after(1):  # hypercorn shields the send that is stuck
        await stuck.wait()
    server.shutdown.set()
    assert ("ends" if await stops_within(server, 2) else "never ends") == expected
    stream.socket.close()


@pytest.mark.outcomes(hypercorn="lost", prism=(200, b"done"))
async def test_the_response_to_a_client_that_said_goaway(start, expected, h2_client, helpers):
    app = Gate(helpers)
    client = h2_client(await (await start(app)).connect())
    stream_id = await client.request(path="/wait")
    await app.begun.wait()
    await client.stream.send_all(GoAwayFrame(0).serialize())
    await trio.testing.wait_all_tasks_blocked(0.02)
    app.go_on.set()
    try:
        outcome = await client.response(stream_id)
    except AssertionError:
        outcome = "lost"
    assert outcome == expected


@pytest.mark.outcomes(hypercorn="some are lost", prism="all are answered")
async def test_more_requests_than_hypercorn_takes_on_one_connection(
    start, expected, h2_client, helpers
):
    """``keep_alive_max_requests`` ends a connection with its requests in flight."""
    app = Gate(helpers)
    server = await start(app, hypercorn={"keep_alive_max_requests": 10})
    client = h2_client(await server.connect())
    ids = [await client.request(path="/wait") for _ in range(20)]
    await app.begun.wait()
    await trio.testing.wait_all_tasks_blocked(0.02)
    app.go_on.set()
    try:
        answers = [await client.response(stream_id) for stream_id in ids]
        outcome = "all are answered" if set(answers) == {(200, b"done")} else "some are lost"
    except AssertionError:
        outcome = "some are lost"
    assert outcome == expected


@pytest.mark.outcomes(hypercorn="holds a task and a descriptor", prism="is freed")
async def test_an_idle_connection_that_its_client_closes(start, expected, h2_client, helpers):
    server = await start(helpers.echo, hypercorn={"keep_alive_timeout": 60})
    tasks = trio.lowlevel.current_statistics().tasks_living
    clients = []
    for _ in range(5):
        clients.append(h2_client(await server.connect()))
        await clients[-1].response(await clients[-1].request())
    for client in clients:
        await client.stream.aclose()
    await trio.testing.wait_all_tasks_blocked(0.2)
    left = trio.lowlevel.current_statistics().tasks_living - tasks
    assert ("is freed" if left == 0 else "holds a task and a descriptor") == expected
