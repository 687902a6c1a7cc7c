"""The check in Python and the one in C (native/json), held against each other with every body."""

import json
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prism.calls.json_text import (
    IS_COMPILED,
    MAX_DEPTH,
    MAX_NUMBER_LENGTH,
    check_params,
    is_params,
    is_params_in_python,
    is_plainly_params,
    refuse_params,
)
from prism.contract.errors import InvalidRequest

KIB = 1024
MIB = 1024 * KIB
INFINITE = 2**1024 - 2**970
"""The least integer that a double cannot hold: it rounds to infinity."""


def test_the_one_in_c_is_there():
    """Else this file compares the other with itself."""
    if not IS_COMPILED:
        assert "CI" not in os.environ
        pytest.skip("native/json is not built: it needs a C compiler when Prism is installed")


def accepts(body):
    """The verdict, which is the same in both."""
    verdict = is_params(body)
    assert is_params_in_python(body) == verdict, body
    assert is_params(bytearray(body)) == verdict, body
    assert verdict or not is_plainly_params(body), body
    return verdict


def nested(depth, inner=b"1"):
    """An object whose deepest level is ``depth``."""
    return b'{"a":' + b"[" * (depth - 1) + inner + b"]" * (depth - 1) + b"}"


@pytest.mark.skipif(not IS_COMPILED, reason="in Python there is no quick way")
def test_few_values_are_plain_however_long_they_are():
    few, many = b"1," * 16_000, b"1," * 17_000
    assert is_plainly_params(b'{"a":"%s"}' % (b"x" * MIB))
    assert is_plainly_params(b'{"a":[%s1]}' % few)
    assert not is_plainly_params(b'{"a":[%s1]}' % many)
    assert is_params(b'{"a":[%s1]}' % many)
    assert not is_plainly_params(b'{"a":[%s]}' % few)


NUMBERS = [
    *("0", "-0", "-0.0", "10", "0.5e1", "1E5", "1e+05", "1e-5", "1.5e300", "1e-999", "0e999"),
    *("9" * 308, f"-{'9' * 306}.5", "0." + "0" * 306 + "1", f"0.{'0' * 250}1e500"),
    *(str(INFINITE - 1), f"{INFINITE}"[:307] + "e2", f"{INFINITE}"[:200] + "e109"),
    *(
        "1.7976931348623158e308",
        "17e307",
        "1797693134862315807e290",
        "1e308",
        "0.1e309",
        "0." + "0" * 99 + "1e0408",
    ),
    "1e-" + "0" * (MAX_NUMBER_LENGTH - 4) + "1",
]
TOO_LARGE = [
    *("1e999", "-1E+999", "1e309", "18e307", "0.1e310", "1.7976931348623159e308", "2" + "0" * 308),
    *("0." + "0" * 99 + "1e0410", str(INFINITE), "9" * 309, "9" * 250 + "e99"),
    *(f"{INFINITE}"[:306] + "9e2", "1e" + "9" * 300, "2e00308"),
]
_VALUES = r"""
    true false null [] {} [[]] [{}] [1,2] "" ":,]}" "//" "1e999" "é" "日本" "\"\\\/\b\f\n\r\t" "\\"
    "\u0000" "\uABCD\uabcd" "\uffff" "\ud83d\ude00" "\ud800\udc00\udbff\udfff" "\\ud800"
"""
VALUES = [
    *_VALUES.split(),
    *("[ ]", "{ }", "[\t1 ,\r2\n]", '"\x7f"', '"\u2028"', '"\uffff"', '"\U0001f600"'),
    *('"\U0010ffff"', '" "', *NUMBERS),
]
ACCEPTED = [
    b"{}",
    b' \t\r\n{ "a" : 1 } ',
    b'{"a:b":"c:d","e":":"}',
    b'{"\\"":"\\":"}',
    b'{"a" :"b :"}',
    b'{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}',
    b'{"a":1,"A":1,"":1,"a\\u0000":1,"\\u0000a":1,"aa":1,"\xc3\xa1":1}',
    b'{"1e999":"1e999"}',
    nested(MAX_DEPTH),
    b'{"a":' * (MAX_DEPTH - 1) + b"{}" + b"}" * (MAX_DEPTH - 1),
    b'{"a":"%s"}' % (b"[{" * 1000),
    *(f'{{"a":{value}}}'.encode() for value in VALUES),
    *(f'{{"a":{{"b":{value},"c":{value}}}}}'.encode() for value in VALUES),
]


@pytest.mark.parametrize("body", ACCEPTED)
def test_accepted_as_it_came(body):
    assert accepts(body)
    assert check_params(body).encode() == body


def test_nothing_means_no_parameters():
    assert accepts(b"")
    assert check_params(b"") == "{}"


def test_a_body_that_grows_is_taken_at_any_time():
    """In parts, as it comes; a bytearray moves its start and its end."""
    body = bytearray(b"dropped")
    for part in (b'{"a"', b":1", b"}", b" x"):
        body += part
        assert accepts(body[7:]) == (part == b"}")
    del body[:7], body[-2:]
    assert accepts(body)
    assert check_params(body) == '{"a":1}'
    with pytest.raises(InvalidRequest, match="ends early"):
        check_params(body[:-1])


_NOT_VALUES = r"""
    , : ; tru truE True nul nulll undefined a 'a' <a> # \ /**/1 1// NaN Infinity -Infinity
    - +1 --1 01 -01 00 1. .5 -.5 1.e5 1.5.5 1e 0e 1e+ 1e++5 1e5.5 0x1 1_0 1a
    [ ] [} {] [1 [1, [1,] [,1] [1,,2] [1:2] [[] []] { } {"b {"b" {"b"} {"b":} {"b":1 {"b":1,}
    {,"b":1} {"b":1]  {b:1} {1:1} {null:1} {"b"::1} {"b":1,,"c":2} {"b":1;"c":2} {"b",1}
    " "b "\x" "\0" "\B" "\U0061" "\" "\ "\\ "\u" "\u00" "\u00g0" "\u-123" "\u+123" "\u00
    "\ud800" "\ud800b" "\ud800\n" "\ud800\ud800" "\ud800\u0061" "\ud800\u" "\ud800\ "\ud800
    "\udc00" "\udfff\ud800" "\ud83d\ude0" "\ud83d\\de00" "\ud83d/ude00"
"""
NOT_VALUES = [
    *_NOT_VALUES.split(),
    *(
        "",
        " ",
        "1 2",
        "[1 2]",
        '{"b" 1}',
        '{"b":1 "c":2}',
        '"b" "c"',
        r'"\u 123"',
        "\xa01",
        "\u0661",
    ),
    *("\f1", "\v1", "\b", "\x7f", "1\0", "\u20601", "\ufeff1", '"\n"', '"\t"', '"\x1f"', '"\0"'),
    *("1" * (MAX_NUMBER_LENGTH + 1), "-" + "1" * MAX_NUMBER_LENGTH, f"0.{'1' * MAX_NUMBER_LENGTH}"),
    *("1e-" + "0" * MAX_NUMBER_LENGTH, "0e" + "0" * MAX_NUMBER_LENGTH, *TOO_LARGE),
]
NOT_UTF8 = [
    *(b"\x80", b"\xbf", b"\xc0\xaf", b"\xc1\xbf", b"\xc3", b"\xc3(", b"\xc3\xc3"),
    *(b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xe1\x80", b"\xe1\x80(", b"\xe1(\x80", b"\xe2\x82\xe2"),
    *(b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\xbd\xed\xb8\x80"),
    *(b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf1\x80\x80", b"\xf1\x80\x80("),
    *(
        b"\xf1\x80(\x80",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xfe",
        b"\xff",
    ),
]


@pytest.mark.parametrize("place", [b'{"a":%s}', b'{"b":[{"a":%s}]}', b'{"a":%s', b"%s"])
def test_neither_takes_what_is_no_value(place):
    for value in NOT_VALUES:
        assert not accepts(place % value.encode() or b" "), value


@pytest.mark.parametrize("place", [b'{"a":"%s"}', b'{"%s":1}', b'{"a":%s}', b"%s{}", b"{}%s"])
def test_neither_takes_what_is_not_utf8(place):
    for text in NOT_UTF8:
        assert not accepts(place % text), text


@pytest.mark.parametrize("length", range(40))
def test_what_ends_a_run_of_plain_characters_is_seen_at_any_place(length):
    run = b"x" * length
    for good in (b"", b"\\n", b"\xc3\xa9", b"\xf0\x9f\x98\x80y", b"\\ud83d\\ude00", b"\x7f"):
        for body in (b'{"%s":"%s"}' % (run + good, good + run + good), b'{"":"%s%s' % (run, good)):
            assert accepts(body) == body.endswith(b"}")
            assert not accepts(body[:-1])
    for bad in (b"\n", b"\x1f", b"\0", b"\\x", b"\xc3", b"\xff", b"\\ud800", b'"'):
        assert not accepts(b'{"%s%s":1}' % (run, bad))
        assert not accepts(b'{"a":"%s%sy"}' % (run, bad))


SAME = [
    *(
        [b"a", b"\\u0061"],
        [b"/", b"\\/", b"\\u002f", b"\\u002F"],
        [b"\\n", b"\\u000a"],
        [b'\\"', b"\\u0022"],
    ),
    *(
        ["é".encode(), b"\\u00e9"],
        ["日".encode(), b"\\u65e5"],
        ["\U0001f600".encode(), b"\\ud83d\\ude00"],
    ),
    *([b"\\b\\f\\r\\t\\\\", b"\\u0008\\u000c\\u000d\\u0009\\u005c"], [b"\\u0000", b"\\u0000"]),
]


@pytest.mark.parametrize("others", [0, 1, 15, 16, 17, 130, 2000])
@pytest.mark.parametrize("spellings", SAME, ids=lambda spellings: spellings[-1].decode())
def test_a_key_that_comes_twice_is_found_in_any_spelling(spellings, others):
    between = b"".join(b'"\\u006b%d":{"a":1},' % number for number in range(others))
    for first in spellings:
        for second in spellings:
            assert accepts(b'{"%s":1,%s"%s":2}' % (first + b"1", between, second + b"2"))
            for pad in (b"", b"long enough that a mark does not hold all of it"):
                twice = b'{"%s":1,%s"%s":2}' % (first + pad, between, second + pad)
                assert not accepts(twice)
                assert not accepts(b'{"x":[%s]}' % twice)


def test_keys_of_objects_around_and_beside_are_others():
    for number in (1, 20, 300):
        keys = b",".join(b'"k%d":0' % key for key in range(number))
        assert accepts(b'{%s,"x":{%s,"x":[{%s},{%s}]},"y":{%s}}' % (keys, keys, keys, keys, keys))
        assert not accepts(b'{%s,"x":{%s,"x":[{%s},{%s}]},"k0":{%s}}' % ((keys,) * 5))


def test_many_keys_that_look_alike():
    """In all that a short mark could be made of: the size, and eight bytes at both ends."""
    keys = [f"12345678{number:04}12345678" for number in range(10_000)]
    assert accepts(json.dumps(dict.fromkeys(keys, 0)).encode())
    assert accepts(json.dumps([dict.fromkeys(keys[:16], 0)]).encode()[1:-1])
    members = [f'"{key}":0' for key in [*keys, keys[5000]]]
    assert not accepts(f"{{{','.join(members)}}}".encode())


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
    (b'{"a":%s}' % (b"9" * MAX_NUMBER_LENGTH), "is too large"),
    (b'{"a":%se99}' % (b"9" * 250), "is too large"),
    (b'{"a":%s}' % (b"9" * (MAX_NUMBER_LENGTH + 1)), "number of 310 characters"),
    (b'{"a":-%s}' % (b"9" * MAX_NUMBER_LENGTH), "number of 310 characters"),
    (b'{"a":0.%s}' % (b"9" * MAX_NUMBER_LENGTH), "number of 311 characters"),
    (b'{"a":1e-%s}' % (b"0" * MAX_NUMBER_LENGTH), "number of 312 characters"),
    # Bombs: refused without taking memory or time.
    (b"[" * MIB, "must be a JSON object"),
    (b'{"a":' + b"[" * MIB, "levels"),
    (b'{"a":' * 200_000, "levels"),
    (b'{"a":%s}' % (b"1" * 100_000), "number of 100000 characters"),
    (b'{"a":0.%s}' % (b"3" * MIB), "characters"),
]


@pytest.mark.parametrize(("body", "says"), REFUSED, ids=lambda value: str(value[:24]))
def test_refused(body, says):
    assert not accepts(body)
    with pytest.raises(InvalidRequest) as caught:
        check_params(body)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_disagreement_cannot_pass():
    with pytest.raises(AssertionError, match="the check in C refuses a body"):
        refuse_params(b"{}")


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
        assert accepts(body)
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
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        return isinstance(value, dict)
    except ValueError:
        return False


pieces = st.sampled_from(
    [*'{}[],: "\\a1é', "e9", "1.5", "null", '"a"', '"b":', '"a":', '"a" :', "\\u0061", "\\ud800"]
)


class Pairs(list):
    """An object, as a list of pairs: keys, as they are spelled, may repeat."""


KEYS = ['"a"', '"\\u0061"', '"b"', '":"', '"\\""', '"\\u0022"', '"é"', '"\\u00e9"', '"\\u00E9"']


def objects(inner):
    return st.lists(st.tuples(st.sampled_from(KEYS), inner)).map(Pairs)


numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | numbers | st.text(':{}[]" \\aé')
values = st.recursive(scalars, lambda inner: st.lists(inner) | objects(inner))


def render(value, space):
    if isinstance(value, Pairs):
        members = (f"{key}{space}:{render(inner, space)}" for key, inner in value)
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + f",{space}".join(render(inner, space) for inner in value) + "]"
    return json.dumps(value)


@given(pairs=objects(values), space=st.sampled_from(["", " ", "\n"]))
def test_agrees_with_the_standard_library_on_documents(pairs, space):
    body = render(pairs, space).encode()
    assert accepts(body) == reference(body)


@given(body=st.lists(pieces, min_size=1).map("".join).map(str.encode) | st.binary(min_size=1))
@example(b"\xed\xa0\x80")
def test_agrees_with_the_standard_library_on_noise(body):
    assert accepts(body) == reference(body)
