import pytest
import trio

from prism.calls.request import CallRecord
from prism.calls.trace import new_trace
from prism.contract.errors import PluginMisbehaved
from prism.contract.messages import StreamResponse
from prism.frontends.rest.streams.formats import JSONLines
from prism.frontends.rest.streams.http_stream import HTTPStream


@pytest.fixture
def sent():
    return []


@pytest.fixture
def stream(sent):
    async def send(message):
        await trio.lowlevel.checkpoint()
        sent.append(message.get("body", message["type"]))

    return HTTPStream(send, CallRecord(0.0, "id", new_trace()), JSONLines(), None)


def said(*texts):
    return [StreamResponse(result_json=text) for text in texts]


async def test_messages_that_came_together_leave_together(stream, sent):
    await stream.send_some(said("1", "2"))
    await stream.send(*said("3"))
    await stream.end()
    assert sent == ["http.response.start", b"", b"1\n2\n", b"3\n", b""]


async def test_those_before_one_that_cannot_be_written_leave_first(stream, sent):
    with pytest.raises(PluginMisbehaved):
        await stream.send_some(said("1", '"\ud800"', "3"))
    assert sent == ["http.response.start", b"", b"1\n"]


async def test_nothing_begins_where_the_first_cannot_be_written(stream, sent):
    with pytest.raises(PluginMisbehaved):
        await stream.send_some(said('"\ud800"', "3"))
    assert not stream.begun
    assert sent == []
