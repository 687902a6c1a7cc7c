import json

import pytest

from prism.contract.errors import PluginMisbehaved
from prism.contract.messages import StreamResponse
from prism.frontends.headers import RequestHeaders
from prism.frontends.rest.streams.formats import EventStream, JSONLines, choose_format


def said(text, **fields):
    return StreamResponse(result_json=text, **fields)


@pytest.mark.parametrize(
    ("accept", "of_stream", "of_call"),
    [
        (b"", JSONLines, None),
        (b"*/*", JSONLines, None),
        (b"application/json", None, None),
        (b"text/html", None, None),
        (b"text/event-stream", EventStream, EventStream),
        (b"Application/X-NDJSON;q=1", JSONLines, JSONLines),
        (b"application/json, text/event-stream", EventStream, None),
        (b"text/event-stream, application/x-ndjson", EventStream, EventStream),
        (b"text/event-stream;q=0.9, */*", EventStream, None),
    ],
)
def test_what_the_client_takes_and_what_is_called_decide(accept, of_stream, of_call):
    assert choose_format(accept, streaming=True) is of_stream
    assert choose_format(accept, streaming=False) is of_call


def test_events_have_ids():
    events = EventStream()
    assert events.message(said('{"a":1}')) == b'id: #1\ndata: {"a":1}\n\n'
    assert events.message(said("2", position="k:9")) == b"id: k:9\ndata: 2\n\n"
    assert events.message(said("3")) == b"id: #3\ndata: 3\n\n"


def test_line_breaks_in_an_event_are_lines_of_its_data():
    text = '{\n "a":\r\n1}'
    assert EventStream().message(said(text)) == b'id: #1\ndata: {\ndata:  "a":\ndata: 1}\n\n'


POSITIONS = ["a\nb", "a\rb", "a\0b", "#1", "#", " z", "z ", "é", "50%", "%23", "\u2028", "k:9"]


@pytest.mark.parametrize("position", POSITIONS)
def test_any_position_passes_and_comes_back(position):
    text = EventStream().message(said("1", position=position))
    identity, data, *rest = text.split(b"\n")
    assert (data, rest) == (b"data: 1", [b"", b""])
    sent = identity.removeprefix(b"id: ")
    assert all(0x20 < byte < 0x7F for byte in sent)
    assert RequestHeaders([(b"last-event-id", sent)]).last_event_id() == position


def test_lines_hold_one_value_each():
    assert JSONLines().message(said('{"a":1}')) == b'{"a":1}\n'
    assert JSONLines().message(said('{\n "a": "b c",\r\n "d": "\\n"}')) == (
        b'{  "a": "b c",   "d": "\\n"}\n'
    )
    assert JSONLines().message(said("")) == b"{}\n"


@pytest.mark.parametrize("kind", [EventStream, JSONLines])
def test_bytes_travel_as_base64(kind):
    text = kind().message(StreamResponse(result_raw=b"\x81\xa1"))
    assert b'{"encoding":"base64","value":"gaE="}' in text
    with pytest.raises(PluginMisbehaved):
        kind().message(said('"\ud800"'))


def test_ends():
    problem = b'{"status":502}'
    assert EventStream().error(problem) == b'event: error\ndata: {"status":502}\n\n'
    assert EventStream().end() == b"id: #end\nevent: end\ndata: {}\n\n"
    assert json.loads(JSONLines().error(problem)) == {"$error": {"status": 502}}
    assert JSONLines().end() == b""
    assert EventStream().beat().startswith(b":")
