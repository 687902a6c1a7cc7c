import h11
import pytest

from prism.frontends.server.asgi import BadRequest
from prism.frontends.server.http1.head import check_head


def head(sent: bytes) -> h11.Request:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(sent + b"host: a\r\n\r\n")
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
