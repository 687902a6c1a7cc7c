import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.calls.trace import parse_trace

ID = b"0af7651916cd43dd8448eb211c80319c"
GOOD = b"00-" + ID + b"-b7ad6b7169203331-01"


def test_valid():
    trace = parse_trace(GOOD, b"a=1,b=2")
    assert (trace.trace_id, trace.parent, trace.state) == (ID.decode(), GOOD.decode(), "a=1,b=2")


@pytest.mark.parametrize("later", [b"01" + GOOD[2:], b"cc" + GOOD[2:] + b"-what-ever"])
def test_a_later_version_is_sent_on_as_version_00(later):
    assert parse_trace(later).parent == GOOD.decode()


@pytest.mark.parametrize(
    "given_value",
    [
        b"",
        GOOD.upper(),
        GOOD + b"-",
        GOOD + b"\n",
        GOOD[:-1],
        b"ff" + GOOD[2:],
        b"01" + GOOD[2:] + b"x",
        GOOD.replace(ID, b"0" * 32),
        GOOD.replace(b"b7ad6b7169203331", b"0" * 16),
        GOOD + b"," + GOOD,
    ],
)
def test_invalid(given_value):
    assert parse_trace(given_value) is None


@pytest.mark.parametrize("state", [b"a=\n", b"a=\xff", b"x" * 513])
def test_bad_state_is_dropped_alone(state):
    assert parse_trace(GOOD, state).state == ""


@given(parent=st.binary(max_size=80), state=st.binary(max_size=20))
def test_nothing_but_printable_ascii_gets_through(parent, state):
    trace = parse_trace(parent, state)
    if trace is not None:
        assert (trace.parent + trace.state).isprintable()
    assert parse_trace(GOOD, state).state.isprintable()
