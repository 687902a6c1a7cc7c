"""That nothing is a chunked body here which is none, or another, elsewhere.

What is taken and what refused stands in `test_parser`'s table; here llhttp and h11, whose readers
of chunks do not serve, bear witness.
"""

import h11
import httptools
from hypothesis import given, settings
from hypothesis import strategies as st

from prism.server.http1.chunks import ChunkedBody
from prism.server.problems import BadRequest

HEAD = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


def by_llhttp(data: bytes) -> bytes:
    class Pieces:
        body = b""
        complete = False

        def on_body(self, data):
            self.body += data

        def on_message_complete(self):
            self.complete = True

    pieces = Pieces()
    httptools.HttpRequestParser(pieces).feed_data(HEAD + data)
    assert pieces.complete
    return pieces.body


def by_h11(data: bytes) -> tuple[bytes, bytes]:
    connection, body = h11.Connection(h11.SERVER), b""
    connection.receive_data(HEAD + data)
    connection.next_event()
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        body += event.data
    return body, connection.trailing_data[0]


pieces = st.one_of(
    st.binary(min_size=1, max_size=20).map(lambda data: b"%x\r\n%b\r\n" % (len(data), data)),
    st.sampled_from(
        [
            *(b"4;a=b\r\nbody\r\n", b"0\r\n", b"\r\n", b"0\r\n\r\n", b"4\r\nbody\r\n", b"x: y\r\n"),
            *(b"\n", b"\r", b";", b" ", b"0", b"0004\r\n0\r\n\r\r\n", b"1;\r\nx\r\n"),
        ]
    ),
)


@settings(max_examples=1000, deadline=None)
@given(st.lists(pieces, max_size=6), st.sampled_from([b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b""]))
def test_what_is_taken_is_what_others_take(begin, end):
    data = b"".join(begin) + end
    chunks = ChunkedBody(1000, 10)
    try:
        body = chunks.decode(data)
    except BadRequest:
        return
    if not chunks.ended:
        return
    rest = chunks.rest
    assert by_llhttp(data[: len(data) - len(rest)]) == body
    assert by_h11(data) == (body, rest)
