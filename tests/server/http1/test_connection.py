import json
import socket

import h11
import pytest
import trio
import trio.testing
from asgi_app import ASGIApp

from prism.server.exchange import Peer
from prism.server.http1.connection import HTTP1Connection
from prism.server.settings import ServerSettings
from prism.streams.tasks import TaskPool

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody"


async def exchange(server, sent: bytes, helpers) -> bytes:
    stream = await server.connect()
    await stream.send_all(sent)
    return await helpers.read_all(stream)


def parse(data: bytes, requests: int = 1) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    client, responses = h11.Connection(h11.CLIENT), []
    client.receive_data(data)
    for _ in range(requests):
        client.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
        client.send(h11.EndOfMessage())
        head, body = client.next_event(), b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            body += bytes(event.data)
        responses.append((head.status_code, dict(head.headers), body))
        if client.our_state is h11.DONE and client.their_state is h11.DONE:
            client.start_next_cycle()
    return responses


async def test_pipelined_requests_are_answered_in_order(start_server, helpers):
    async def app(scope, receive, send):
        await helpers.respond(send, 200, scope["raw_path"])

    server = await start_server(app)
    stream = await server.connect()
    await stream.send_all(b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n")
    await stream.send_all(b"GET /3 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    responses = parse(await helpers.read_all(stream), 3)
    assert [body for _, _, body in responses] == [b"/1", b"/2", b"/3"]


@pytest.mark.parametrize("attempt", range(10))
async def test_a_body_that_is_taken_whenever_the_clients_end_is_looked_for(
    helpers, autojump_clock, attempt
):
    """Both happen in one turn of the scheduler, in either order."""
    settings = ServerSettings()
    size, received = 10 * settings.stream_window, []

    async def app(scope, receive, send):
        message = {"more_body": True}
        while message["more_body"]:
            await trio.sleep(settings.half_close_grace)
            message = await receive()
            received.append(len(message["body"]))
        await helpers.respond(send, 200)

    ours, theirs = trio.testing.memory_stream_pair()
    head = f"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n"
    async with trio.open_nursery() as nursery:
        tasks = TaskPool(nursery)
        connection = HTTP1Connection(ASGIApp(app), theirs, Peer("http"), settings, tasks)
        nursery.start_soon(connection.run)
        await ours.send_all(head.encode() + bytes(size))
        with trio.fail_after(20 * settings.half_close_grace):
            await helpers.read_all(ours)
        nursery.cancel_scope.cancel()
    assert sum(received) == size


async def test_an_answer_before_the_body_is_read_reaches_a_client_that_sends_on(
    start_server, helpers
):
    async def app(scope, receive, send):
        await helpers.respond(send, 413, b"too large")

    server = await start_server(app)
    stream = await server.connect()
    await stream.send_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9000000\r\n\r\n")
    for _ in range(20):
        await stream.send_all(bytes(10_000))
    [(status, headers, body)] = parse(await helpers.read_all(stream))
    assert (status, body, headers[b"connection"]) == (413, b"too large", b"close")


async def test_continue_is_sent_when_the_application_asks_for_the_body(start_server, helpers):
    server = await start_server()
    stream = await server.connect()
    await stream.send_all(
        b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n"
        b"connection: close\r\n\r\n"
    )
    assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 100 ")
    await stream.send_all(b"hi")
    assert parse(await helpers.read_all(stream))[0][2] == b"hi"


@pytest.mark.parametrize(
    "more", [b"\r\n", b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n", b"\xff" * 9]
)
async def test_what_follows_a_last_request_is_dropped(start_server, helpers, more):
    server = await start_server()
    sent = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody"
    answer = await exchange(server, sent + more, helpers)
    assert [body for _, _, body in parse(answer)] == [b"body"]


async def test_a_whole_url_as_target_is_understood(start_server, helpers):
    async def app(scope, receive, send):
        host = dict(scope["headers"])[b"host"]
        await helpers.respond(
            send, 200, b" ".join([host, scope["raw_path"], scope["query_string"]])
        )

    server = await start_server(app)
    sent = b"GET http://b:1/x?y=1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    [(_, _, body)] = parse(await exchange(server, sent, helpers))
    assert body == b"b:1 /x y=1"


async def test_a_multitude_of_tiny_chunks_arrives_whole(start_server, helpers):
    server = await start_server()
    head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    answer = await exchange(server, head + b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n", helpers)
    assert parse(answer)[0][2] == b"x" * 3000


async def test_a_client_that_pipelines_and_does_not_read_gets_no_more_answers(
    start_server, helpers
):
    answered = 0

    async def app(scope, receive, send):
        nonlocal answered
        answered += 1
        await helpers.respond(send, 200, bytes(100_000))

    server = await start_server(app, send_stall_timeout=0.5)
    stream = await server.connect()
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    await stream.send_all(GET * 1000)
    while server.statistics.connections:  # noqa: ASYNC110 - the server's
        await trio.sleep(0.01)
    assert answered < 200


async def test_pipelined_requests_of_a_client_that_ends_its_half_are_all_answered(
    start_server, helpers
):
    server = await start_server(half_close_grace=60.0)
    stream = await server.connect()
    await stream.send_all(GET * 200)
    await stream.send_eof()
    assert (await helpers.read_all(stream)).count(b"HTTP/1.1 200") == 200


async def test_a_chunked_request_gets_a_chunked_response(start_server, helpers):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    server = await start_server(app)
    sent = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    answer = await exchange(server, sent + b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", helpers)
    [(_, headers, body)] = parse(answer)
    assert (body, headers[b"transfer-encoding"]) == (b"abcdef", b"chunked")


async def test_head_gets_no_body(start_server, helpers):
    async def app(scope, receive, send):
        await helpers.respond(send, 200, b"body")

    server = await start_server(app)
    sent = b"HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    answer = await exchange(server, sent, helpers)
    assert b"content-length: 4" in answer.lower()
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_a_disconnect_cancels_the_application_that_does_not_watch_for_it(
    start_server, helpers, how
):
    begun, cancelled = trio.Event(), trio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/alive":
            await helpers.respond(send, 200)
            return
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    server = await start_server(app)
    stream = await server.connect()
    await stream.send_all(GET)
    await begun.wait()
    if how == "RST":
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await stream.aclose()
    await cancelled.wait()
    assert await server.is_alive()


async def test_requests_before_a_half_close_are_answered(start_server, helpers):
    server = await start_server()
    stream = await server.connect()
    await stream.send_all(POST + POST)
    await stream.send_eof()
    answer = await helpers.read_all(stream)
    assert [(status, body) for status, _, body in parse(answer, 2)] == [(200, b"body")] * 2


async def test_a_half_close_just_after_a_response_does_not_lose_the_next_request(
    start_server, helpers
):
    half_closed = trio.Event()

    async def app(scope, receive, send):
        await helpers.echo(scope, receive, send)
        await half_closed.wait()

    server = await start_server(app)
    stream = await server.connect()
    await stream.send_all(POST + POST)
    answer = bytes(await stream.receive_some(10_000))
    await stream.send_eof()
    await trio.testing.wait_all_tasks_blocked(0.02)
    half_closed.set()
    answer += await helpers.read_all(stream)
    assert [body for _, _, body in parse(answer, 2)] == [b"body"] * 2


async def test_a_body_that_turns_bad_is_answered_400(start_server, helpers, server_errors):
    cancelled = trio.Event()

    async def app(scope, receive, send):
        try:
            while True:
                begun.set()
                await receive()
        finally:
            cancelled.set()

    begun = trio.Event()
    server = await start_server(app)
    stream = await server.connect()
    await stream.send_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    await begun.wait()
    await stream.send_all(b"not a chunk\r\n")
    assert (await helpers.read_all(stream)).startswith(b"HTTP/1.1 400 ")
    await cancelled.wait()
    assert server_errors() == []


@pytest.mark.parametrize("settings", [b"AAMAAABkAAQAAP__", b"", b"!"])
async def test_a_client_that_asks_for_h2c_is_answered_over_http_1_1(
    start_server, helpers, settings
):
    """The connection goes on, with what the client has sent after that request."""
    server = await start_server()
    upgrade = b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\n"
    upgrade += b"http2-settings: %b\r\n" % settings
    sent = [
        b"GET / HTTP/1.1\r\nhost: a\r\n%b\r\n" % upgrade,
        b"POST / HTTP/1.1\r\nhost: a\r\n%bcontent-length: 4\r\n\r\nbody" % upgrade,
        b"GET / HTTP/1.0\r\n%b\r\n" % upgrade,
    ]
    responses = parse(await exchange(server, b"".join(sent), helpers), 3)
    assert [status for status, _, _ in responses] == [200, 200, 200]
    assert not any(b"upgrade" in headers for _, headers, _ in responses)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET nopath HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET ftp://b/ HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET http://u@b/ HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"a:\r\n" * 100 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 200, 431),  # without waiting for the end
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 40_000, 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 33_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nhost: a\r\n", 408),  # and then nothing
        (
            b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-extensions: \xff\r\n\r\nbytes after the request",
            426,
        ),
    ],
)
async def test_what_cannot_be_served_is_refused(
    start_server, helpers, server_errors, caplog, sent, status
):
    server = await start_server(header_timeout=0.1)
    answer = await exchange(server, sent, helpers)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in answer
    top, _, body = answer.partition(b"\r\n\r\n")
    problem = json.loads(body)
    assert problem["reason"]
    assert problem["retryable"] is (status == 408)
    assert f"x-request-id: {problem['request_id']}".encode() in top
    (line,) = [record for record in caplog.records if "is refused" in record.message]
    assert line.fields["request_id"] == problem["request_id"]
    assert await server.is_alive()
    assert server_errors() == []


async def test_a_silent_connection_is_closed(start_server, helpers):
    server = await start_server(header_timeout=0.1)
    assert await exchange(server, b"", helpers) == b""


async def test_an_idle_connection_is_closed(start_server, helpers):
    server = await start_server(keep_alive_timeout=0.1)
    assert parse(await exchange(server, GET, helpers))[0][0] == 200


async def test_a_failure_before_the_response_is_a_500(start_server, helpers, server_errors):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("a secret")

    server = await start_server(app)
    stream = await server.connect()
    for _ in range(2):  # the connection lives on
        await stream.send_all(GET)
        assert (await stream.receive_some(10_000)).startswith(b"HTTP/1.1 500 ")
    [first, _] = server_errors()
    assert "RuntimeError" in first
    assert "secret" not in first


async def test_a_failure_within_the_response_leaves_it_visibly_incomplete(start_server, helpers):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError

    server = await start_server(app)
    answer = await exchange(server, GET, helpers)
    assert answer.endswith(b"4\r\nhalf\r\n")


async def test_header_injection_by_the_application_is_refused(start_server, helpers):
    async def app(scope, receive, send):
        headers = [(b"x", b"a\r\nset-cookie: b")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    server = await start_server(app)
    stream = await server.connect()
    await stream.send_all(GET)
    assert (await stream.receive_some(10_000)).startswith(b"HTTP/1.1 500 ")


async def test_a_client_that_does_not_read_is_cut_off(start_server):
    cancelled = trio.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        finally:
            cancelled.set()

    server = await start_server(app, send_stall_timeout=0.2)
    stream = await server.connect()
    await stream.send_all(GET)
    await cancelled.wait()


async def test_a_body_nobody_reads_is_not_stored(start_server):
    begun = trio.Event()

    async def app(scope, receive, send):
        begun.set()
        await trio.sleep_forever()

    server = await start_server(app)
    stream = await server.connect()
    await stream.send_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 900000000\r\n\r\n")
    await begun.wait()
    with trio.move_on_after(0.5) as scope:
        for _ in range(1000):
            await stream.send_all(bytes(100_000))
    assert scope.cancelled_caught


async def test_a_client_that_leaves_behind_bytes_nobody_reads_is_noticed(start_server):
    begun, cancelled = trio.Event(), trio.Event()

    async def app(scope, receive, send):
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    server = await start_server(app, stream_window=10_000)
    stream = await server.connect()
    await stream.send_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9000000\r\n\r\n")
    await begun.wait()
    await stream.send_all(bytes(100_000))
    await stream.aclose()
    await cancelled.wait()


async def test_a_write_that_is_cancelled_sends_all_or_nothing(helpers, autojump_clock):
    """What is left of one is sent, and waited for by the next, so that nothing piles up."""
    ours, theirs = trio.testing.memory_stream_pair()
    takes, carry = trio.Event(), theirs.send_stream.send_all_hook

    async def carry_when_it_takes():
        await takes.wait()
        await carry()

    class Front:
        def begin(self, exchange):
            self.exchange = exchange

    front = Front()
    async with trio.open_nursery() as nursery:
        connection = HTTP1Connection(
            front, theirs, Peer("http"), ServerSettings(), TaskPool(nursery)
        )
        nursery.start_soon(connection.run)
        await ours.send_all(GET.replace(b"host: a", b"host: a\r\nconnection: close"))
        await trio.testing.wait_all_tasks_blocked()
        await front.exchange.begin(200, [])
        await trio.testing.wait_all_tasks_blocked()
        theirs.send_stream.send_all_hook = carry_when_it_takes
        for word in (b"one ", b"two ", b"three "):
            with trio.move_on_after(1):
                await front.exchange.write(word)
        takes.set()
        await front.exchange.write(b"four")
        await front.exchange.finish()
        answer = await helpers.read_all(ours)
        nursery.cancel_scope.cancel()
    assert parse(answer)[0][2] == b"one four"


@pytest.mark.parametrize(
    "sent",
    [
        b"INVALID CONNECTION PREFACE\r\n\r\n",  # h2spec's
        b"OPTIONS * RTSP/1.0\r\ncseq: 1\r\n\r\n",
        b"INVITE sip:b@example.org SIP/2.0\r\n\r\n",
    ],
)
async def test_a_client_of_another_protocol_gets_no_http(start_server, helpers, sent):
    server = await start_server()
    assert await exchange(server, sent, helpers) == b""
    assert await server.is_alive()
