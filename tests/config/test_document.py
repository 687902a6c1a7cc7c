from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prism.config import document
from prism.config.document import MAX_DEPTH, MAX_VALUES, Node, Place, Unreadable, read_yaml
from prism.config.errors import ConfigError, Report


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML may have been built without libyaml: both parsers must do."""
    if request.param == "python":
        monkeypatch.setattr(document, "_Loader", yaml.SafeLoader)


def read(text: str) -> tuple[Node | None, list[str]]:
    report = Report("f")
    root = read_yaml(text, report)
    return root, [str(problem) for problem in report.errors]


def plain(text: str) -> object:
    root, problems = read(text)
    assert not problems
    assert root is not None
    return root.plain()


def stopped(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


def place(text: str) -> Place:
    report = Report("f")
    root = read_yaml(text, report)
    assert root is not None
    return Place(report, root)


# -- values -------------------------------------------------------------------


def test_values_and_their_marks() -> None:
    at = place("a:\n  - 1\n  - {b: x}\n")
    assert [item.node.mark for item in at["a"].items()] == [(2, 5), (3, 5)]
    inner = at["a"][1].node.value
    assert isinstance(inner, dict)
    assert inner["b"].key.mark == (3, 6)
    assert inner["b"].value == Node("x", (3, 9), "x")
    assert at.node.depth == 4


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeff"])
def test_a_text_without_a_value(text: str) -> None:
    assert read(text) == (None, [])


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


def test_an_anchor_that_is_defined_again_is_the_latest() -> None:
    assert plain("a: &x 1\nb: *x\nc: &x 2\nd: *x\n") == {"a": 1, "b": 1, "c": 2, "d": 2}


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
    root, problems = read("a: 1\nb: 2\na: 3\n5: x\non: y\n<<: 7\nc: {d: 1, d: 2, 5: x}\n")
    assert problems == [
        "f:3:1: a: the key is here twice; first at line 1, column 1",
        "f:4:1: this key is not text; put it in quotes",
        "f:5:1: this key is not text; put it in quotes",
        "f:7:11: c.d: the key is here twice; first at line 7, column 5",
        "f:7:17: c: this key is not text; put it in quotes",
        "f:6:5: << takes a mapping or a list of mappings",
    ]
    assert root is not None
    assert root.plain() == {"a": 1, "b": 2, "5": "x", "on": "y", "c": {"d": 1, "5": "x"}}


def test_a_key_that_cannot_be_used() -> None:
    root, problems = read('"a\\0": 1\n2020-01-01: 2\nb: 3\n')
    assert problems == [
        "f:1:1: the character U+0000 is not supported",
        "f:2:1: YAML reads this as a date; put it in quotes",
    ]
    assert root is not None
    assert root.plain() == {"b": 3}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a:\n\tb: 1", "f:2:1: a tab in the indentation"),
        ("a: @x", "f:1:4: a value cannot begin with @; put it in quotes"),
        ("a: b: c", 'f:1:5: a second ": " on this line; put a text that has one in quotes'),
        ("a:\n  b: 1\n    c: 2", "f:3:6: a key cannot stand deeper than a value before it"),
        ("[listen]\nport = 1\n", "f:2:1: this looks like TOML; the configuration is YAML"),
        ("# mine\n\n[[namespaces]]\nname = 'a'\n", "f:4:1: this looks like TOML"),
        ("port = 1\nname = 'a'\n", "f:1:1: this looks like TOML"),
        ("a: [1\nb: 2", "f:2:2: not valid YAML: "),
        ("a: 'x", "not valid YAML: found unexpected end of stream"),
        ("a: *secret", "f:1:4: this alias has no anchor that ends before it; a value that begins"),
        ("a: &x [*x]", "f:1:8: this alias has no anchor that ends before it"),
        ("a: !secret!x y", "f:1:4: YAML tags are not supported; a value that begins with !"),
        ("a: 1\n---\nb: 2\n", "f:2:1: only one YAML document"),
        ("---\n---\na: 1\n", "f:2:1: only one YAML document"),
        ("a: 1\nb: \x07", "f:2:4: the character U+0007 is not allowed"),
        ("a: \ud800", "f:1:4: the character U+D800 is not allowed"),
        ("a: 1\na: 2\nb: @x", "f:2:1: a: the key is here twice"),
        ("a: 1\na: 2\nb: @x", "f:3:4: a value cannot begin with @"),
    ],
)
def test_a_text_that_cannot_be_read(text: str, problem: str) -> None:
    assert problem in stopped(text)
    assert "secret" not in stopped(text)


# -- bounds: also of what would end the process in PyYAML's own composer --------


@pytest.mark.parametrize(
    "text",
    [
        "[" * (MAX_DEPTH + 1),
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "? " * 100_000,
        "\n".join(f"{' ' * n}a:" for n in range(MAX_DEPTH + 2)),
    ],
    ids=["a level more", "flow lists", "flow mappings", "lists", "keys", "mappings"],
)
def test_nothing_nests_without_a_bound(text: str) -> None:
    assert f"nested deeper than {MAX_DEPTH} levels" in stopped(text)


def test_as_many_levels_as_are_allowed() -> None:
    root, problems = read("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert root is not None
    assert (root.depth, problems) == (MAX_DEPTH, [])


def test_aliases_cannot_multiply_without_a_bound() -> None:
    rounds = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    assert f"more than {MAX_VALUES} keys and values" in stopped("a0: &a0 [x]\n" + rounds)


def test_merges_cannot_multiply_without_a_bound() -> None:
    keys = ", ".join(f"k{n}: 1" for n in range(1_000))
    merges = f"b: {{<<: [{', '.join(['*a'] * 50_000)}]}}\n"
    assert f"more than {MAX_VALUES} keys and values" in stopped(f"a: &a {{{keys}}}\n{merges}")


def test_aliases_cannot_nest_without_a_bound() -> None:
    rounds = "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 200))
    assert f"nested deeper than {MAX_DEPTH}" in stopped("a0: &a0 [x]\n" + rounds)


def is_whole(node: Node) -> bool:
    """Is everything in it readable?"""
    if isinstance(node.value, dict):
        return all(is_whole(entry.value) for entry in node.value.values())
    if isinstance(node.value, list):
        return all(is_whole(item) for item in node.value)
    return not isinstance(node.value, Unreadable)


@given(st.text(alphabet=st.sampled_from("ab01:-[]{},&*!|>'\"%@#?\n \t<~.\x07é"), max_size=60))
def test_any_text_is_refused_or_read_as_pyyaml_reads_it(text: str) -> None:
    # PyYAML does not take an anchor twice, nor << as a value.
    with suppress(ConfigError, yaml.YAMLError):
        root, problems = read(text)
        if root is not None and is_whole(root) and not problems:
            assert root.plain() == yaml.load(text, document._Loader)


# -- places -------------------------------------------------------------------


def test_a_place_that_is_written_and_one_that_is_not() -> None:
    at = place("a:\n  b: [x, {c: ~}]\n")
    assert at["a"]["b"][0].node.value == "x"
    missing = at["a"]["d"]["e"]
    assert not missing.is_written
    assert (missing.path, missing.node, missing.line) == (("a", "d", "e"), at["a"].node, 2)
    assert at["a"]["b"][0]["x"].node.value == "x", "the nearest that is written"
    missing.error("wrong")
    assert [str(problem) for problem in at.report.errors] == ["f:2:3: a.d.e: wrong"]
    assert not at["a"].is_sound
    assert at["a"]["b"].is_sound


def test_what_is_below_a_place() -> None:
    at = place("a: {b: 1, c: ~}\nd: [x, y]\n")
    assert [place.path for place in at.below()] == [("a",), ("d",)]
    assert [place.path for place in at["d"].below()] == [("d", 0), ("d", 1)]
    assert at["d"].items() == at["d"].below()
    assert at["a"].written_keys() == {"b"}, "null is as good as not there"
    assert (at["a"].items(), at["d"].written_keys()) == ([], set())
    for missing in (at["a"]["x"], at["d"]["x"], at["x"]):
        assert (missing.below(), missing.items(), missing.written_keys()) == ([], [], set())
