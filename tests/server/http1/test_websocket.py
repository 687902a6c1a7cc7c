import pytest

from prism.server.http1.fields import choose
from prism.server.http1.head import read_head
from prism.server.http1.websocket import check_handshake
from prism.server.problems import BadRequest

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n%b\r\n"
)


@pytest.mark.parametrize("more", [b"", b"content-length: 0\r\n"])
def test_a_handshake(more):
    check_handshake(read_head(HANDSHAKE % more, choose()))


@pytest.mark.parametrize("more", [b"content-length: 1\r\n", b"transfer-encoding: chunked\r\n"])
def test_a_handshake_has_no_body(more):
    with pytest.raises(BadRequest, match="no body"):
        check_handshake(read_head(HANDSHAKE % more, choose()))
