"""The adapter by itself, under front ends that do one thing each. The front ends' own tests, which
run through it, and those on hypercorn show the rest."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from prism.contract.errors import CallCancelled
from prism.frontends.asgi import MAX_UNREAD, asgi
from prism.server.exchange import Cancelled

DISCONNECT = {"type": "http.disconnect"}


class Front:
    """Does ``work`` for each exchange, in a task if it is async; keeps what it is told."""

    def __init__(self, work):
        self.work = work
        self.told = []
        self.exchange = None

    def begin(self, exchange):
        self.exchange = exchange
        exchange.watch(self)
        if (coroutine := self.work(exchange)) is not None:
            exchange.tasks.start(lambda: coroutine)

    def received(self):
        self.told.append(self.exchange.received)

    def cancelled(self, why):
        self.told.append(why)


class Server:
    """An ASGI server with one request: the test sends its body, and has what is answered."""

    def __init__(self, front, method="GET", target=b"/", headers=(), **scope):
        self.front = front
        path, _, query = target.partition(b"?")
        self.scope = {
            "type": "http",
            "method": method,
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "headers": list(headers),
            **scope,
        }
        self.tell, self.receiving = trio.open_memory_channel(1000)
        self.sent = []

    async def send(self, message):
        await trio.lowlevel.checkpoint()
        self.sent.append(message)

    def body(self, data, *, more=False):
        self.tell.send_nowait({"type": "http.request", "body": data, "more_body": more})

    async def run(self):
        await asgi(self.front)(self.scope, self.receiving.receive, self.send)
        return self.sent


def answers(*response):
    return Front(lambda exchange: exchange.respond(*response))


async def test_a_whole_response():
    start, body = await Server(answers(200, [(b"a", b"b")], b"hello")).run()
    assert start == {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"a", b"b"), (b"content-length", b"5")],
        "trailers": False,
    }
    assert body == {"type": "http.response.body", "body": b"hello", "more_body": False}


async def test_the_answer_to_head_has_the_length_and_no_body():
    start, body = await Server(answers(200, [], b"hello"), "HEAD").run()
    assert start["headers"] == [(b"content-length", b"5")]
    assert body["body"] == b""


async def test_a_response_without_a_body_has_no_length():
    start, body = await Server(answers(204, [], b"")).run()
    assert (start["headers"], body["body"]) == ([], b"")


TRAILERS = {"extensions": {"http.response.trailers": {}}}
TE = [(b"te", b"trailers")]


async def test_a_whole_response_with_trailers():
    front = answers(200, [], b"hello", [(b"a", b"b")])
    start, _body, trailers = await Server(front, headers=TE, **TRAILERS).run()
    assert (start["headers"], start["trailers"]) == ([], True)
    assert trailers == {
        "type": "http.response.trailers",
        "headers": [(b"a", b"b")],
        "more_trailers": False,
    }


@pytest.mark.parametrize("trailers", [None, [(b"a", b"b")]])
async def test_a_response_that_goes_on(trailers):
    async def work(exchange):
        await exchange.begin(200, [])
        await exchange.write(b"a")
        await exchange.write(b"b")
        await exchange.finish(trailers)

    start, *parts, last = await Server(Front(work), headers=TE, **TRAILERS).run()
    assert start["trailers"]
    assert [(part["body"], part["more_body"]) for part in parts] == [
        (b"", True),
        (b"a", True),
        (b"b", True),
        (b"", False),
    ]
    assert last["headers"] == (trailers or [])


@pytest.mark.parametrize(
    ("headers", "scope", "takes"), [(TE, TRAILERS, True), ([], TRAILERS, False), (TE, {}, False)]
)
async def test_trailers_are_taken_where_server_and_client_do(headers, scope, takes):
    front = answers(200, [], b"")
    await Server(front, headers=headers, **scope).run()
    assert front.exchange.takes_trailers is takes


async def test_a_body_is_received_as_far_as_it_is_taken():
    read = trio.Event()

    async def work(exchange):
        await read.wait()
        size = 0
        while data := await exchange.read():
            size += len(data)
        exchange.respond(200, [], b"%d" % size)

    server = Server(Front(work), "POST")
    part, parts = bytes(MAX_UNREAD // 2), 10
    for number in range(parts):
        server.body(part, more=number < parts - 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        await wait_all_tasks_blocked()
        assert server.front.exchange.received == MAX_UNREAD
        assert server.receiving.statistics().current_buffer_used == parts - 2
        read.set()
    assert server.sent[1]["body"] == b"%d" % (parts * len(part))


async def test_a_client_that_leaves_is_told_and_gets_no_answer():
    async def work(exchange):
        with pytest.raises(CallCancelled):
            await exchange.read()
        exchange.respond(200, [], b"")

    front = Front(work)
    server = Server(front)
    server.tell.send_nowait(DISCONNECT)
    assert await server.run() == []
    assert front.told == [Cancelled.CLIENT_LEFT]


async def test_a_client_that_leaves_within_the_response():
    left = trio.Event()

    async def work(exchange):
        await exchange.begin(200, [])
        await left.wait()
        await exchange.write(b"a")
        await exchange.finish()

    front = Front(work)
    server = Server(front)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        await wait_all_tasks_blocked()
        server.tell.send_nowait(DISCONNECT)
        await wait_all_tasks_blocked()
        left.set()
    assert front.told == [Cancelled.CLIENT_LEFT]
    assert len(server.sent) == 2


async def test_a_send_that_fails_means_that_the_client_has_left():
    class Broken(Server):
        async def send(self, message):
            raise BrokenPipeError

    front = answers(200, [], b"")
    await Broken(front).run()
    assert front.told == [Cancelled.CLIENT_LEFT]


async def test_a_server_that_stops():
    async def work(exchange):
        await trio.sleep_forever()

    front = Front(work)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server(front).run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert front.told == [Cancelled.STOPPED]


async def test_what_is_broken_off_is_left_unfinished():
    async def work(exchange):
        await exchange.begin(200, [])
        exchange.abort()

    sent = await Server(Front(work)).run()
    assert sent[-1]["more_body"]


async def test_work_that_goes_on_after_the_answer_is_waited_for():
    done = trio.Event()

    async def work(exchange):
        exchange.respond(200, [], b"")
        await wait_all_tasks_blocked()
        done.set()

    await Server(Front(work)).run()
    assert done.is_set()


async def test_a_bug_costs_one_response_and_shows_nothing(caplog):
    def work(exchange):
        raise KeyError("secret")

    start, body = await Server(Front(work)).run()
    assert start["status"] == 500
    assert b"secret" not in body["body"]
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", b"v1/kv/get", 400),
        ("POST", b"http://a/v1/kv/get", 400),
        ("POST", b"/\xff", 400),
        ("CONNECT", b"/", 501),
        ("a b", b"/", 400),
    ],
)
async def test_requests_that_no_front_end_should_see(method, target, status):
    front = Front(None)
    start, _ = await Server(front, method, target).run()
    assert start["status"] == status
    assert front.exchange is None


async def test_what_a_front_end_sees_of_a_request():
    front = answers(200, [], b"")
    client, server = ("10.0.0.1", 1234), ("10.0.0.2", 443)
    await Server(
        front,
        "POST",
        b"/a%20b?c=d",
        [(b"host", b"a")],
        scheme="https",
        http_version="2",
        client=client,
        server=server,
    ).run()
    exchange = front.exchange
    assert (exchange.method, exchange.target) == (b"POST", b"/a%20b?c=d")
    assert (exchange.headers, exchange.version) == ([(b"host", b"a")], "2")
    assert (exchange.peer.scheme, exchange.peer.client) == ("https", client)
    assert (exchange.peer.server, exchange.peer.uid) == (server, None)


async def test_a_server_without_raw_path_has_decoded_it():
    front = answers(200, [], b"")
    server = Server(front, target=b"/a")
    del server.scope["raw_path"]
    await server.run()
    assert front.exchange.target == b"/a"


async def test_it_agrees_to_start_and_to_stop():
    server = Server(None)
    server.scope = {"type": "lifespan"}
    for kind in ("startup", "shutdown"):
        server.tell.send_nowait({"type": f"lifespan.{kind}"})
    sent = await server.run()
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
