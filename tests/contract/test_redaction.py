import html
import json
import re
from base64 import b64encode, encodebytes, urlsafe_b64encode
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.contract.messages import ExecuteResponse, HealthCheckResponse
from prism.contract.redaction import MIN_PART, Redaction

SECRET = "QZ-hunter2/&<>QZ"


def base64(before="", after=""):
    return lambda secret: b64encode(f"{before}{secret}{after}".encode()).decode()


GO_ESCAPES = {ord("<"): r"\u003c", ord(">"): r"\u003e", ord("&"): r"\u0026"}
SPELLINGS = [
    str,
    quote,
    quote_plus,
    lambda secret: quote(secret, safe=""),
    lambda secret: re.sub("%..", lambda found: found[0].lower(), quote(secret)),
    repr,
    html.escape,
    json.dumps,
    lambda secret: json.dumps(json.dumps(secret)),
    lambda secret: json.dumps(secret).replace("/", r"\/"),
    lambda secret: json.dumps(secret, ensure_ascii=False),
    lambda secret: msgspec.json.encode(secret).decode(),
    lambda secret: json.dumps(secret).translate(GO_ESCAPES),
    base64(),
    lambda secret: urlsafe_b64encode(secret.encode()).decode().rstrip("="),
    lambda secret: secret.encode().hex(),
    lambda secret: secret.encode().hex().upper(),
]


@given(secret=st.text(st.characters(min_codepoint=32, max_codepoint=0x4FF), min_size=4))
@pytest.mark.parametrize("spell", SPELLINGS)
def test_every_spelling_is_hidden(spell, secret):
    shown = Redaction({"password": secret}).text(f"<{spell(secret)}>")
    assert "[redacted]" in shown
    assert secret not in shown.replace("[redacted]", "")


@given(secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=9))
@pytest.mark.parametrize("around", [("user:", ""), ("use:", "@host"), ("us:", "!"), ("", "x")])
def test_a_secret_within_other_base64_is_hidden(around, secret):
    """As the header of Basic authentication has it; a few bits at its ends may be seen."""
    shown = Redaction({"password": secret}).text(base64(*around)(secret))
    assert "[redacted]" in shown
    assert len(shown) <= len(base64(*around)("")) + len("[redacted]") + 4


@pytest.mark.parametrize(
    "key", ["username", "user", "user_id", "sasl_username", "db.user", "login", "client_id"]
)
def test_names_of_users_stay_and_spoil_no_word(key):
    said = "the application app (client app:5) has no relation app_accounts"
    redaction = Redaction({key: "app", "password": SECRET})
    assert redaction.text(said) == said
    assert redaction.text(f"app:{SECRET}@db") == "app:[redacted]@db"
    assert Redaction({key: SECRET, "password": SECRET}).text(SECRET) == "[redacted]"


@pytest.mark.parametrize("key", ["user_password", "username_token", "superuser", "client_secret"])
def test_what_is_not_surely_the_name_of_a_user_is_a_secret(key):
    assert Redaction({key: SECRET}).text(SECRET) == "[redacted]"


def test_the_lines_of_a_secret_are_hidden():
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\nAAAAB3NzaC1yc2EAAAAD\n-----END KEY-----\n"
    redaction = Redaction({"key": key})
    assert [redaction.text(line) for line in key.splitlines()] == [
        "[redacted]",  # as a secret that was cut off
        "[redacted]",
        "[redacted]",
        "-----END KEY-----",
    ]
    wrapped = encodebytes(b"a secret that is long, " * 8).decode().splitlines()
    hidden = Redaction({"key": "a secret that is long, " * 8})
    assert {hidden.text(line) for line in wrapped} == {"[redacted]"}


@pytest.mark.parametrize("shown", range(len(SECRET)))
def test_a_secret_that_was_cut_off_is_hidden(shown):
    redaction = Redaction({"password": SECRET})
    said = redaction.text("log in with " + SECRET[:shown])
    assert said == "log in with " + ("[redacted]" if shown >= MIN_PART else SECRET[:shown])


@given(before=st.integers(0, 60), after=st.integers(0, 60), limit=st.integers(0, 60))
def test_the_start_of_a_text_has_no_part_of_a_secret(before, after, limit):
    redaction = Redaction({"password": SECRET})
    text = "." * before + SECRET * 2 + "." * after
    shown = redaction.start_of(text[: limit + redaction.longest], limit)
    assert set(shown.replace("[redacted]", "")) <= set(".[redacted]")
    assert len(shown) <= max(limit, len("[redacted]") * 2)


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
