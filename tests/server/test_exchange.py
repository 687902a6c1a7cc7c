import pytest
import trio

from prism.server.exchange import Exchange, UnexpectedMessage

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"x"}


class Recorder(Exchange):
    """Writes into a list."""

    def __init__(self, method="GET"):
        super().__init__({"method": method, "extensions": {"http.response.trailers": {}}})
        self.written = []

    def body_taken(self, size):
        self.written.append("taken")

    async def write_head(self, status, headers, data, *, end):
        self.written.append((status, data, end))

    async def write_body(self, data, *, end):
        self.written.append((data, end))

    async def write_trailers(self, headers):
        self.written.append(headers)


async def test_head_and_body_leave_together():
    exchange = Recorder()
    await exchange.send(START)
    assert exchange.written == []
    await exchange.send({**BODY, "more_body": True})
    await exchange.send(BODY)
    assert exchange.written == [(200, b"x", False), (b"x", True)]


async def test_trailers_end_the_response():
    exchange = Recorder()
    await exchange.send({**START, "trailers": True})
    await exchange.send({**BODY, "body": b""})
    trailers = {"type": "http.response.trailers", "headers": [(b"A", b"1")]}
    await exchange.send({**trailers, "more_trailers": True})
    await exchange.send(trailers)
    assert exchange.written == [(200, b"", False), [(b"a", b"1"), (b"a", b"1")]]


@pytest.mark.parametrize(
    "messages",
    [
        [BODY],
        [START, START],
        [START, BODY, BODY],
        [{**START, "status": 101}],
        [{"type": "http.response.trailers", "headers": []}],
        [{"type": "websocket.accept"}],
    ],
)
async def test_messages_out_of_place_are_an_error_in_the_application(messages):
    exchange = Recorder()
    for message in messages[:-1]:
        await exchange.send(message)
    with pytest.raises(UnexpectedMessage):
        await exchange.send(messages[-1])


@pytest.mark.parametrize(
    "header", [(b":status", b"200"), (b"a b", b""), (b"", b""), (b"a", b"b\r\nc: d"), (b"a", b"\0")]
)
async def test_invalid_headers_are_an_error_in_the_application(header):
    with pytest.raises(ValueError, match="invalid header"):
        await Recorder().send({**START, "headers": [header]})


async def test_a_head_request_gets_no_body():
    exchange = Recorder("HEAD")
    await exchange.send(START)
    await exchange.send(BODY)
    assert exchange.written == [(200, b"", True)]


async def test_every_task_in_receive_hears_of_a_disconnect():
    exchange, heard = Recorder(), []

    async def listen():
        heard.append((await exchange.receive())["type"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        exchange.disconnect()
    assert heard == ["http.disconnect"] * 2


async def test_after_the_body_receive_waits_for_the_end_of_the_response():
    exchange = Recorder()
    exchange.feed(b"a")
    assert await exchange.receive() == {"type": "http.request", "body": b"a", "more_body": True}
    exchange.feed_end()
    assert await exchange.receive() == {"type": "http.request", "body": b"", "more_body": False}
    await exchange.send(START)
    await exchange.send(BODY)
    assert await exchange.receive() == {"type": "http.disconnect"}


async def test_an_application_that_returns_without_a_response_is_a_500():
    async def app(scope, receive, send):
        pass

    exchange = Recorder()
    await exchange.run(app)
    assert exchange.written[0][0] == 500


async def test_a_cancelled_server_cancels_the_application_even_while_it_fails(caplog):
    async def app(scope, receive, send):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("secret")

    with trio.CancelScope() as scope:
        scope.cancel()
        await Recorder().run(app)
    assert scope.cancelled_caught
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text
