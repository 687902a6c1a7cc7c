import contextlib
import gc
from functools import partial

import h2.events
import pytest
import trio
import trio.testing
from h2.errors import ErrorCodes

from prism.server.exchange import Exchange
from prism.server.http1.connection import HTTP1Connection
from prism.server.http2.connection import HTTP2Connection
from prism.server.serve import serve
from prism.server.statistics import ServerStatistics
from prism.streams.listeners import open_listeners
from prism.streams.tasks import MAX_IDLE

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


class Gate:
    """An application that answers when told to."""

    def __init__(self, helpers):
        self.begun, self.go_on = trio.Event(), trio.Event()
        self._respond = helpers.respond

    async def __call__(self, scope, receive, send):
        self.begun.set()
        await self.go_on.wait()
        await self._respond(send, 200, b"done")


async def test_a_drain_lets_http1_finish_and_closes(start_server, helpers):
    app = Gate(helpers)
    server = await start_server(app)
    stream, idle = await server.connect(), await server.connect()
    await stream.send_all(GET)
    await app.begun.wait()
    server.shutdown.set()
    assert await helpers.read_all(idle) == b""
    app.go_on.set()
    answer = await helpers.read_all(stream)
    assert answer.endswith(b"done")
    assert b"connection: close" in answer.lower()
    await server.stopped.wait()
    with pytest.raises(OSError, match="connect"):
        await server.connect()


class Gates:
    """An application that answers each path when told to."""

    def __init__(self, helpers, *paths):
        self.begun = {path: trio.Event() for path in paths}
        self.go_on = {path: trio.Event() for path in paths}
        self._respond = helpers.respond

    async def __call__(self, scope, receive, send):
        path = scope["path"]
        self.begun[path].set()
        await self.go_on[path].wait()
        await self._respond(send, 200, path.encode())


async def test_a_drain_says_goaway_once_the_open_http2_requests_are_answered(
    start_server, h2_client, helpers
):
    app = Gates(helpers, "/first", "/second", "/later")
    server = await start_server(app)
    client = h2_client(await server.connect())
    first, second = [await client.request(path=path) for path in ("/first", "/second")]
    await app.begun["/second"].wait()
    server.shutdown.set()
    app.go_on["/first"].set()
    assert await client.response(first) == (200, b"/first")
    later = await client.request(path="/later")
    await app.begun["/later"].wait()
    assert not client.got(h2.events.ConnectionTerminated)
    app.go_on["/second"].set()
    assert await client.response(second) == (200, b"/second")
    while len(client.got(h2.events.ConnectionTerminated)) < 2:
        await client.read()
    warning, final = client.got(h2.events.ConnectionTerminated)
    assert (warning.last_stream_id, final.last_stream_id) == (2**31 - 1, later)
    refused = await client.request()
    reset = await client.wait_for(h2.events.StreamReset, refused)
    assert reset.error_code == ErrorCodes.REFUSED_STREAM
    app.go_on["/later"].set()
    assert await client.response(later) == (200, b"/later")
    await client.read_to_end()
    await server.stopped.wait()


async def test_a_drain_says_goaway_when_half_of_its_time_is_gone(start_server, h2_client, helpers):
    app = Gate(helpers)
    server = await start_server(app, graceful_timeout=4)
    client = h2_client(await server.connect())
    request = await client.request()
    await app.begun.wait()
    began = trio.current_time()
    server.shutdown.set()
    await client.wait_for(h2.events.ConnectionTerminated)
    assert trio.current_time() - began >= 2
    app.go_on.set()
    assert await client.response(request) == (200, b"done")
    await client.read_to_end()
    await server.stopped.wait()


async def test_a_drain_serves_an_http2_request_that_came_with_the_connection(
    start_server, h2_client, helpers
):
    server = await start_server(goaway_grace=5)
    client = h2_client(await server.connect())
    client.h2.send_headers(
        1,
        [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")],
        end_stream=True,
    )
    opening = client.h2.data_to_send()
    await client.stream.send_all(opening[:10])
    await trio.testing.wait_all_tasks_blocked(0.02)
    server.shutdown.set()
    await trio.testing.wait_all_tasks_blocked(0.02)
    await client.stream.send_all(opening[10:])
    assert await client.response(1) == (200, b"")
    kinds = [type(event) for event in client.events]
    await client.wait_for(h2.events.ConnectionTerminated)
    assert h2.events.ConnectionTerminated not in kinds[: kinds.index(h2.events.StreamEnded)]


@pytest.mark.parametrize("arrived", [0, 10])
async def test_a_request_that_arrives_as_the_drain_begins_is_served(start_server, helpers, arrived):
    server = await start_server(goaway_grace=5)
    assert await server.is_alive()
    stream = await server.connect()
    await stream.send_all(GET[:arrived])
    await trio.testing.wait_all_tasks_blocked(0.02)
    server.shutdown.set()
    await trio.testing.wait_all_tasks_blocked(0.02)
    await stream.send_all(GET[arrived:])
    assert (await helpers.read_all(stream)).startswith(b"HTTP/1.1 200 ")
    await server.stopped.wait()


async def test_idle_http2_connections_do_not_delay_a_drain(start_server, h2_client):
    server = await start_server()
    silent = h2_client(await server.connect())
    await silent.flush()
    await silent.read()
    server.shutdown.set()
    await silent.read_to_end()
    assert len(silent.got(h2.events.ConnectionTerminated)) == 2
    await server.stopped.wait()


async def test_requests_over_the_graceful_time_are_answered_503(start_server, h2_client, helpers):
    app = Gate(helpers)
    server = await start_server(app, graceful_timeout=0.1)
    client, stream = h2_client(await server.connect()), await server.connect()
    stream_id = await client.request()
    await stream.send_all(GET)
    await app.begun.wait()
    await trio.testing.wait_all_tasks_blocked(0.01)
    server.shutdown.set()
    assert (await client.response(stream_id))[0] == 503
    assert (await helpers.read_all(stream)).startswith(b"HTTP/1.1 503 Service Unavailable")
    await server.stopped.wait()


@pytest.mark.parametrize("version", [1, 2])
async def test_a_client_that_does_not_read_cannot_stop_a_shutdown(start_server, h2_client, version):
    stuck = trio.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            with trio.move_on_after(0.05) as scope:
                await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
            if scope.cancelled_caught:
                stuck.set()
                await trio.sleep_forever()

    server = await start_server(app, graceful_timeout=0.1, send_stall_timeout=0.2)
    stream = await server.connect()
    if version == 1:
        await stream.send_all(GET)
    else:
        client = h2_client(stream)
        client.h2.increment_flow_control_window(2**30)
        client.h2.update_settings({4: 2**31 - 1})
        await client.request()
    await stuck.wait()
    server.shutdown.set()
    await server.stopped.wait()


async def test_cancelling_serve_closes_everything_at_once(nursery, helpers):
    from prism.server.serve import serve
    from prism.streams.listeners import open_listeners

    app = Gate(helpers)
    listeners = await open_listeners("127.0.0.1", 0)
    async with trio.open_nursery() as inner:

        async def run(task_status):
            front = helpers.front(app)
            await serve(front, listeners, shutdown=trio.Event(), task_status=task_status)

        [address] = await inner.start(run)
        stream = await trio.open_tcp_stream(address.host, address.port)
        await stream.send_all(GET)
        await app.begun.wait()
        inner.cancel_scope.cancel()
    assert await helpers.read_all(stream) == b""
    await stream.aclose()


async def test_connections_above_the_limit_per_peer_are_closed(start_server, helpers):
    server = await start_server(max_connections_per_peer=2)
    kept = [await server.connect() for _ in range(2)]
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert await helpers.read_all(await server.connect()) == b""
    await kept[0].aclose()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert await server.is_alive()


async def test_at_the_limit_the_connection_idle_for_longest_makes_room(start_server, helpers):
    server = await start_server(max_connections=2)
    streams = []
    for _ in range(2):
        streams.append(await server.connect())
        await streams[-1].send_all(GET)
        assert await streams[-1].receive_some(1000)
    assert await server.is_alive()
    assert await helpers.read_all(streams[0]) == b""


async def test_at_the_limit_connections_that_never_said_anything_make_room(start_server, helpers):
    server = await start_server(max_connections=2, goaway_grace=0.05)
    silent = [await server.connect() for _ in range(2)]
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert await server.is_alive()
    assert await helpers.read_all(silent[0]) == b""


@pytest.mark.parametrize("version", [1, 2])
async def test_an_old_connection_is_closed_gracefully(start_server, h2_client, helpers, version):
    app = Gate(helpers)
    server = await start_server(app, max_connection_age=0.2, goaway_grace=0.05)
    stream = await server.connect()
    if version == 1:
        await stream.send_all(GET)
        await app.begun.wait()
        await trio.sleep(0.3)  # its age, on the server's clock, is what is tested
        app.go_on.set()
        answer = await helpers.read_all(stream)
        assert answer.endswith(b"done")
        assert b"connection: close" in answer.lower()
    else:
        client = h2_client(stream)
        stream_id = await client.request()
        app.go_on.set()
        assert await client.response(stream_id) == (200, b"done")
        await client.read_to_end()
        assert len(client.got(h2.events.ConnectionTerminated)) == 2
    assert server.statistics.retired == 1


async def test_connections_are_counted(start_server, helpers):
    server = await start_server(max_connections_per_peer=1)
    stream = await server.connect()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert await helpers.read_all(await server.connect()) == b""
    counted = server.statistics
    assert (counted.connections, counted.accepted, counted.refused) == (1, 2, 1)
    await stream.aclose()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert counted.connections == 0


async def test_what_goes_wrong_in_a_connection_stays_there(
    start_server, monkeypatch, server_errors, helpers
):
    from prism.server.http1.connection import HTTP1Connection

    server = await start_server()
    with monkeypatch.context() as patch:
        patch.setattr(HTTP1Connection, "run", lambda *args: {}["a secret"])
        stream = await server.connect()
        await stream.send_all(GET)
        assert await helpers.read_all(stream) == b""
    [message] = server_errors()
    assert "KeyError" in message
    assert "secret" not in message
    assert await server.is_alive()


async def test_many_clients_leaving_in_the_middle_leave_nothing_behind(
    start_server, h2_client, helpers
):
    """hypercorn kept a task and a descriptor for each of these."""

    async def app(scope, receive, send):
        await helpers.respond(send, 200)

    server = await start_server(app)
    before = trio.lowlevel.current_statistics().tasks_living
    for _ in range(100):
        stream = await server.connect()
        client = h2_client(stream)
        stream_id = await client.request("POST", end=False)
        for _ in range(30):
            with contextlib.suppress(h2.exceptions.ProtocolError):
                client.h2.send_data(stream_id, b"x")
        await client.flush()
        await stream.aclose()
    while trio.lowlevel.current_statistics().tasks_living > before + MAX_IDLE:
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert await server.is_alive()


class Answering:
    """A front end whose calls hold their exchanges, as calls do."""

    class Call:
        def __init__(self, exchange):
            self.exchange = exchange
            exchange.watch(self)

        def received(self): ...

        def cancelled(self, why): ...

    def begin(self, exchange):
        call = self.Call(exchange)
        if exchange.target == b"/":
            call.exchange.respond(200, [], b"hello")


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_connections_and_their_requests_leave_no_cycle_behind(
    h2_client, codec_name, monkeypatch, version
):
    """Else memory grows until the next search for cycles, which holds up all calls."""
    monkeypatch.setenv("PRISM_HTTP2_CODEC", codec_name)
    statistics, shutdown = ServerStatistics(), trio.Event()
    gc.disable()
    gc.freeze()  # what other tests left is not looked at
    try:
        async with trio.open_nursery() as nursery:
            run = partial(serve, Answering(), shutdown=shutdown, statistics=statistics)
            addresses = await nursery.start(run, await open_listeners("127.0.0.1", 0))
            for path in ("/", "/never"):  # the client leaves the second while it waits
                stream = await trio.open_tcp_stream(addresses[0].host, addresses[0].port)
                if version == "2":
                    client = h2_client(stream)
                    await client.request(path=path)
                    await client.read()
                else:
                    await stream.send_all(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
                    if path == "/":
                        await stream.receive_some()
                await trio.testing.wait_all_tasks_blocked()
                await stream.aclose()
            while statistics.accepted < 2 or statistics.connections:  # noqa: ASYNC110 - no event says it
                await trio.sleep(0.01)
            await trio.testing.wait_all_tasks_blocked()
            alive = [
                type(each).__name__
                for each in gc.get_objects()
                if isinstance(each, (HTTP1Connection, HTTP2Connection, Exchange, Answering.Call))
            ]
            shutdown.set()
        assert alive == []
    finally:
        gc.unfreeze()
        gc.enable()


@pytest.mark.parametrize("trusted", [("127.0.0.0/8",), ()], ids=["trusted", "anybody"])
async def test_a_trusted_proxy_says_who_asks(start_server, h2_client, helpers, trusted):
    async def app(scope, receive, send):
        await helpers.respond(send, 200, repr(scope["client"]).encode())

    server = await start_server(app, trusted_proxies=trusted)
    stream = await server.connect()
    for address in ("192.0.2.1", "192.0.2.2"):  # each request on a connection may be another's
        await stream.send_all(
            b"GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 6.6.6.6, %b\r\n\r\n" % address.encode()
        )
        answer = await stream.receive_some(65536)
        assert (repr((address, 0)).encode() in answer) == bool(trusted)
        assert b"6.6.6.6" not in answer
    client = h2_client(await server.connect())
    stream_id = await client.request(headers=(("x-forwarded-for", "192.0.2.3"),))
    _, body = await client.response(stream_id)
    assert (body == b"('192.0.2.3', 0)") == bool(trusted)


async def test_the_limit_per_address_is_not_for_trusted_proxies(start_server, h2_client):
    server = await start_server(max_connections_per_peer=1, trusted_proxies=("127.0.0.1",))
    clients = [h2_client(await server.connect()) for _ in range(3)]
    for client in clients:
        assert (await client.response(await client.request()))[0] == 200
