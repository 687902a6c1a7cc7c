import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.contract.errors import InvalidRequest
from prism.frontends.headers import RequestHeaders


def headers(**values):
    return RequestHeaders(
        [(name.replace("_", "-").encode(), value.encode()) for name, value in values.items()]
    )


def test_nothing_given():
    none = headers()
    assert len(none.request_id()) == 32
    assert none.trace().parent.startswith("00-")
    assert none.timeout() is None
    assert none.content_length() is None
    none.check_call()


@pytest.mark.parametrize("given_id", ["", "a b", "a\nb", "é", "x" * 129, "a,b"])
def test_unfit_request_ids_are_replaced(given_id):
    assert headers(x_request_id=given_id).request_id() != given_id
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
    assert twice.request_id() not in {"one", "two"}
    assert twice.content_length() is None
    with pytest.raises(InvalidRequest):
        twice.timeout()


@pytest.mark.parametrize("value", ["", "-1", "+1", "1_0", "1" * 20, "ten"])
def test_content_lengths_that_are_none(value):
    assert headers(content_length=value).content_length() is None


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
    assert headers(content_type=value).sends_lines() is lines


def test_where_to_resume():
    assert headers().last_event_id() == ""
    assert headers(last_event_id="42:é").last_event_id() == "42:é"
    assert headers(last_event_id="#42").last_event_id() == ""
    for bad in (b"\xff", b"x" * 1025):
        with pytest.raises(InvalidRequest, match="last-event-id"):
            RequestHeaders([(b"last-event-id", bad)]).last_event_id()


NAMES = [b"x-request-id", b"traceparent", b"tracestate", b"prism-timeout", b"prism-principal"]


@given(pairs=st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=64))))
def test_nothing_unprintable_gets_through(pairs):
    read = RequestHeaders(pairs)
    trace = read.trace()
    assert (read.request_id() + trace.trace_id + trace.parent + trace.state).isprintable()
