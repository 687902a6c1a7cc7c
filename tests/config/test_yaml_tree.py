from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prism.config import yaml_tree
from prism.config.errors import ConfigError
from prism.config.nodes import Unreadable, to_plain
from prism.config.yaml_tree import MAX_DEPTH, parse_tree


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML may have been built without libyaml: both parsers must do."""
    if request.param == "python":
        monkeypatch.setattr(yaml_tree, "_Loader", yaml.SafeLoader)


def plain(text: str) -> object:
    root, problems = parse_tree(text, "f")
    assert not problems
    assert root is not None
    return to_plain(root)


def stopped(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_tree(text, "f")
    return str(caught.value)


def test_values_and_their_places() -> None:
    root, problems = parse_tree("a:\n  - 1\n  - {b: x}\n", "f")
    assert not problems
    assert root is not None
    assert isinstance(root.value, dict)
    items = root.value["a"].value.value
    assert isinstance(items, list)
    assert [(item.line, item.column) for item in items] == [(2, 5), (3, 5)]
    inner = items[1].value
    assert isinstance(inner, dict)
    assert (inner["b"].key.line, inner["b"].key.column) == (3, 6)
    assert (inner["b"].value.column, inner["b"].value.written) == (9, "x")
    assert root.size == 5
    assert root.depth == 4


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeff"])
def test_a_text_without_a_value(text: str) -> None:
    assert parse_tree(text, "f") == (None, [])


@pytest.mark.parametrize(
    "text",
    [
        "a: yes\nb: 0x1F\nc: 1_000\nd: 1.5\ne: ~\nf: ''\ng: '1'\nh: \"2020-01-01\"\n",
        "a: !!str 5\nb: ! 5\nc: 0\nd: -1\ne: 08\n",
        "a: |\n  two\n  lines\nb: >-\n  folded\n  text\n",
        "base: &b {x: 1, y: 2}\nc: *b\nd: {<<: *b, y: 3}\n",
        "a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc:\n  <<: [*a, *b]\n  z: 3\n",
        "\ufeffa: 1\n",
    ],
)
def test_what_is_read_is_what_pyyaml_reads(text: str) -> None:
    assert plain(text) == yaml.safe_load(text)


def test_an_equals_sign_is_text() -> None:
    assert plain("a: =\n=: b\n") == {"a": "=", "=": "b"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("50:51", "base 60"),
        ("1:30.5", "base 60"),
        ("0600", "octal"),
        ("2020-01-01", "a date"),
        ("2020-13-45", "a date"),
        (".inf", "infinity"),
        (".nan", "infinity"),
        ("9" * 5000, "type int"),
        ("!!int x", "type int"),
        ("!!bool x", "type bool"),
        ("!!python/name:os.system x", "tag"),
        ("!!binary aGk=", "tag"),
        ("!!set {a}", "tag"),
        ("!mine [a]", "tag"),
        (r'"/tmp/a\0b"', "U+0000"),
        ("{{ secret:x }}", "quotes"),
        ("{[a]: b}", "quotes"),
    ],
)
def test_a_value_that_cannot_be_used(text: str, reason: str) -> None:
    value = plain(f"a: {text}\n")
    assert isinstance(value, dict)
    assert isinstance(value["a"], Unreadable)
    assert reason in value["a"].reason


def test_every_problem_that_does_not_stop_the_reading() -> None:
    root, problems = parse_tree("a: 1\nb: 2\na: 3\n5: x\non: y\n<<: 7\n", "f")
    assert [str(problem) for problem in problems] == [
        "f:3:1: the key a is here twice; first at line 1, column 1",
        "f:4:1: this key is not text; put it in quotes",
        "f:5:1: this key is not text; put it in quotes",
        "f:6:5: << takes a mapping or a list of mappings",
    ]
    assert root is not None
    assert to_plain(root) == {"a": 1, "b": 2, "5": "x", "on": "y"}


def test_a_key_that_cannot_be_used() -> None:
    root, problems = parse_tree('"a\\0": 1\n2020-01-01: 2\nb: 3\n', "f")
    assert [str(problem) for problem in problems] == [
        "f:1:1: the character U+0000 is not supported",
        "f:2:1: YAML reads this as a date; put it in quotes",
    ]
    assert root is not None
    assert to_plain(root) == {"b": 3}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a:\n\tb: 1", "f:2:1: a tab in the indentation"),
        ("a: @x", "f:1:4: a value cannot begin with @; put it in quotes"),
        ("a: b: c", "f:1:5: not valid YAML: mapping values"),
        ("a: [1\nb: 2", "f:2:2: not valid YAML: "),
        ("a: 'x", "not valid YAML: found unexpected end of stream"),
        ("a: *secret", "f:1:4: this alias has no anchor; a value that begins with *"),
        ("a: &x [*x]", "f:1:8: an alias cannot stand inside the value it repeats"),
        ("a: !secret!x y", "f:1:4: YAML tags are not supported; a value that begins with !"),
        ("a: 1\n---\nb: 2\n", "f:2:1: only one YAML document"),
        ("a: 1\nb: \x07", "f:2:4: the character U+0007 is not allowed"),
        ("a: \ud800", "f:1:4: the character U+D800 is not allowed"),
        ("[" * (MAX_DEPTH + 1), f"nested deeper than {MAX_DEPTH} levels"),
        ("[" * 100_000, f"nested deeper than {MAX_DEPTH} levels"),
    ],
)
def test_a_text_that_cannot_be_read(text: str, problem: str) -> None:
    assert problem in stopped(text)
    assert "secret" not in stopped(text)


def test_aliases_cannot_multiply_without_a_bound() -> None:
    rounds = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    assert "more than 100000 values" in stopped("a0: &a0 [x]\n" + rounds)


def test_aliases_cannot_nest_without_a_bound() -> None:
    rounds = "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 200))
    assert f"nested deeper than {MAX_DEPTH}" in stopped("a0: &a0 [x]\n" + rounds)


@given(st.text(alphabet=st.sampled_from("ab01:-[]{},&*!|>'\"%@#?\n \t<~.\x07é"), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ConfigError):
        root, _ = parse_tree(text, "f")
        assert root is None or root.size >= 1
