from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.calls.timeout import parse_timeout
from prism.contract.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("2s", 2), ("1.5s", 1.5), ("1min", 60), ("0.5ms", 0.0005), (" 3s\t", 3)],
)
def test_forms(text, seconds):
    assert parse_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "s",
        "0s",
        "0.0ms",
        "-1s",
        "1h",
        "1 s",
        "1e3s",
        ".5s",
        "1.s",
        "1S",
        "\u0661s",
        "1s,2s",
        "nans",
        "9" * 400 + "s",
    ],
)
def test_refused(text):
    with pytest.raises(InvalidRequest, match="250ms"):
        parse_timeout(text)


@given(text=st.text(max_size=20))
def test_noise_raises_one_class_of_error(text):
    with suppress(InvalidRequest):
        assert parse_timeout(text) > 0


def test_m_may_mean_both_and_is_asked_back():
    with pytest.raises(InvalidRequest, match="say 1000min or 1000ms"):
        parse_timeout("1000m")
