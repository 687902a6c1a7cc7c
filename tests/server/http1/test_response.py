import h11
import pytest

from prism.server.http1.response import (
    CONTINUE,
    LAST_CHUNK,
    chunk,
    response_head,
    switching_protocols,
)

HEADERS = [(b"content-type", b"text/plain"), (b"x", b""), (b"x", b"\xff")]


def read(data: bytes, method: str = "GET") -> list[h11.Event]:
    """What a client makes of it, to the end of the connection."""
    client, events = h11.Connection(h11.CLIENT), []
    client.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        events.append(event)
    return events


def test_a_head_with_the_date():
    head, data = read(response_head(200, [*HEADERS, (b"content-length", b"4")]) + b"body")
    assert (head.status_code, head.reason, head.http_version) == (200, b"OK", b"1.1")
    assert [field for field in head.headers if field[0] != b"date"] == [
        *HEADERS,
        (b"content-length", b"4"),
    ]
    assert dict(head.headers)[b"date"].endswith(b" GMT")
    assert bytes(data.data) == b"body"


@pytest.mark.parametrize(("status", "reason"), [(404, b"Not Found"), (599, b"")])
def test_a_status_with_a_reason_and_one_without(status, reason):
    (head,) = read(response_head(status, [(b"content-length", b"0")]))
    assert (head.status_code, head.reason) == (status, reason)
    assert response_head(status, []).startswith(b"HTTP/1.1 %d %b\r\n" % (status, reason))


def test_the_last_response_of_a_connection():
    head, data = read(response_head(200, [], close=True) + b"to the end")
    assert dict(head.headers)[b"connection"] == b"close"
    assert bytes(data.data) == b"to the end"


def test_a_body_in_chunks():
    pieces = [b"x", b"y" * 17, b"\r\n0\r\n\r\n"]
    sent = response_head(200, [], chunked=True) + b"".join(map(chunk, pieces)) + LAST_CHUNK
    _, *data = read(sent)
    assert b"".join(bytes(each.data) for each in data) == b"".join(pieces)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_responses_that_end_with_their_head(method, status):
    (head,) = read(response_head(status, [(b"content-length", b"4")]), method)
    assert head.status_code == status


def test_what_comes_before_a_response():
    ahead, head = read(CONTINUE + response_head(200, [(b"content-length", b"0")]))
    assert (ahead.status_code, head.status_code) == (100, 200)


def test_the_switch_to_another_protocol():
    assert switching_protocols([(b"upgrade", b"websocket")]) == (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n"
    )
