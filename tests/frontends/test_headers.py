import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.calls.overload import HIGH, LOW
from prism.contract.errors import InvalidRequest, UnsupportedContentType
from prism.frontends.headers import (
    _MEMORABLE,
    _REMEMBERED,
    RequestHeaders,
    _known,
    read_headers,
)


def headers(**values):
    return RequestHeaders(
        [(name.replace("_", "-").encode(), value.encode()) for name, value in values.items()]
    )


def test_nothing_given():
    none = headers()
    assert none.request_id() == ""
    assert none.trace() is None
    assert not none.is_particular
    assert none.timeout() is None
    assert none.content_length is None
    none.check_call()


@pytest.mark.parametrize("given_id", ["", "a b", "a\nb", "é", "x" * 129, "a,b"])
def test_unfit_request_ids_are_as_none(given_id):
    assert headers(x_request_id=given_id).request_id() == ""
    assert headers(x_request_id="Fit-1.2_3").request_id() == "Fit-1.2_3"


def test_a_header_twice_is_none_of_its_values():
    twice = RequestHeaders(
        [
            (b"x-request-id", b"one"),
            (b"x-request-id", b"two"),
            (b"prism-timeout", b"1s"),
            (b"prism-timeout", b"9s"),
            (b"content-length", b"1"),
            (b"content-length", b"2"),
        ]
    )
    assert twice.request_id() == ""
    assert twice.content_length is None
    with pytest.raises(InvalidRequest):
        twice.timeout()


def test_priorities():
    assert (headers().has_priority, headers().priority()) == (False, HIGH)
    low = headers(prism_priority="low")
    assert (low.has_priority, low.priority(), low.priority()) == (True, LOW, LOW)
    for wrong in ("", "LOW", "low,low", "urgent"):
        with pytest.raises(InvalidRequest, match="prism-priority must be high, normal or low"):
            headers(prism_priority=wrong).priority()


@pytest.mark.parametrize("value", ["", "-1", "+1", "1_0", "1" * 20, "ten"])
def test_content_lengths_that_are_none(value):
    assert headers(content_length=value).content_length is None


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        ("application/x-ndjson", True),
        ("Application/X-NDJSON; charset=utf-8", True),
        ("application/json", False),
        ("", False),
    ],
)
def test_bodies_of_lines(value, lines):
    assert headers(content_type=value).sends_lines is lines


def test_where_to_resume():
    assert headers().last_event_id() == ""
    assert headers(last_event_id="42:é").last_event_id() == "42:é"
    assert headers(last_event_id="#42").last_event_id() == ""
    for bad in (b"\xff", b"%FF", b"x" * 3073):
        with pytest.raises(InvalidRequest, match="last-event-id"):
            RequestHeaders([(b"last-event-id", bad)]).last_event_id()


NAMES = [b"x-request-id", b"traceparent", b"tracestate", b"prism-timeout", b"prism-principal"]


@given(pairs=st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=64))))
def test_nothing_unprintable_gets_through(pairs):
    read = RequestHeaders(pairs)
    assert "".join([read.request_id(), *(read.trace() or ())]).isprintable()


def test_what_is_known_of_headers_serves_the_next_request_that_has_the_same():
    plain = [(b"host", b"a"), (b"accept", b"*/*")]
    assert read_headers(plain) is read_headers(list(plain))
    assert read_headers(plain) is not read_headers([*plain, (b"accept", b"text/html")])


@pytest.mark.parametrize("name", [b"x-request-id", b"traceparent", b"tracestate", b"last-event-id"])
def test_headers_that_differ_from_request_to_request_are_not_kept(name):
    given = [(b"host", b"a"), (name, b"x")]
    assert read_headers(given) is not read_headers(given)


def test_what_is_large_is_not_kept():
    large = [(b"host", b"a"), (b"cookie", b"x" * _MEMORABLE)]
    assert read_headers(large) is not read_headers(large)


def test_what_is_kept_is_bounded():
    first = read_headers([(b"host", b"first")])
    for number in range(_REMEMBERED):
        read_headers([(b"host", b"%d" % number)])
    assert len(_known) <= _REMEMBERED
    assert read_headers([(b"host", b"first")]) is not first


def test_an_error_in_headers_is_every_requests_that_has_them():
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            read_headers([(b"prism-timeout", b"soon")]).timeout()
        with pytest.raises(InvalidRequest):
            read_headers([(b"content-encoding", b"gzip")]).check_call()


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("", True),
        ("application/json; charset=utf-8", True),
        ("application/problem+json", True),
        ("application/x-www-form-urlencoded", True),  # what ``curl -d`` says of everything
        ("text/plain", True),
        ("application/octet-stream", True),
        ("application/msgpack", False),
        ("Application/X-MsgPack", False),
        ("application/x-protobuf", False),
        ("application/soap+xml; charset=utf-8", False),
        ("text/xml", False),
        ("multipart/form-data; boundary=x", False),
    ],
)
def test_bodies_of_other_formats_are_refused_by_name(value, taken):
    asked = headers(content_type=value) if value else headers()
    if taken:
        asked.check_call()
        return
    with pytest.raises(UnsupportedContentType, match="send JSON"):
        asked.check_call()
