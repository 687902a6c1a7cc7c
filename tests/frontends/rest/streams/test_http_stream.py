from types import SimpleNamespace

import pytest

from prism.contract.errors import DeadlineExceeded, PluginMisbehaved
from prism.contract.messages import StreamResponse
from prism.frontends.rest.streams.formats import EventStream, JSONLines
from prism.frontends.rest.streams.http_stream import HTTPStream


@pytest.fixture
def exchange(make_exchange):
    return make_exchange()


@pytest.fixture
def call(exchange):
    return SimpleNamespace(
        exchange=exchange,
        request_id="id",
        namespace="kv",
        operation="watch",
        http_status=0,
        bytes_out=0,
        extra_headers=[(b"vary", b"origin")],
        attempts_headers=list,
        standing=None,
    )


@pytest.fixture
def stream(call):
    return HTTPStream(call, JSONLines(), None)


def said(*texts):
    return [StreamResponse(result_json=text) for text in texts]


async def test_messages_that_came_together_leave_together(stream, exchange, call):
    await stream.send_some(said("1", "2"))
    await stream.send(*said("3"))
    assert not exchange.over.is_set()
    await stream.end(None)
    assert exchange.written == [b"1\n2\n", b"3\n"]
    assert exchange.over.is_set()
    assert (call.http_status, call.bytes_out) == (200, 6)


async def test_those_before_one_that_cannot_be_written_leave_first(stream, exchange):
    with pytest.raises(PluginMisbehaved):
        await stream.send_some(said("1", '"\ud800"', "3"))
    assert exchange.written == [b"1\n"]


async def test_nothing_begins_where_the_first_cannot_be_written(stream, exchange):
    with pytest.raises(PluginMisbehaved):
        await stream.send_some(said('"\ud800"', "3"))
    assert not stream.begun
    assert exchange.status == 0


async def test_the_head_goes_out_once_with_what_every_answer_has(call, exchange):
    stream = HTTPStream(call, EventStream(), None)
    await stream.begin()
    await stream.begin()
    headers = dict(exchange.response_headers)
    assert headers[b"content-type"] == b"text/event-stream"
    assert (headers[b"x-request-id"], headers[b"vary"]) == (b"id", b"origin")
    await stream.beat()
    assert exchange.written == [b": still here\n\n"] * 2
    assert call.bytes_out == 28


async def test_an_error_is_the_last_that_is_written(stream, exchange):
    await stream.begin()
    await stream.end(DeadlineExceeded("too late"))
    [line] = exchange.written
    assert line.startswith(b'{"$error":{')
    assert b'"namespace":"kv","operation":"watch"' in line
    assert exchange.over.is_set()


async def test_who_sends_no_lines_has_said_all(stream):
    assert stream.one_way
    assert await stream.receive() is None
