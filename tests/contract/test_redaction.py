import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.contract.messages import ExecuteResponse, HealthCheckResponse
from prism.contract.redaction import Redaction

SPELLINGS = [str, quote, quote_plus, lambda secret: quote(secret, safe=""), repr, json.dumps]


@given(secret=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=4))
@pytest.mark.parametrize("spell", SPELLINGS)
def test_every_spelling_is_hidden(spell, secret):
    shown = Redaction({"password": secret}).text(f"<{spell(secret)}>")
    assert "[redacted]" in shown
    assert secret not in shown.replace("[redacted]", "")


def test_one_secret_within_another_leaves_no_rest():
    assert Redaction({"a": "abc", "b": "abcdef"}).text("abcdef abc") == "[redacted] [redacted]"


def test_what_is_no_secret_stays():
    assert Redaction({"empty": ""}).text("as it was") == "as it was"
    message = ExecuteResponse(error="as it was")
    assert Redaction().fields(message, "error") is message


def test_fields_of_messages():
    sick = HealthCheckResponse(message="pw", details={"a": "x pw", "b": "y"})
    hidden = Redaction({"password": "pw"}).fields(sick, "message", "details")
    assert hidden.message == "[redacted]"
    assert hidden.details == {"a": "x [redacted]", "b": "y"}


def test_tracebacks():
    try:
        raise ValueError("pw")
    except ValueError as error:
        shown = Redaction({"password": "pw"}).traceback(error)
    assert shown.endswith("ValueError: [redacted]")
