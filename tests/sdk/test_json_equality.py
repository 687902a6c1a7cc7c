import pytest

from prism.sdk.json_equality import equal


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "1.0"),
        ("1", "1e0"),
        ("0", "-0.0"),
        ("100000000000000000000", "1e20"),
        ("1e999999999", "10e999999998"),
        ('{"a":1,"b":[2,{}]}', '{ "b" : [2.0, {}], "a" : 1 }'),
        ('"\\u00e9"', '"é"'),
        ('"\\u0061"', '"a"'),
        ("[" * 900 + "]" * 900, "[" * 900 + " " + "]" * 900),
        ("1e99999999999999999999", "1e99999999999999999999 "),
    ],
)
def test_equal(one: str, other: str) -> None:
    assert equal(one.encode(), other.encode())
    assert equal(other.encode(), one.encode())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "true"),
        ("0", "false"),
        ("[1]", "[true]"),
        ("null", "0"),
        ("null", "false"),
        ("9007199254740993", "9007199254740992"),
        ("9007199254740993", "9007199254740992.0"),
        ("0.1", "0.10000000000000001"),
        ("1e400", "1e401"),
        ("1", '"1"'),
        ("1e99999999999999999999", '"1e99999999999999999999"'),
        ("1e99999999999999999999", '["1e99999999999999999999"]'),
        ("[]", "{}"),
        ("[1,2]", "[2,1]"),
        ("[1]", "[1,1]"),
        ('{"a":1}', '{"a":1,"b":1}'),
        ('{"a":1}', '{"A":1}'),
        ('"é"', '"e\\u0301"'),
    ],
)
def test_different(one: str, other: str) -> None:
    assert not equal(one.encode(), other.encode())
    assert not equal(other.encode(), one.encode())
