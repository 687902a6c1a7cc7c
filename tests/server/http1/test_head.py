import h11
import pytest

from prism.server.asgi import BadRequest
from prism.server.http1.head import check_head, check_raw_head, origin_form


def head(sent: bytes, host: bytes = b"a") -> h11.Request:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(sent + b"host: " + host + b"\r\n\r\n")
    request = connection.next_event()
    assert isinstance(request, h11.Request), "h11 refuses this by itself now"
    return request


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n", 400),
        (b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n", 400),
        (b"GET / HTTP/2.0\r\n", 505),
    ],
)
def test_what_h11_takes_and_a_proxy_must_not(sent, status):
    with pytest.raises(BadRequest) as caught:
        check_head(head(sent))
    assert caught.value.status == status


@pytest.mark.parametrize(
    "sent",
    [
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 3\r\n",
        b"POST / HTTP/1.0\r\ncontent-length: 3\r\n",
        b"GET / HTTP/1.0\r\n",
        b"GET / HTTP/1.2\r\n",
    ],
)
def test_what_is_served(sent):
    check_head(head(sent))


@pytest.mark.parametrize(
    "host",
    [b"a, b", b"a b", b"a/b", b"u@a", b"a:80:80", b"a:x", b"[::1", b"[g]", b"a\xff", b"a?", b"a#"],
)
def test_a_host_that_is_none(host):
    with pytest.raises(BadRequest, match="host"):
        check_head(head(b"GET / HTTP/1.1\r\n", host))


@pytest.mark.parametrize(
    "host", [b"a", b"a.example.org:443", b"[::1]:80", b"127.0.0.1", b"", b"a:"]
)
def test_a_host_that_is_one(host):
    check_head(head(b"GET / HTTP/1.1\r\n", host))


@pytest.mark.parametrize(
    ("received", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: a\ncontent-length: 3\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nhost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\n", 400),
        (b"GET / HTTP/1.1\r\nx: a\r\n b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\ntransfer-encoding:\r\n\tchunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 6 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 8, 431),
    ],
)
def test_bytes_that_are_refused_before_they_are_parsed(received, status):
    with pytest.raises(BadRequest) as caught:
        check_raw_head(received, 1000, 5)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "received",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r",
        b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 5 + b"\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\n\r\n" + b"body\n body\n" * 100,
    ],
)
def test_bytes_that_may_be_parsed(received):
    check_raw_head(received, 1000, 5)


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"/x?y", b"/x?y", b"a"),
        (b"http://b/x?y", b"/x?y", b"b"),
        (b"HTTPS://b:1", b"/", b"b:1"),
        (b"http://b?y", b"/?y", b"b"),
        (b"http://b//x", b"//x", b"b"),
        (b"http:///x", b"http:///x", b"a"),  # refused later: no path
        (b"http://u@b/x", b"http://u@b/x", b"a"),
        (b"http://b/x#y", b"http://b/x#y", b"a"),
        (b"ftp://b/x", b"ftp://b/x", b"a"),
    ],
)
def test_the_origin_form_of_a_target(target, path, host):
    headers = [(b"x", b"y"), (b"host", b"a")]
    found, changed = origin_form(target, headers)
    assert (found, sorted(changed)) == (path, [(b"host", host), (b"x", b"y")])
