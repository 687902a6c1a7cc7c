"""What differs between two answers, what is told of it, and what is not."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.calls.comparison import (
    ALL_NAMES,
    MAX_DIFFERENCES,
    MAX_ELEMENTS,
    MAX_GROUPS,
    MAX_RECENT,
    Answer,
    Ignored,
    ResultDifference,
    Tally,
    compare,
    declared_names,
    parse_path,
)
from prism.contract.messages import OperationDeclaration
from prism.contract.status import StatusCode
from prism.sdk.json_equality import equal

OK = StatusCode.OK


def answer(value):
    return Answer(OK, json.dumps(value))


def found(old, new, *ignored, names=ALL_NAMES, show_values=False):
    return [
        (each.kind, each.path)
        for each in compare(
            answer(old), answer(new), Ignored(ignored), names, show_values=show_values
        )
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}'),
        ('{"a": 1}', '{"a": 1.0}'),
        ('{"a": 100}', '{"a": 1e2}'),
        ('{"a": "\\u00e9"}', '{"a": "é"}'),
        ("", "{}"),
    ],
)
def test_what_says_the_same_is_equal(old, new):
    assert compare(Answer(OK, old), Answer(OK, new)) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 2}, ("value", "$.a")),
        ({"a": 1}, {"a": True}, ("type", "$.a")),
        ({"a": 1}, {"a": "1"}, ("type", "$.a")),
        ({"a": {}}, {"a": []}, ("type", "$.a")),
        ({"a": 1}, {}, ("missing", "$.a")),
        ({}, {"a": 1}, ("extra", "$.a")),
        ({"a": [1, 2]}, {"a": [1]}, ("length", "$.a")),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, ("value", "$.a[0].b")),
        ([1, 2], [2, 1], ("value", "$[0]")),
        ({"a": None}, {"a": 0}, ("type", "$.a")),
        ({"a": 0.1}, {"a": 0.10000000000000001}, ("value", "$.a")),
    ],
)
def test_the_kind_and_the_path(old, new, expected):
    if old == {"a": 0.1}:  # more digits than a float has
        differs = compare(Answer(OK, '{"a": 0.1}'), Answer(OK, '{"a": 0.10000000000000001}'))
        assert [(each.kind, each.path) for each in differs] == [expected]
    else:
        assert found(old, new)[0] == expected


def test_statuses_are_compared_and_words_are_not():
    assert compare(Answer(StatusCode.NOT_FOUND), Answer(StatusCode.NOT_FOUND)) == []
    assert compare(Answer(OK, "{}"), Answer(StatusCode.INTERNAL)) == [
        ResultDifference("$", "status", "OK", "INTERNAL")
    ]


def test_messagepack_is_compared_as_values_too():
    old, new = (
        Answer(OK, raw=msgspec.msgpack.encode(value))
        for value in ({"a": 1, "b": b"x"}, {"b": b"x", "a": 1})
    )
    assert compare(old, new) == []
    other = Answer(OK, raw=msgspec.msgpack.encode({"a": 1, "b": b"y"}))
    assert [each.path for each in compare(old, other)] == ["$.b"]


@pytest.mark.parametrize("text", ["{", "\ud800", "[" * 100_000, "nonsense", '{"a": nan}'])
def test_what_is_no_json_is_a_difference_and_no_failure(text):
    assert [each.kind for each in compare(Answer(OK, "{}"), Answer(OK, text))] == ["type"]


def test_deep_values_are_walked_without_recursion_and_told_by_a_short_path():
    old, new = ("[" * 500 + value + "]" * 500 for value in "12")
    (difference,) = compare(Answer(OK, old), Answer(OK, new))
    assert len(difference.path) < 300


def test_ignored_paths():
    old = {"at": 1, "items": [{"at": 1, "v": 1}, {"at": 2, "v": 2}], "map": {"x": {"at": 1}}}
    new = {"at": 2, "items": [{"at": 3, "v": 1}, {"at": 4, "v": 2}], "map": {"x": {"at": 2}}}
    assert found(old, new, "**.at") == []
    assert found(old, new, "at", "items[*].at", "map.*.at") == []
    assert found(old, new, "$.at", "$.items[0].at", "map") == [("value", "$.items[1].at")]
    assert found({}, {"etag": 1}, "etag") == []
    assert found([{"a": 1}], [{"a": 2}], "[*].a") == []
    assert found([{"a": 1}], [{"a": 2}], "*") == [("value", "$[0].a")]


@pytest.mark.parametrize("path", ["", "$.", ".a", "a..b", "a[", "a[x]", "[]", "a]"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ValueError, match="path"):
        parse_path(path)


def test_values_are_told_only_where_they_may_be():
    (hidden,) = compare(answer({"a": "hunter2"}), answer({"a": "secret"}))
    assert (hidden.old, hidden.new) == ("text", "text")
    (shown,) = compare(answer({"a": "hunter2"}), answer({"a": "secret"}), show_values=True)
    assert (shown.old, shown.new) == ('"hunter2"', '"secret"')
    (long,) = compare(answer("x" * 5000), answer("y"), show_values=True)
    assert len(long.old) < 200


def test_keys_that_may_be_data_are_hidden():
    declared = OperationDeclaration(
        name="get",
        result_schema='{"properties": {"users": {"additionalProperties": {"properties": '
        '{"name": {}}}}}}',
    )
    old = {"users": {"ada@example.com": {"name": "a"}}}
    new = {"users": {"ada@example.com": {"name": "b"}}}
    assert found(old, new, names=declared_names(declared)) == [("value", "$.users.*1.name")]
    # Another version declares other names.
    assert found({"name": 1}, {"name": 2}, names=declared_names(None, declared)) == [
        ("value", "$.name")
    ]


@pytest.mark.parametrize(
    ("params", "result"),
    [
        ("", ""),
        ('{"properties": {"q": {}}}', ""),
        ("", '{"type": "object"}'),
        ("", '{"type": "object", "additionalProperties": {"type": "integer"}}'),
        ("{nonsense", "[" * 5000),
    ],
)
def test_a_key_that_no_schema_declares_is_hidden_whatever_it_looks_like(params, result):
    names = declared_names(OperationDeclaration(params_schema=params, result_schema=result), None)
    old, new = {"q": 1, "alice_smith": 2, "x": [1]}, {"q": 1, "alice_smith": 3, "x": [], "y": 0}
    hidden = [("value", "$.*2"), ("length", "$.*3"), ("extra", "$.*4")]
    assert found(old, new, names=names) == hidden


def test_the_schema_of_params_counts_without_one_of_the_result():
    declared = OperationDeclaration(params_schema='{"properties": {"key": {}}}')
    assert found({"key": 1}, {"key": 2}, names=declared_names(declared)) == [("value", "$.key")]


def test_beyond_some_thousand_elements_only_equality_is_asked():
    rows = [[n] for n in range(MAX_ELEMENTS)]
    old, new = {"at": 1, "rows": rows, "end": 1}, {"at": 2, "rows": [*rows[:-1], [0]], "end": 1}
    assert found(old, new, "at") == [("size", "$.rows")]
    assert found(old, {**old, "at": 2}, "at") == []
    assert found({**old, "etag": 1}, {**old, "etag": 2}, "etag") == []
    assert found(old, {**old, "end": 2}) == [("size", "$")]
    assert found(old, {"at": 1, "rows": [[1], *rows[1:]], "end": 1})[0] == ("value", "$.rows[0][0]")


def test_paths_with_many_stars_are_matched_in_bounded_time():
    old, new = ('{"a":' * 60 + leaf + "}" * 60 for leaf in "12")
    ignored = Ignored(["**.a." * 6 + "**.x"])
    (difference,) = compare(Answer(OK, old), Answer(OK, new), ignored)
    assert difference.path == "$" + ".a" * 60


def test_a_value_of_another_type_is_shown_too():
    (shown,) = compare(answer({"a": 5}), answer({"a": "5.00"}), show_values=True)
    assert (shown.kind, shown.old, shown.new) == ("type", "5", '"5.00"')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=3), below),
    max_leaves=20,
)


@given(JSON, JSON)
def test_it_finds_nothing_exactly_where_values_are_equal(old, new):
    one, other = json.dumps(old), json.dumps(new)
    differs = compare(Answer(OK, one), Answer(OK, other))
    assert (not differs) == equal(one.encode(), other.encode())
    assert len(differs) <= MAX_DIFFERENCES


def test_the_tally_is_bounded():
    tally = Tally()
    for number in range(MAX_GROUPS + 10):
        differs = [ResultDifference(f"$.field{number}[{number}]", "value")]
        tally.add("get", f"r{number}", answer(1), answer(2), differs, 0.0)
    assert len(tally.groups) == MAX_GROUPS
    assert tally.other_differences == 10
    assert len(tally.recent) == MAX_RECENT
    assert tally.recent[-1].request_id == f"r{MAX_GROUPS + 9}"
    assert tally.groups[0].path.endswith("[*]")


def test_outcomes_and_latencies():
    tally = Tally()
    good, bad = Answer(OK, "{}", seconds=0.1), Answer(StatusCode.INTERNAL, seconds=0.4)
    for old, new in ((good, good), (good, bad), (bad, good), (bad, bad)):
        tally.add("get", "r", old, new, compare(old, new), 0.0)
    assert tally.outcomes == {"equal": 2, "only_new_failed": 1, "only_old_failed": 1}
    old, new = tally.latencies
    assert old.p50 == pytest.approx(0.1, rel=0.2)
    assert new.p99 == pytest.approx(0.4, rel=0.2)
