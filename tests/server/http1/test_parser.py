"""What is a request, what is none, and that neither parser nor cuts in the bytes change that.

Each case is received whole, byte by byte, and with more behind it. What a request must not be is
the smuggler's list: each of these was, in some server, read otherwise than in the one before it.
"""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prism.server.http1.chunks import MAX_EXTENSIONS
from prism.server.http1.parser import Body, ParserState, Request, RequestParser
from prism.server.problems import BadRequest
from prism.server.settings import ServerSettings

MALFORMED = "a header field is malformed"
NO_LINE = "does not begin with method, target and HTTP version"
NOT_BOTH = "content-length or transfer-encoding, not both"
NO_SIZE = "a line that holds its size"
NEXT = b"GET /next HTTP/1.1\r\nhost: b\r\n\r\n"


def new(parser_name: str, **limits) -> RequestParser:
    return RequestParser(ServerSettings(http1_parser=parser_name, **limits))


def receive(parser: RequestParser, pieces) -> list[tuple]:
    """Each request that ``pieces`` bring as (head, body, whether it has ended)."""
    requests: list[tuple] = []
    for piece in pieces:
        event = parser.receive(piece)
        while event is not None:
            if isinstance(event, Request):
                requests.append((event.head, event.body, event.ended))
            else:
                head, body, ended = requests.pop()
                assert not ended
                requests.append((head, body + event.data, event.ended))
            event = parser.next_request() if parser.state is ParserState.WHOLE else None
    return requests


def outcome(parser: RequestParser, pieces) -> list[tuple] | tuple[int, str]:
    try:
        return receive(parser, pieces)
    except BadRequest as error:
        return error.http_status, error.detail


def bytewise(data: bytes) -> list[bytes]:
    size = 1 if len(data) < 2000 else 101
    return [data[at : at + size] for at in range(0, len(data), size)]


def fields(*lines: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in (b"host: a", *lines)) + b"\r\n"


def get(*lines: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\n" + fields(*lines)


def chunked(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\n" + fields(b"Transfer-Encoding: chunked") + body


# -- requests --------------------------------------------------------------------------------------

GOOD = {
    "a request without a body": (get(), b""),
    "a body with its length": (
        b"POST / HTTP/1.1\r\n" + fields(b"content-length: 4") + b"body",
        b"body",
    ),
    "a length of nothing": (b"POST / HTTP/1.1\r\n" + fields(b"content-length: 0"), b""),
    "a length with zeros before it": (
        b"POST / HTTP/1.1\r\n" + fields(b"content-length:0004 ") + b"body",
        b"body",
    ),
    "a body with a GET": (b"GET / HTTP/1.1\r\n" + fields(b"content-length: 1") + b"x", b"x"),
    "no chunks": (chunked(b"0\r\n\r\n"), b""),
    "chunks": (
        chunked(b"4\r\nbody\r\n00a\r\n\r\n\r\n0\r\n\r\n0\r\n0\r\n\r\n"),
        b"body\r\n\r\n0\r\n\r\n0",
    ),
    "chunks of many sizes": (
        chunked(b"".join(b"%X\r\n%b\r\n" % (n, b"x" * n) for n in range(1, 40)) + b"000\r\n\r\n"),
        b"x" * sum(range(40)),
    ),
    "chunk extensions": (chunked(b'2;a=b;c="d\xff"\r\nxy\r\n0;z\r\n\r\n'), b"xy"),
    "trailers": (chunked(b"1\r\nx\r\n0\r\nA: b\r\nhost: c\r\ncontent-length: 9\r\n\r\n"), b"x"),
    "chunked in capitals": (
        b"POST / HTTP/1.1\r\n" + fields(b"TRANSFER-ENCODING: \tChunked ") + b"1\r\nx\r\n0\r\n\r\n",
        b"x",
    ),
    "an empty line before": (b"\r\n" + get(), b""),
    "empty lines before": (b"\r\n\r\n\r\n" + get(), b""),
    "HTTP/1.0": (b"POST / HTTP/1.0\r\ncontent-length: 1\r\n\r\nx", b"x"),
    "a client of h2c": (
        b"POST / HTTP/1.1\r\n"
        + fields(b"connection: upgrade", b"upgrade: h2c", b"content-length: 1")
        + b"x",
        b"x",
    ),
}


@pytest.mark.parametrize(("sent", "body"), GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("cut", [lambda data: [data], bytewise])
def test_a_request_and_the_one_behind_it(parser_name, sent, body, cut):
    requests = receive(new(parser_name), cut(sent + NEXT))
    assert [each[1:] for each in requests] == [(body, True), (b"", True)]
    assert requests[1][0].target == b"/next"


def test_an_ordinary_request_is_one_event(parser_name):
    parser = new(parser_name)
    sent = (
        b"POST /v1/demo/get?x=y HTTP/1.1\r\nHost: a:1\r\nAccept: */*\r\nContent-Length: 2\r\n"
        b"X-A: b \r\n\r\n{}"
    )
    assert not parser.begun
    event = parser.receive(sent)
    assert event.body == b"{}"
    assert event.ended
    head = event.head
    assert (head.method, head.target, head.version) == (b"POST", b"/v1/demo/get?x=y", "1.1")
    assert head.headers == [
        *((b"host", b"a:1"), (b"accept", b"*/*"), (b"content-length", b"2"), (b"x-a", b"b")),
    ]
    assert (head.length, head.keep_alive) == (2, True)
    assert not head.expects_continue
    assert not head.is_websocket
    assert parser.state is ParserState.WHOLE
    assert parser.next_request() is None
    assert not parser.begun


def test_a_body_is_told_of_as_it_comes(parser_name):
    parser = new(parser_name)
    sent = b"POST / HTTP/1.1\r\n" + fields(b"content-length: 6")
    event = parser.receive(sent + b"ab")
    assert (event.body, event.ended) == (b"ab", False)
    assert parser.receive(b"cd") == Body(b"cd", ended=False)
    assert parser.receive(b"ef") == Body(b"ef", ended=True)


def test_a_chunk_is_told_of_as_it_comes(parser_name):
    parser = new(parser_name)
    assert parser.receive(chunked(b"6\r\nab")).body == b"ab"
    assert parser.receive(b"cd") == Body(b"cd", ended=False)
    assert parser.receive(b"ef\r") == Body(b"ef", ended=False)
    assert parser.receive(b"\n1") is None
    assert parser.receive(b"\r\ng\r\n0") == Body(b"g", ended=False)
    assert parser.receive(b"\r\n\r\n") == Body(b"", ended=True)


def test_what_is_behind_a_request_waits_unparsed(parser_name):
    parser = new(parser_name)
    parser.receive(get() + b"not HTTP")
    assert parser.receive(b" at all\r\n\r\n") is None
    assert parser.unparsed == b"not HTTP at all\r\n\r\n"
    with pytest.raises(BadRequest, match=NO_LINE):
        parser.next_request()


def test_what_is_behind_a_websockets_handshake_is_raw(parser_name):
    parser = new(parser_name)
    event = parser.receive(get(b"connection: Upgrade", b"upgrade: WebSocket, x") + b"\x81\x05")
    assert event.head.is_websocket
    assert (event.body, event.ended) == (b"", True)
    assert parser.unparsed == b"\x81\x05"


def test_empty_lines_are_no_request_yet(parser_name):
    parser = new(parser_name)
    for piece in (b"\r", b"\n\r", b"\n", b"\r\n\r\n"):
        assert parser.receive(piece) is None
        assert not parser.begun
    parser.receive(b"G")
    assert parser.begun


@pytest.mark.parametrize(
    ("sent", "keep_alive"),
    [
        (get(), True),
        (get(b"connection: keep-alive"), True),
        (get(b"connection: close"), False),
        (get(b"Connection: x ,\tCLOSE"), False),
        (get(b"connection: x", b"connection: close", b"connection: y"), False),
        (get(b"connection: closed"), True),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", False),
    ],
)
def test_whether_the_connection_goes_on(parser_name, sent, keep_alive):
    assert new(parser_name).receive(sent).head.keep_alive is keep_alive


@pytest.mark.parametrize(
    ("sent", "expects"),
    [
        (get(b"Expect: 100-Continue", b"content-length: 1"), True),
        (get(b"expect: 200-ok", b"content-length: 1"), False),
        (b"GET / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n", False),
    ],
)
def test_who_waits_for_100_continue(parser_name, sent, expects):
    assert new(parser_name).receive(sent).head.expects_continue is expects


@pytest.mark.parametrize("version", [b"1.1", b"1.2", b"1.9"])
def test_later_versions_are_taken_for_the_one_that_is_spoken(parser_name, version):
    head = new(parser_name).receive(b"GET / HTTP/%b\r\nhost: a\r\n\r\n" % version).head
    assert head.version == "1.1"


@pytest.mark.parametrize(
    "method",
    [b"BREW", b"get", b"PROPFIND", b"QUERY", b"PRI", b"CONNECT", b"SOURCE", b"!#$%&'*+-.^_`|~09a"],
)
def test_any_token_is_a_method(parser_name, method):
    """Which are served is not the parser's business; llhttp would know some, each its own way."""
    sent = b"%b / HTTP/1.1\r\n" % method + fields(b"content-length: 1") + b"x"
    (request,) = receive(new(parser_name), [sent])
    assert request[0].method == method
    assert request[1:] == (b"x", True)


def test_an_absolute_target_goes_before_host(parser_name):
    head = new(parser_name).receive(b"GET HTTP://b:1/x HTTP/1.1\r\nhost: a\r\n\r\n").head
    assert (head.target, head.headers) == (b"/x", [(b"host", b"b:1")])


@pytest.mark.parametrize("target", [b"*", b"nopath", b"ftp://b/", b"http://u@b/", b"/\xff", b"a:1"])
def test_targets_that_are_for_others_to_judge(parser_name, target):
    assert (
        new(parser_name).receive(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % target).head.target
        == target
    )


# -- what is none ----------------------------------------------------------------------------------


def line(text: bytes) -> bytes:
    return text + b"\r\n" + fields()


BAD = {
    # the request line
    "not HTTP": (line(b"GARBAGE"), 400, NO_LINE),
    "HTTP/0.9": (line(b"GET /"), 400, NO_LINE),
    "HTTP/0.9 with a version": (line(b"GET / HTTP/0.9"), 505, "HTTP/1.0 and HTTP/1.1"),
    "HTTP/2.0": (line(b"GET / HTTP/2.0"), 505, "HTTP/1.0 and HTTP/1.1"),
    "HTTP/10.1": (line(b"GET / HTTP/10.1"), 400, NO_LINE),
    "HTTP/1.10": (line(b"GET / HTTP/1.10"), 400, NO_LINE),
    "HTTP/1": (line(b"GET / HTTP/1"), 400, NO_LINE),
    "HTTP/1,1": (line(b"GET / HTTP/1,1"), 400, NO_LINE),
    "http in small letters": (line(b"GET / http/1.1"), 400, NO_LINE),
    "another protocol": (line(b"GET / RTSP/1.0"), 400, NO_LINE),
    "no version and a space": (line(b"GET / "), 400, NO_LINE),
    "two spaces before the target": (line(b"GET  / HTTP/1.1"), 400, NO_LINE),
    "two spaces behind the target": (line(b"GET /  HTTP/1.1"), 400, NO_LINE),
    "a space behind the version": (line(b"GET / HTTP/1.1 "), 400, NO_LINE),
    "a space before the method": (line(b" GET / HTTP/1.1"), 400, NO_LINE),
    "a tab for a space": (line(b"GET\t/ HTTP/1.1"), 400, NO_LINE),
    "a vertical tab for a space": (line(b"GET\x0b/ HTTP/1.1"), 400, NO_LINE),
    "a space in the target": (line(b"GET /a b HTTP/1.1"), 400, NO_LINE),
    "NUL in the target": (line(b"GET /\0 HTTP/1.1"), 400, NO_LINE),
    "DEL in the target": (line(b"GET /\x7f HTTP/1.1"), 400, NO_LINE),
    "CR in the request line": (line(b"GET / HTTP/1.1\rx: y"), 400, NO_LINE),
    "no target": (line(b"GET HTTP/1.1"), 400, NO_LINE),
    "no method": (line(b"/ HTTP/1.1"), 400, NO_LINE),
    "a method that is no token": (line(b"GE(T / HTTP/1.1"), 400, NO_LINE),
    "a method that is not ASCII": (line(b"G\xcbT / HTTP/1.1"), 400, NO_LINE),
    "a byte order mark": (line(b"\xef\xbb\xbfGET / HTTP/1.1"), 400, NO_LINE),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + line(b""), 400, ""),
    # lines
    "LF for CRLF in the request line": (b"GET / HTTP/1.1\n" + fields(), 400, "CRLF"),
    "LF for CRLF behind a field": (b"GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n", 400, "CRLF"),
    "LF for the empty line": (b"GET / HTTP/1.1\r\nhost: a\r\n\n\r\n\r\n", 400, "CRLF"),
    "LF for all": (b"GET / HTTP/1.1\nhost: a\n\n", 400, "CRLF"),
    "an empty line that is LF": (b"\n" + get(), 400, "CRLF"),
    "an empty line that is LF, then CRLF": (b"\n\r\n" + get(), 400, "CRLF"),
    "CR in a value": (get(b"x: a\rb"), 400, MALFORMED),
    "CR before a name": (get(b"\rx: a"), 400, MALFORMED),
    "CR CR LF": (get(b"x: a\r"), 400, MALFORMED),
    "CR for CRLF": (b"GET / HTTP/1.1\rhost: a\r\r\r\n\r\n", 400, NO_LINE),
    "a folded field": (get(b"x: a", b" b"), 400, "on one line"),
    "a folded field with a tab": (get(b"x:", b"\ta"), 400, "on one line"),
    "a folded transfer-encoding": (get(b"transfer-encoding:", b" chunked"), 400, "on one line"),
    "a folded first field": (b"GET / HTTP/1.1\r\n " + fields(), 400, "on one line"),
    # fields
    "a space before the colon": (get(b"x : y"), 400, MALFORMED),
    "a tab before the colon": (get(b"x\t: y"), 400, MALFORMED),
    "a space before the colon of a length": (get(b"content-length : 4"), 400, MALFORMED),
    "a space before the colon of chunked": (get(b"transfer-encoding : chunked"), 400, MALFORMED),
    "no colon": (get(b"content-length"), 400, ""),
    "no name": (get(b": x"), 400, MALFORMED),
    "a space in a name": (get(b"content length: 4"), 400, MALFORMED),
    "a name that is no token": (get(b"x[y]: z"), 400, MALFORMED),
    "a name that is not ASCII": (get(b"x\xff: z"), 400, MALFORMED),
    "NUL in a name": (get(b"transfer-encoding\0: chunked"), 400, MALFORMED),
    "NUL in a value": (get(b"x: y\0z"), 400, MALFORMED),
    "a control character in a value": (get(b"x: y\x01z"), 400, MALFORMED),
    "DEL in a value": (get(b"x: \x7f"), 400, MALFORMED),
    # host
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "needs a host"),
    "no host in a later version": (b"GET / HTTP/1.2\r\nx: y\r\n\r\n", 400, "needs a host"),
    "an absolute target for a host": (b"GET http://a/ HTTP/1.1\r\n\r\n", 400, "needs a host"),
    "two hosts": (get(b"host: b"), 400, "one host"),
    "the same host twice": (get(b"Host: a"), 400, "one host"),
    "two hosts in HTTP/1.0": (b"GET / HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n", 400, "one host"),
    "two hosts in one": (b"GET / HTTP/1.1\r\nhost: a, b\r\n\r\n", 400, "host and port"),
    "a path in the host": (b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", 400, "host and port"),
    "a user in the host": (b"GET / HTTP/1.1\r\nhost: u@a\r\n\r\n", 400, "host and port"),
    # the length of the body
    "a length and chunks": (
        get(b"content-length: 4", b"transfer-encoding: chunked"),
        400,
        NOT_BOTH,
    ),
    "chunks and a length": (
        get(b"transfer-encoding: chunked", b"content-length: 4"),
        400,
        NOT_BOTH,
    ),
    "a length of 0 and chunks": (
        get(b"content-length: 0", b"transfer-encoding: chunked"),
        400,
        NOT_BOTH,
    ),
    "a length and another coding": (
        get(b"content-length: 4", b"transfer-encoding: gzip"),
        400,
        NOT_BOTH,
    ),
    "two lengths": (get(b"content-length: 4", b"content-length: 5"), 400, "one content-length"),
    "the same length twice": (
        get(b"content-length: 4", b"x: y", b"Content-Length: 4"),
        400,
        "one content-length",
    ),
    "two lengths in one": (get(b"content-length: 4, 5"), 400, "number of bytes"),
    "the same length twice in one": (get(b"content-length: 4,4"), 400, "number of bytes"),
    **{
        f"a length of {value!r}": (get(b"content-length: " + value), 400, "number of bytes")
        for value in (
            *(
                b"",
                b"+4",
                b"-4",
                b"4 4",
                b"0x4",
                b"4.0",
                b"4e0",
                b"4_0",
                b"four",
                b'"4"',
                b"4;",
                b"4,",
            ),
            *(b"\xb2", b"9" * 19, b"9" * 20, b"1" + b"0" * 400, b"18446744073709551616"),
        )
    },
    "chunks in HTTP/1.0": (
        b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "HTTP/1.0 has no",
    ),
    **{
        f"a transfer-encoding of {value!r}": (
            get(b"transfer-encoding: " + value),
            501,
            "is chunked",
        )
        for value in (
            *(b"", b"gzip", b"identity", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked"),
            *(b"chunked,", b",chunked", b"xchunked", b"chunkedx", b"chunked;x=y", b'"chunked"'),
            *(b"chunked\tx", b"chu nked", b"'chunked'"),
        )
    },
    "a transfer-encoding twice": (
        get(b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
        501,
        "is chunked",
    ),
    "a second transfer-encoding": (
        get(b"transfer-encoding: chunked", b"transfer-encoding: x"),
        501,
        "is chunked",
    ),
    "a first transfer-encoding": (
        get(b"transfer-encoding: x", b"transfer-encoding: chunked"),
        501,
        "is chunked",
    ),
    "a vertical tab before chunked": (get(b"transfer-encoding: \x0bchunked"), 501, "is chunked"),
    "a transfer-encoding that is not ASCII": (
        get(b"transfer-encoding: chun\xe2\x84\xaaed"),
        501,
        "is chunked",
    ),
    # chunks
    **{
        f"a size of {size!r}": (chunked(size + b"\r\nbody\r\n0\r\n\r\n"), 400, NO_SIZE)
        for size in (
            *(
                b"",
                b"0x4",
                b"+4",
                b"-4",
                b" 4",
                b"4 ",
                b"\t4",
                b"4\t",
                b"g",
                b"4,",
                b"4 ;x",
                b"\xb2",
            ),
            *(
                b"4;",
                b"4;=",
                b"4;a=",
                b"4;a b",
                b"4;a;;b",
                b'4;a="b',
                b'4;a="b"c',
                b"4\0",
                b"4\r",
                b"\r4",
                b"4;\x00",
                b"4;a\x01",
                b"4;a\r",
                b"4;a\rb",
                b"4h",
                b"0_4",
            ),
            *(b"1" + b"0" * 15, b"f" * 16, b"0" * 16 + b"4", b"ffffffff" * 3),
        )
    },
    "LF behind a size": (chunked(b"4\nbody\r\n0\r\n\r\n"), 400, NO_SIZE),
    "LF in an extension": (chunked(b"4;a\nbody\r\n0\r\n\r\n"), 400, NO_SIZE),
    "an empty line before a chunk": (chunked(b"\r\n0\r\n\r\n"), 400, NO_SIZE),
    "LF behind a chunk": (chunked(b"4\r\nbody\n0\r\n\r\n"), 400, "as long as its size"),
    "CR behind a chunk": (chunked(b"4\r\nbody\r0\r\n\r\n"), 400, "as long as its size"),
    "a chunk that is longer than its size": (
        chunked(b"4\r\nbodyxx\r\n0\r\n\r\n"),
        400,
        "as long as its size",
    ),
    "a chunk that is shorter": (chunked(b"6\r\nbody\r\n0\r\n\r\n"), 400, "as long as its size"),
    "nothing behind a chunk": (chunked(b"4\r\nbody0\r\n\r\n"), 400, "as long as its size"),
    "LF behind the last chunk": (chunked(b"0\n\r\n"), 400, NO_SIZE),
    "LF for the last line": (chunked(b"0\r\n\n"), 400, "trailer"),
    "a trailer with LF": (chunked(b"0\r\na: b\n\r\n"), 400, "trailer"),
    "a trailer that is folded": (chunked(b"0\r\na: b\r\n c\r\n\r\n"), 400, "trailer"),
    "a trailer without a colon": (chunked(b"0\r\na\r\n\r\n"), 400, "trailer"),
    "a trailer with a space before the colon": (chunked(b"0\r\na : b\r\n\r\n"), 400, "trailer"),
    "a trailer with NUL": (chunked(b"0\r\na: \0\r\n\r\n"), 400, "trailer"),
    "a trailer with CR": (chunked(b"0\r\na: b\rc: d\r\n\r\n"), 400, "trailer"),
    "a request for a trailer": (chunked(b"0\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n"), 400, "trailer"),
    # limits
    "a large head": (get(b"x: " + b"y" * 32_768), 431, "32768 bytes"),
    "a large head without an end": (b"GET / HTTP/1.1\r\nx: " + b"y" * 32_768, 431, "32768 bytes"),
    "a large request line": (b"GET /" + b"y" * 32_768, 431, "32768 bytes"),
    "many fields": (get(*[b"x:"] * 100), 431, "100 header fields"),
    "many fields without an end": (
        b"GET / HTTP/1.1\r\n" + b"x:\r\n" * 102,
        431,
        "100 header fields",
    ),
    "a large extension": (
        chunked(b"1;" + b"x" * MAX_EXTENSIONS + b"\r\n"),
        400,
        "extensions",
    ),
    "a large extension without an end": (
        chunked(b"1;" + b"x" * MAX_EXTENSIONS),
        400,
        "extensions",
    ),
    "many extensions": (chunked(b"1;abc\r\nx\r\n" * (MAX_EXTENSIONS // 3 + 1)), 400, "extensions"),
    "large trailers": (chunked(b"0\r\nx: " + b"y" * 32_768 + b"\r\n\r\n"), 431, "trailers"),
    "large trailers without an end": (chunked(b"0\r\nx: " + b"y" * 32_768), 431, "trailers"),
    "many trailers": (chunked(b"0\r\n" + b"x:\r\n" * 101 + b"\r\n"), 431, "trailers"),
    "many trailers without an end": (chunked(b"0\r\n" + b"x:\r\n" * 102), 431, "trailers"),
}


@pytest.mark.parametrize(("sent", "status", "words"), BAD.values(), ids=BAD)
def test_what_is_no_request(parser_name, sent, status, words):
    found = outcome(new(parser_name), [sent])
    assert found[0] == status
    assert words in found[1]
    assert outcome(new(parser_name), bytewise(sent)) == found
    assert outcome(new(parser_name), [NEXT + sent + NEXT])[0] == status


@pytest.mark.parametrize(
    "sent",
    [
        get(b"x: " + b"y" * (32_768 - len(get(b"x: ")))),
        get(*[b"x:"] * 99),
        chunked(b"1;" + b"x" * (MAX_EXTENSIONS - 1) + b"\r\nx\r\n0\r\n\r\n"),
        chunked(b"0\r\n" + b"x:\r\n" * 100 + b"\r\n"),
        chunked(b"0\r\nx:" + b"y" * (32_768 - 6) + b"\r\n\r\n"),
    ],
    ids=["head", "fields", "extensions", "trailers", "bytes of trailers"],
)
@pytest.mark.parametrize("cut", [lambda data: [data], bytewise])
def test_what_is_just_within_the_limits(parser_name, sent, cut):
    assert len(receive(new(parser_name), cut(sent + NEXT))) == 2


# -- both, and in pieces ---------------------------------------------------------------------------

PARTS = [
    *(b"GET", b"POST", b" ", b" ", b"/", b"*", b"http://b/", b"HTTP/1.1", b"HTTP/1.0", b"\r\n"),
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b":", b": ", b"host: a", b"Host", b"\0", b"\x01", b"\t"),
    *(b"content-length", b"Content-Length: 4", b"content-length: 4, 4", b"4", b"0", b"10", b"ff"),
    *(b"transfer-encoding: chunked", b"Transfer-Encoding", b"chunked", b"gzip", b",", b";", b"a=b"),
    *(b"connection: upgrade", b"upgrade: websocket", b"connection: close", b"body", b"\xff", b"x"),
]
HEADS = [
    b"GET / HTTP/1.1\r\nhost: a\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n",
]
streams = st.builds(
    lambda heads, parts: b"".join([*heads, *parts]),
    st.lists(st.sampled_from(HEADS), max_size=1),
    st.lists(st.sampled_from(PARTS), max_size=12),
)


@st.composite
def mutated(draw) -> bytes:
    data = bytearray(
        draw(
            st.sampled_from(
                [
                    sent
                    for sent, *_ in itertools.chain(GOOD.values(), BAD.values())
                    if len(sent) < 400
                ]
            )
        )
    )
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.sampled_from([b"", *PARTS]))
    return bytes(data)


@settings(max_examples=500, deadline=None)
@given(mutated() | streams, st.lists(st.integers(0, 400), max_size=4))
@example(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: CHUNKED\r\n\r\n0\r\n\r\n", [])
def test_neither_parser_nor_cuts_make_a_difference(data, cuts):
    edges = [0, *sorted(cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    found = []
    for cut in ([data], pieces, bytewise(data)):
        found.append(outcome(new("httptools"), cut))
        assert outcome(new("h11"), cut) == found[-1]
    if isinstance(found[0], tuple):  # of two faults, either may be seen first
        assert all(isinstance(each, tuple) for each in found)
    else:
        assert found[0] == found[1] == found[2]
