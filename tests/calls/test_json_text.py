import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prism.calls.json_text import MAX_DEPTH, MAX_NUMBER_LENGTH, check_params
from prism.contract.errors import InvalidRequest

MIB = 1024 * 1024


def nested(depth, inner=b"1"):
    """An object whose deepest level is ``depth``."""
    return b'{"a":' + b"[" * (depth - 1) + inner + b"]" * (depth - 1) + b"}"


ACCEPTED = [
    b"{}",
    b' \t\r\n{ "a" : 1 } ',
    b'{"a:b":"c:d","e":":"}',
    b'{"\\"":"\\":"}',
    b'{"a" :"b :"}',
    b'{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}',
    b'{"a":1.5e300,"b":-0.0,"c":1e-999}',
    '{"a":"\U0001f600","b":"\\ud83d\\ude00"}'.encode(),
    b'{"1e999":"1e999"}',
    b'{"a":%s}' % (b"9" * 308),
    nested(MAX_DEPTH),
    b'{"a":"%s"}' % (b"[{" * 1000),
]


@pytest.mark.parametrize("body", ACCEPTED)
def test_accepted_as_it_came(body):
    assert check_params(body).encode() == body


def test_nothing_means_no_parameters():
    assert check_params(b"") == "{}"


REFUSED = [
    (b"\xff{}", "not UTF-8: invalid start byte at byte 0"),
    (b'{"a":"b\xed\xa0\x80"}', "not UTF-8: invalid continuation byte at byte 7"),
    (b'{"a":"\xc3"}', "byte 6"),
    (b"\xef\xbb\xbf{}", "byte 0"),
    (b" ", "ends early"),
    (b"{", "ends early, after byte 1"),
    (b'{"a":-}', "the body is not JSON: invalid character (byte 6)"),
    (b"{} {}", "trailing"),
    (b"{'a':1}", "byte 1"),
    (b'{"a":NaN}', "byte 5"),
    (b'{"a":Infinity}', "byte 5"),
    (b'{"a":"\x00"}', "byte 6"),
    (b'{"a":"\\ud800"}', "surrogate"),
    (b'{"a":"\\ud800x"}', "surrogate"),
    (b"[]", "must be a JSON object"),
    (b"null", "must be a JSON object"),
    (b'"{}"', "must be a JSON object"),
    (b'{"a":1,"a":2}', 'key "a" twice'),
    (b'{"a":1,"\\u0061":2}', 'key "a" twice'),
    (b'{"a" :1,"a":":"}', 'key "a" twice'),
    (b'{"a":{"b":1,"b":1}}', 'key "b" twice'),
    (b'{"a":[[{"b":{},"b":1}]]}', 'key "b" twice'),
    (b'{"":1,"":"a:b"}', 'key "" twice'),
    (b'{"%s":1,"%s":2}' % (b"k" * 1000, b"k" * 1000), "…"),
    (nested(MAX_DEPTH + 1), f"more than {MAX_DEPTH} levels"),
    (nested(3000), f"more than {MAX_DEPTH} levels"),
    (b'{"a":%s1%s}' % (b'["]",' * MAX_DEPTH, b"]" * MAX_DEPTH), "levels"),
    (b'{"a":1e999}', '"1e999" is too large'),
    (b'{"a":[-1E+999]}', '"-1E+999" is too large'),
    (b'{"a":%s}' % (b"9" * (MAX_NUMBER_LENGTH + 1)), "number of 310 characters"),
    (b'{"a":0.%s}' % (b"9" * MAX_NUMBER_LENGTH), "number of 311 characters"),
    # Bombs: refused without taking memory or time.
    (b"[" * MIB, "must be a JSON object"),
    (b'{"a":' + b"[" * MIB, "levels"),
    (b'{"a":' * 200_000, "levels"),
    (b'{"a":%s}' % (b"1" * 100_000), "number of 100000 characters"),
    (b'{"a":0.%s}' % (b"3" * MIB), "characters"),
]


@pytest.mark.parametrize(("body", "says"), REFUSED, ids=lambda value: str(value[:24]))
def test_refused(body, says):
    with pytest.raises(InvalidRequest) as caught:
        check_params(body)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("body", "says"),
    [(b"{", "line 3 is not JSON: "), (b'{"a":1e999}', 'line 3: the number "1e999" is too large')],
)
def test_the_place_is_named(body, says):
    with pytest.raises(InvalidRequest) as caught:
        check_params(body, "line 3")
    assert str(caught.value).startswith(says)


def test_large_but_honest():
    colliding = {str(number * (2**61 - 1)): 1 for number in range(30_000)}
    for value in (colliding, {"a": [[]] * 300_000}, {"a": [{}] * 300_000}):
        body = json.dumps(value).encode()
        assert check_params(body).encode() == body


def reference(body):
    """Whether a body is fine, by the standard library alone."""

    def unique(pairs):
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("twice")
        return dict(pairs)

    def refuse(constant):
        raise ValueError(constant)

    try:
        text = body.decode()
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()
        return isinstance(value, dict)
    except ValueError:
        return False


pieces = st.sampled_from(
    [*'{}[],: "\\a1é', "e9", "1.5", "null", '"a"', '"b":', '"a":', '"a" :', "\\u0061", "\\ud800"]
)


class Pairs(list):
    """An object, as a list of pairs: keys may repeat."""


def objects(inner):
    return st.lists(st.tuples(st.sampled_from(["a", "b", ":", '"']), inner)).map(Pairs)


numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | numbers | st.text(':{}[]" \\aé')
values = st.recursive(scalars, lambda inner: st.lists(inner) | objects(inner))


def render(value, space):
    if isinstance(value, Pairs):
        members = (f"{json.dumps(key)}{space}:{render(inner, space)}" for key, inner in value)
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + f",{space}".join(render(inner, space) for inner in value) + "]"
    return json.dumps(value)


def accepts(body):
    try:
        return check_params(body).encode() == body
    except InvalidRequest:
        return False


@given(pairs=objects(values), space=st.sampled_from(["", " ", "\n"]))
def test_agrees_with_the_standard_library_on_documents(pairs, space):
    body = render(pairs, space).encode()
    assert accepts(body) == reference(body)


@given(body=st.lists(pieces, min_size=1).map("".join).map(str.encode) | st.binary(min_size=1))
@example(b"\xed\xa0\x80")
def test_agrees_with_the_standard_library_on_noise(body):
    assert accepts(body) == reference(body)
