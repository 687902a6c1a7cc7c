"""Which parser serves, and what each makes of fields. `test_parser` compares the two further."""

import sys
from importlib.metadata import version

import pytest

from prism.server.http1.fields import MalformedFields, ParserUnavailable, choose
from prism.server.settings import ServerSettings


@pytest.fixture
def fresh(monkeypatch):
    choose.cache_clear()
    yield monkeypatch
    choose.cache_clear()


def test_the_fastest_that_is_there_serves(fresh):
    assert str(choose("")) == f"httptools {version('httptools')}"
    assert str(choose("h11")) == f"h11 {version('h11')}"


def test_without_httptools_h11_serves(fresh):
    fresh.setitem(sys.modules, "httptools", None)
    assert choose("").name == "h11"


@pytest.mark.parametrize("name", ["httptools", "picohttp"])
def test_asking_for_what_is_not_there_is_an_error_with_the_way_out(fresh, name):
    fresh.setitem(sys.modules, "httptools", None)
    with pytest.raises(ParserUnavailable, match=f"PRISM_HTTP1_PARSER={name}: .*set it to h11"):
        choose(name)


def test_the_environment_decides(monkeypatch):
    monkeypatch.setenv("PRISM_HTTP1_PARSER", "h11")
    assert ServerSettings().http1_parser == "h11"
    monkeypatch.delenv("PRISM_HTTP1_PARSER")
    assert ServerSettings().http1_parser == ""


@pytest.mark.parametrize(
    ("lines", "headers"),
    [
        (b"", []),
        (b"Host: a\r\n", [(b"host", b"a")]),
        (b"a:\r\nB:\t \r\n", [(b"a", b""), (b"b", b"")]),
        (b"a:b\r\na: \tc  d\t \r\n", [(b"a", b"b"), (b"a", b"c  d")]),
        (b"a: \x80\xff\r\n", [(b"a", b"\x80\xff")]),
        (b"!#$%&'*+-.^_`|~09: :\r\n", [(b"!#$%&'*+-.^_`|~09", b":")]),
        (
            b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 4\r\nx: y\r\n",
            [
                *((b"connection", b"upgrade"), (b"upgrade", b"websocket")),
                *((b"content-length", b"4"), (b"x", b"y")),
            ],
        ),
        (b"host: a\r\nconnection: close\r\n", [(b"host", b"a"), (b"connection", b"close")]),
    ],
)
def test_fields(parser_name, lines, headers):
    assert choose(parser_name).parse(lines + b"\r\n") == headers


@pytest.mark.parametrize(
    "line",
    [
        *(b"a", b": b", b"a : b", b"a\t: b", b" a: b", b"a b: c", b"a(: b", b"\xe4: b", b"a\0: b"),
        *(b"a: b\rc: d", b"a: \x00", b"a: \x01", b"a: \x1b", b"a: \x7f", b"a: \x0bb", b"a: \rb"),
        *(b"content-length: 4\r\ncontent-length: 4", b"content-length: 4\r\nContent-Length: 5"),
        *(b"Content-Length: 4,4", b"content-length: 4, 4", b"content-length: +4"),
        *(b"content-length: 4 4", b"content-length: 0x4", b"content-length: -0"),
        b"content-length: ",
    ],
)
@pytest.mark.parametrize("place", [b"%b\r\n\r\n", b"x: y\r\n%b\r\n\r\n", b"%b\r\nx: y\r\n\r\n"])
def test_fields_that_are_malformed(parser_name, line, place):
    with pytest.raises(MalformedFields):
        choose(parser_name).parse(place % line)
