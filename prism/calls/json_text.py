"""Checks that a request body is one JSON object, without building its values.

Plugins get the text as it came, so they must be able to rely on it whatever
JSON library they use. Refused, beside broken syntax: duplicate keys (libraries
disagree on which one counts, which is how filters are bypassed), deep nesting,
and numbers that not every library can hold.

``native/json`` does it in one pass, in C. Here is its twin, which serves where that is
not built, and which says what is wrong with a body that either has refused.

How the twin stays cheap: msgspec checks the syntax and returns the top-level keys with
their values unparsed. Every key of the document, at any level, has a colon of
its own outside of strings. So as many colons as there are distinct top-level
keys means: no nested keys, no duplicates. Only other bodies are parsed once more.
"""

import json
import math
import re
from itertools import accumulate
from typing import Any, NoReturn

import msgspec

from prism.contract.errors import InvalidRequest, RefusedParams
from prism.contract.json_words import in_json_words

BODY = "the body"
UNSTREAMED = "the body of lines"
"""The place of a body whose type is lines, in a call that asks for no stream."""
FIRST_LINE = "line 1 of the body"
_WAYS_OUT = {
    UNSTREAMED: "; for a stream, send accept: application/x-ndjson",
    FIRST_LINE: "; does each message have a line? curl keeps lines with --data-binary, not with -d",
}
"""What to do where there is more than one JSON object, by place."""
MAX_DEPTH = 128
"""Levels of nesting. Deeper data is an attack on recursive parsers, or a mistake."""

MAX_NUMBER_LENGTH = 309
"""Characters in one number: a double needs no more, and longer ones cost quadratic time."""

_top_level = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_SPACE_BEFORE_COLON = re.compile(rb"[ \t\r\n]:")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_A_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_STEP = [1 if byte in b"[{" else -1 for byte in range(256)]
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# What may be a number that is too long or too large, or text in a string that looks like one.
# With an exponent of two digits it takes two hundred others to be too large.
_LONG_NUMBER = re.compile(rb"[\s:,\[][-+.0-9eE]{200}")
_LONG_EXPONENT = re.compile(rb"[0-9][eE]\+?[0-9]{3}")


def check_params(body: bytes | bytearray, place: str = BODY) -> str:
    """The text of ``body``, exactly as received; ``{}`` for an empty body.

    Raises:
        InvalidRequest: the body is not UTF-8, not JSON, not an object, or uses
            one of the things refused above. The message says what and where in ``place``.
    """
    if not is_params(body):
        refuse_params(body, place)
    return body.decode() or "{}"


def refuse_params(body: bytes | bytearray, place: str = BODY) -> NoReturn:
    """Say what is wrong with a body that is no params.

    Raises:
        InvalidRequest: always, as ``check_params`` does.
    """
    try:
        _check(body)
    except InvalidRequest as error:
        if place == BODY:
            raise
        what = error.detail
        said = what.removeprefix(BODY)
        error.detail = place + said if said != what else f"{place}: {what}"
        if "trailing characters" in said:
            error.detail += _WAYS_OUT.get(place, "")
        raise
    raise AssertionError("the check in C refuses a body that the one in Python accepts")


def is_params_in_python(body: bytes | bytearray) -> bool:
    """Whether ``check_params`` takes ``body``; ``is_params`` is this, or the same in C.

    That neither decodes nor copies the body, and lets other threads run meanwhile if it
    has 64 KiB or more.
    """
    try:
        _check(body)
    except InvalidRequest:
        return False
    return True


def _check(body: bytes | bytearray) -> None:
    if not body:
        return
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"the body is not UTF-8: {error.reason} at byte {error.start}"
        ) from None
    try:
        top_level = _top_level(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(
            f"the body must be a JSON object: {in_json_words(str(error))}"
        ) from None
    except msgspec.DecodeError as error:
        _refuse_syntax(body, error)
    except RecursionError:
        _refuse_depth()
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(body)
    keys = len(top_level)
    is_flat = body.count(b":") == keys or (
        body.count(b'":') == keys and _SPACE_BEFORE_COLON.search(body) is None
    )
    if not is_flat or _LONG_NUMBER.search(body) or _LONG_EXPONENT.search(body):
        _check_keys_and_numbers(text)


def _refuse_syntax(body: bytes | bytearray, error: msgspec.DecodeError) -> NoReturn:
    if "truncated" not in str(error):
        what = str(error).removeprefix("JSON is malformed: ")
        raise InvalidRequest(f"the body is not JSON: {what}") from None
    if _SURROGATE.search(body):
        raise InvalidRequest("the body holds half of a surrogate pair, or ends early") from None
    raise InvalidRequest(f"the body is not JSON: it ends early, after byte {len(body)}") from None


def _refuse_depth() -> NoReturn:
    raise InvalidRequest(f"the body is nested more than {MAX_DEPTH} levels deep") from None


def _check_depth(body: bytes | bytearray) -> None:
    brackets = _STRING.sub(b"", body).translate(None, _NOT_A_BRACKET)
    if max(accumulate(map(_STEP.__getitem__, brackets))) > MAX_DEPTH:
        _refuse_depth()


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) == len(pairs):
        return
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise RefusedParams(
                f"the body has the key {_shorten(key)} twice in one object",
                "the params have a key twice in one object",
            )
        seen.add(key)


def _check_number(digits: str) -> None:
    if len(digits) > MAX_NUMBER_LENGTH:
        raise InvalidRequest(
            f"the body has a number of {len(digits)} characters; the limit is {MAX_NUMBER_LENGTH}"
        )
    if math.isinf(float(digits)):
        raise RefusedParams(
            f"the number {_shorten(digits)} is too large for a 64-bit float",
            "the params have a number that is too large for a 64-bit float",
        )


_check_keys_and_numbers = json.JSONDecoder(
    object_pairs_hook=_check_keys, parse_int=_check_number, parse_float=_check_number
).decode
"""Parses a text that is known to be valid JSON and of bounded depth."""


def _shorten(text: str) -> str:
    return json.dumps(text if len(text) <= 64 else text[:64] + "…", ensure_ascii=False)


def is_never_plain(_body: bytes | bytearray) -> bool:
    """Stands for ``is_plainly_params``, which says quickly that a large body is params if it has
    few values, such as one long text. Where it does not, the body may be params all the same;
    in Python there is no quick way."""
    return False


try:
    from prism.calls._json import is_params as is_params
    from prism.calls._json import is_plainly_params as is_plainly_params

    IS_COMPILED = True
except ImportError:
    is_params, is_plainly_params, IS_COMPILED = is_params_in_python, is_never_plain, False

LARGE_BODY = (512 if IS_COMPILED else 64) * 1024
"""Bytes from which the check may take longer than a way to another thread and back."""

LARGEST_PLAIN = 2 * 1024 * 1024
"""Bytes up to which a body is looked at before that, for being plain: that takes a tenth of a
millisecond, mostly, and a few at most."""
