"""What clients may send wrong: each gets its answer, and the connection goes on."""

import http.client
import json

import pytest
from http2_client import Http2Client

LIMIT = 10_000
CALL = "/v1/kv/echo"


@pytest.fixture(scope="module")
def proxy(start_shared_prism):
    namespace = {
        "name": "kv",
        "backend": "waiting",
        "plugin": {"type": "in_process", "module": "waiting_plugin:Waiting"},
        "limits": {"max_payload_bytes": LIMIT},
    }
    sqlite = {"name": "db", "backend": "sqlite", "config": {"path": ":memory:"}}
    return start_shared_prism({"namespaces": [namespace, sqlite]})


class Http1:
    """HTTP/1.1 with whatever bytes a test wants; one connection."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.connection.connect()

    def request(
        self, path, body=b"{}", method="POST", headers=(), *, chunked=False, may_close=False
    ):
        connection = self.connection
        local = connection.sock.getsockname()
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if chunked:
            connection.putheader("transfer-encoding", "chunked")
        else:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders()
        if chunked:
            pieces = [body[at : at + 4096] for at in range(0, len(body), 4096)]
            for piece in pieces:
                connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            connection.send(b"0\r\n\r\n")
        else:
            connection.send(body)
        response = connection.getresponse()
        response.headers_seen = {name.lower(): value for name, value in response.getheaders()}
        content = response.read()
        if not may_close:
            assert connection.sock is not None, "the server closed the connection"
            assert connection.sock.getsockname() == local
        return response.status, response.headers_seen, content

    def close(self):
        self.connection.close()


class Http2:
    """The same over HTTP/2."""

    def __init__(self, port):
        self.client = Http2Client(port)

    def request(self, path, body=b"{}", method="POST", headers=(), chunked=False):
        if not chunked:
            headers = (*headers, ("content-length", str(len(body))))
        response = self.client.request(path, body, method=method, headers=tuple(headers))
        assert not self.client.goaways
        return response.status, response.headers, response.body

    def close(self):
        self.client.close()


@pytest.fixture(params=[Http1, Http2], ids=["h1", "h2"])
def client(request, proxy):
    client = request.param(proxy.port)
    yield client
    client.close()


BODIES = {
    "malformed": (b'{"key": }', 400, "INVALID_ARGUMENT"),
    "truncated": (b'{"key": "a"', 400, "INVALID_ARGUMENT"),
    "trailing": (b'{} {"more": 1}', 400, "INVALID_ARGUMENT"),
    "not UTF-8": (b'{"key": "\xff\xfe"}', 400, "INVALID_ARGUMENT"),
    "a surrogate": (b'{"key": "\\ud800"}', 400, "INVALID_ARGUMENT"),
    "a bare NaN": (b'{"key": NaN}', 400, "INVALID_ARGUMENT"),
    "nested": (b'{"a":' * 1500 + b"1" + b"}" * 1500, 400, "INVALID_ARGUMENT"),
    "brackets": (b'{"a":' + b"[" * 9000, 400, "INVALID_ARGUMENT"),
    "duplicate keys": (b'{"key": 1, "key": 2}', 400, "INVALID_ARGUMENT"),
    "hidden duplicate": (b'{"a": {"k": 1, "\\u006b": 2}}', 400, "INVALID_ARGUMENT"),
    "an array": (b"[]", 400, "INVALID_ARGUMENT"),
    "a long number": (b'{"a": ' + b"9" * 5000 + b"}", 400, "INVALID_ARGUMENT"),
    "too large": (b'{"a": "' + b"x" * LIMIT + b'"}', 413, "RESOURCE_EXHAUSTED"),
    "far too large": (b'{"a": "' + b"x" * 60 * LIMIT + b'"}', 413, "RESOURCE_EXHAUSTED"),
}


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(("body", "status", "code"), BODIES.values(), ids=BODIES)
def test_bodies(client, body, status, code, chunked):
    if status == 413 and isinstance(client, Http1):
        pytest.skip("a connection of its own, below")
    expect_problem(client.request(CALL, body, chunked=chunked), status, code)
    expect_service(client)


REQUESTS = {
    "no such namespace": ({"path": "/v1/nosuch/get"}, 404, "NOT_FOUND"),
    "no such operation": ({"path": "/v1/kv/nosuch"}, 404, "UNIMPLEMENTED"),
    "an encoded name": ({"path": "/v1/k%76/echo"}, 400, "INVALID_ARGUMENT"),
    "an encoded slash": ({"path": "/v1/kv%2Fecho"}, 400, "INVALID_ARGUMENT"),
    "upper case": ({"path": "/v1/KV/echo"}, 400, "INVALID_ARGUMENT"),
    "dots": ({"path": "/v1/../echo"}, 400, "INVALID_ARGUMENT"),
    "an empty name": ({"path": "/v1//echo"}, 400, "INVALID_ARGUMENT"),
    "a query": ({"path": CALL + "?a=1"}, 400, "INVALID_ARGUMENT"),
    "another path": ({"path": "/v2/kv/echo"}, 404, "NOT_FOUND"),
    "a slash too many": ({"path": CALL + "/"}, 404, "NOT_FOUND"),
    "a long name": ({"path": "/v1/" + "a" * 64 + "/echo"}, 400, "INVALID_ARGUMENT"),
    "GET": ({"path": CALL, "method": "GET"}, 405, "UNIMPLEMENTED"),
    "PATCH": ({"path": CALL, "method": "PATCH"}, 405, "UNIMPLEMENTED"),
    "DELETE a namespace": ({"path": "/v1/kv", "method": "DELETE"}, 405, "UNIMPLEMENTED"),
    "wrong types": (
        {"path": "/v1/db/get", "body": b'{"key": 7}'},
        400,
        "INVALID_ARGUMENT",
    ),
    "unknown field": (
        {"path": "/v1/db/get", "body": b'{"key": "a", "kee": 1}'},
        400,
        "INVALID_ARGUMENT",
    ),
    "compressed": ({"headers": [("content-encoding", "gzip")]}, 400, "INVALID_ARGUMENT"),
    "streams": ({"headers": [("accept", "text/event-stream")]}, 400, "INVALID_ARGUMENT"),
    **{
        f"timeout {value!r}": ({"headers": [("prism-timeout", value)]}, 400, "INVALID_ARGUMENT")
        for value in ("5", "0s", "-1s", "1h", "ms", "1e3s", "9" * 40 + "s", "1s, 2s", "\xb2s")
    },
}


@pytest.mark.parametrize(("request_", "status", "code"), REQUESTS.values(), ids=REQUESTS)
def test_requests(client, request_, status, code):
    arguments = {"path": CALL, **request_}
    expect_problem(client.request(**arguments), status, code)
    expect_service(client)


def expect_problem(answer, status, code):
    seen, headers, body = answer
    assert headers["content-type"] == "application/problem+json"
    problem = json.loads(body)
    assert (seen, problem["status"], problem["code"]) == (status, status, code)
    assert problem["detail"]
    assert problem["request_id"] == headers["x-request-id"]
    assert "Traceback" not in problem["detail"]
    assert "prism." not in problem["detail"]


def expect_service(client):
    status, headers, body = client.request(CALL, b'{"again":1}')
    assert (status, headers["content-type"], body) == (200, "application/json", b'{"again":1}')


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [LIMIT, 60 * LIMIT])
def test_a_body_over_the_limit_is_answered_on_http1_too(proxy, chunked, size):
    """What follows of the body is either read, and the connection goes on, or it closes."""
    client = Http1(proxy.port)
    body = b'{"a": "' + b"x" * size + b'"}'
    answer = client.request(CALL, body, chunked=chunked, may_close=True)
    expect_problem(answer, 413, "RESOURCE_EXHAUSTED")
    client.close()
    client = Http1(proxy.port)
    expect_service(client)
    client.close()


def test_data_after_a_413_harms_no_other_stream(proxy):
    client = Http2Client(proxy.port)
    large = client.open(CALL, headers=(("content-length", str(10 * LIMIT)),))
    assert client.wait(large).status == 413
    if not client.responses[large].reset:
        client.data(large, b"x" * 10 * LIMIT, end=True)
    again = client.request(CALL, b'{"again":1}')
    assert (again.status, again.body, client.goaways) == (200, b'{"again":1}', [])
    client.close()


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/kv/echo HTTP/1.1\r\nhost: a\r\nx: a\rb\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /v1/kv/echo HTTP/1.1\r\nhost: a\r\nx: a\0b\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /v1/kv/echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"POST /v1/kv/echo HTTP/1.1\r\nhost: a\r\ncontent-length: -2\r\n\r\n{}",
        b"POST /v1/kv/echo HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}",
        b"GET /v1 HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
        b"nonsense\r\n\r\n",
    ],
    ids=[
        *("cr", "nul", "two lengths", "negative", "no host", "huge", "tls", "nonsense"),
    ],
)
def test_heads_that_are_no_http(proxy, head):
    client = Http1(proxy.port)
    sock = client.connection.sock
    sock.sendall(head)
    answer = b""
    while chunk := sock.recv(65536):
        answer += chunk
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
    assert b"set-cookie" not in answer
    client.close()
    healthy = Http1(proxy.port)
    expect_service(healthy)
    healthy.close()


@pytest.mark.parametrize("value", ["a\r\nset-cookie: x=1", "a b", "\u00e9", "x" * 200, ""])
def test_a_request_id_unfit_for_logs_is_replaced(proxy, value):
    client = Http2Client(proxy.port)
    response = client.request(CALL, headers=(("x-request-id", value),))
    if "\r" in value:  # is no HTTP at all
        assert response.status == 0
    else:
        assert response.status == 200
        assert response.headers["x-request-id"] != value
        assert "set-cookie" not in response.headers
    client.close()


def test_huge_headers_over_http2(proxy):
    client = Http2Client(proxy.port)
    response = client.request(CALL, headers=tuple((f"x-{n}", "y" * 4000) for n in range(25)))
    assert response.status in {0, 431}
    client.close()
    again = Http2Client(proxy.port)
    assert again.request(CALL).status == 200
    again.close()


def test_headers_that_imitate_identity_have_no_effect(proxy):
    client = Http2Client(proxy.port)
    forged = (("prism-principal", "admin"), ("prism-namespace", "db"), ("x-secret", "1"))
    metadata = json.loads(client.request("/v1/kv/metadata", headers=forged).body)
    assert metadata["prism-principal"] == "anonymous"
    assert metadata["prism-namespace"] == "kv"
    assert "x-secret" not in metadata
    client.close()
