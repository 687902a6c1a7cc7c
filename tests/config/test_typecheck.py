"""What is accepted is what msgspec accepts; what is refused is refused with good words."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from prism.config import parse_config
from prism.config.document import Entry, Node, Place
from prism.config.errors import ConfigError, Report
from prism.config.typecheck import alternatives, check_types, expected, meta_of, suggest
from prism.config.types import (
    CataloguePlugin,
    Config,
    HealthConfig,
    ListenConfig,
    NamespaceConfig,
    NamespaceLimits,
    PluginConfig,
    VerificationConfig,
)
from prism_plugins.sqlite import SQLitePlugin

BLOCKS = [
    Config,
    NamespaceConfig,
    NamespaceLimits,
    PluginConfig,
    CataloguePlugin,
    ListenConfig,
    HealthConfig,
    VerificationConfig,
    SQLitePlugin.Config,
]
KEYS = sorted({name for block in BLOCKS for name in block.__struct_fields__} | {"v1.2", "other"})

# -- what is accepted -----------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 3, 1023, 1024, 65535, 65536, 86_400, 86_401])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["a", "a:B", "sidecar", "in_process", "0660", "json", "a\n", "", "0" * 64])
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def node_of(value: Any) -> Node:
    if isinstance(value, dict):
        return Node({key: Entry(Node(key), node_of(item)) for key, item in value.items()})
    if isinstance(value, list):
        return Node([node_of(item) for item in value])
    return Node(value)


def accepted_by_walk(value: Any, block: type[msgspec.Struct]) -> bool:
    report = Report("f")
    check_types(Place(report, node_of(value)), block)
    assert report.is_sound(()) == (not report.errors)
    return not report.errors


def accepted_by_msgspec(value: Any, block: type[msgspec.Struct]) -> bool:
    try:
        msgspec.convert(value, block)
    except msgspec.ValidationError:
        return False
    return True


@given(value=anything, block=st.sampled_from(BLOCKS))
def test_the_walk_agrees_with_msgspec(value: Any, block: type[msgspec.Struct]) -> None:
    assert accepted_by_walk(value, block) == accepted_by_msgspec(value, block)


@st.composite
def one_key(draw: st.DrawFn) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    """A valid block with one of its keys set to anything: half of them fit."""
    block = draw(st.sampled_from(BLOCKS))
    required = {"name": "a", "backend": "b", "type": "sidecar"}
    value = {key: required[key] for key in block.__struct_fields__ if key in required}
    key = draw(st.sampled_from(block.__struct_fields__))
    return block, {**value, key: draw(anything)}


@given(one_key())
def test_the_walk_agrees_with_msgspec_key_by_key(
    case: tuple[type[msgspec.Struct], dict[str, Any]],
) -> None:
    block, value = case
    assert accepted_by_walk(value, block) == accepted_by_msgspec(value, block)


@pytest.mark.parametrize(
    "value",
    [
        {"namespaces": [{"name": "a", "backend": "b", "config": {"deep": [{"x": None}]}}]},
        {"plugins": [{"name": "a", "type": "grpc", "versions": {"v1": {"endpoint": "a:1"}}}]},
        {"listen": {"tls": {"cert": "a", "key": "b"}}, "drain_timeout_seconds": 5},
    ],
)
def test_valid_blocks_are_accepted_by_both(value: Any) -> None:
    assert accepted_by_walk(value, Config)
    assert accepted_by_msgspec(value, Config)


def test_the_alternatives_of_a_key() -> None:
    key = Annotated[
        Annotated[str, Meta(pattern="x", extra={"form": "a path"})] | list[int] | None,
        Meta(description="It.", extra={"private": True}),
    ]
    text, numbers, nothing = alternatives(key)
    assert (text.kind, numbers.kind, nothing.kind) == (str, list[int], type(None))
    assert [one.meta("form") for one in alternatives(key)] == ["a path", None, None]
    assert [one.meta("private") for one in alternatives(key)] == [True] * 3
    assert [one.block for one in alternatives(key | Config)] == [None, None, None, Config]
    assert (meta_of(key, "form"), meta_of(key, "description"), meta_of(key, "path")) == (
        "a path",
        "It.",
        None,
    )


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "true or false"),
        (Annotated[int, Meta(ge=1)], "a whole number from 1"),
        (Annotated[int, Meta(ge=0, le=9)] | None, "a whole number from 0 to 9"),
        (Annotated[float, Meta(gt=0)], "a number above 0"),
        (Annotated[float, Meta(gt=0.5, le=10)], "a number above 0.5, at most 10"),
        (str | None, "text"),
        (Annotated[str, Meta(min_length=1)] | list[str], "text that is not empty or a list"),
        (Annotated[str, Meta(pattern="x", extra={"form": "an x"})], "an x"),
        (Literal["b", "a"] | None, "one of b, a"),
        (Config | dict[str, int], "a mapping"),
        (Any, "any value"),
    ],
)
def test_what_is_expected(annotation: Any, words: str) -> None:
    assert expected(annotation) == words


# -- what is said of the rest -----------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("insecure: 'true'", 'expected true or false, found the text "true"; remove the quotes'),
        ("insecure: maybe", 'expected true or false, found the text "maybe"'),
        ("insecure: 1", "expected true or false, found the number 1"),
        (
            "listen: {port: '80'}",
            'expected a whole number from 0 to 65535, found the text "80"; remove the quotes',
        ),
        (
            "listen: {port: 80.0}",
            "expected a whole number from 0 to 65535, found the number 80.0",
        ),
        ("listen: {port: true}", "expected a whole number from 0 to 65535, found true"),
        ("listen: {port: http}", 'expected a whole number from 0 to 65535, found the text "http"'),
        (
            "listen: {port: 65536}",
            "expected a whole number from 0 to 65535, found the number 65536",
        ),
        (
            "drain_timeout_seconds: '1.5'",
            'expected a number from 0.001 to 86400, found the text "1.5"; remove the quotes',
        ),
        (
            "drain_timeout_seconds: 250ms",
            'expected a number from 0.001 to 86400, found the text "250ms"; seconds, without a '
            "unit: 0.25",
        ),
        (
            "handover_timeout_seconds: 1.5 min",
            'expected a number from 0.001 to 86400, found the text "1.5 min"; seconds, without '
            "a unit: 90",
        ),
        (
            "listen: {limits: {max_connections: 1k}}",
            'expected a whole number from 1 to 1000000, found the text "1k"',
        ),
        ("listen: {address: 127}", 'expected text, found the number 127; put it in quotes: "127"'),
        (
            "listen: {address: no}",
            'expected text, found false (written no); put it in quotes: "no"',
        ),
        (
            "listen: {server: hypercon}",
            'expected one of prism, hypercorn, found the text "hypercon"; '
            'did you mean "hypercorn"?',
        ),
        ("log: {level: 5}", "expected one of debug, info, warning, error, found the number 5"),
        ("log: {format: on}", "expected one of auto, console, json, found true (written on)"),
        (
            "log: {level: Warn}",
            'expected one of debug, info, warning, error, found the text "Warn"; '
            'did you mean "warning"?',
        ),
        ("log:", "expected a mapping, found nothing (null); remove the key, or give it a value"),
        ("log: level", "expected a mapping, found text"),
        ("namespaces: {a: b}", 'expected a list, found a mapping; begin each item with "- "'),
        ("namespaces: [a]", "expected a mapping, found text"),
        ("secrets: {directory: ''}", 'expected text that is not empty, found the text ""'),
        ("secrets: {directory: [a]}", "expected text that is not empty, found a list"),
        (
            "secrets: {directorys: a}",
            'unknown key; did you mean "directory"? (accepted: directory, environment, vault)',
        ),
        (
            "listen: {limits: {max-connections: 1}}",
            'unknown key; did you mean "max_connections"? (accepted: max_connections, '
            "max_connections_per_peer, max_concurrent_streams, max_concurrent_handshakes, "
            "request_memory_bytes, request_memory_bytes_per_connection, answer_memory_bytes, "
            "answer_memory_bytes_per_connection, "
            "refusals_per_second, max_connection_age_seconds)",
        ),
        ("secrets: {x: a}", "unknown key (accepted: directory, environment, vault)"),
        ("port: 80", 'unknown key; "port" belongs inside "listen"'),
    ],
)
def test_what_is_said(problems: Callable[[str], list[str]], text: str, message: str) -> None:
    (problem,) = problems(text)
    _place, _path, said = problem.split(": ", 2)
    assert said == message


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ("mode: 600", 'expected one of 0600, 0660, found the number 600; did you mean "0600"?'),
        (
            "mode: 0600",
            "YAML reads a number with a leading 0 as octal; put it in quotes, or drop the 0",
        ),
        ("version: 1.2", 'expected text, found the number 1.2; put it in quotes: "1.2"'),
        ("version: -1", 'expected a version such as "v1.2", found the number -1'),
        ("version: [a]", 'expected a version such as "v1.2", found a list'),
        ("sha256: 12", "expected 64 lower-case hex digits, found the number 12"),
        ("sha256: abc", 'expected 64 lower-case hex digits, found the text "abc"'),
        ("command: ''", 'expected a list or text that is not empty, found the text ""'),
        ("command: []", "the list is empty"),
        (
            "command: 5",
            'expected a list or text that is not empty, found the number 5; put it in quotes: "5"',
        ),
        ("environment: {A: 5}", "expected text, found a number; put it in quotes"),
        (
            "start_timeout_seconds: ",
            "expected a number from 0.001 to 86400, found nothing (null); "
            "remove the key, or give it a value",
        ),
    ],
)
def test_what_is_said_of_a_plugin(
    problems: Callable[[str], list[str]], plugin: str, message: str
) -> None:
    (problem,) = problems(f"namespaces: [{{name: a, backend: b, plugin: {{{plugin}}}}}]")
    _place, _path, said = problem.split(": ", 2)
    assert said == message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("yes", "expected text, found true or false; put it in quotes"),
        ("1.5", "expected text, found a number; put it in quotes"),
        ("[a]", "expected text, found a list"),
        ("~", "expected text, found nothing (null); remove the key, or give it a value"),
    ],
)
def test_what_is_said_of_a_credential(
    problems: Callable[[str], list[str]], value: str, message: str
) -> None:
    text = f"namespaces: [{{name: a, backend: sqlite, credentials: {{k: {value}}}}}]"
    (problem,) = problems(text)
    assert problem.endswith(f"credentials.k: {message}")


def test_a_list_where_the_whole_file_is_a_mapping(problems: Callable[[str], list[str]]) -> None:
    assert problems("- a") == ["1:1: expected a mapping, found a list"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("timeout", "timeout_seconds"),
        ("max_timeout", "max_timeout_seconds"),
        ("stream-idle-timeout", "stream_idle_timeout_seconds"),
        ("max_payload", "max_payload_bytes"),
        ("max_in_fligth", "max_in_flight"),
        ("nothing_like_it", None),
        ("", None),
    ],
)
def test_a_key_without_its_unit_is_known(written: str, meant: str | None) -> None:
    assert suggest(written, NamespaceLimits.__struct_fields__) == meant


@pytest.mark.parametrize(
    ("text", "number"),
    [("1MiB", "1048576"), ("1 MB", "1000000"), ("64k", "65536"), ("1.5GiB", "1610612736")],
)
def test_a_size_with_a_unit_is_converted(text: str, number: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(
            f"namespaces: [{{name: a, backend: x, limits: {{max_payload_bytes: {text}}}}}]", "f"
        )
    assert f'found the text "{text}"; bytes, without a unit: {number}' in str(caught.value)


def test_a_required_key_that_is_misspelt_is_told_once(problems):
    (problem,) = problems("namespaces: [{name: a, backnd: sqlite}]")
    assert problem.startswith('1:24: namespaces[0].backnd: unknown key; did you mean "backend"?')
    first, second = problems("namespaces: [{name: a, colour: red}]")
    assert first.endswith('namespaces[0]: the required key "backend" is missing')
    assert "namespaces[0].colour: unknown key" in second


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("circuit_breaker: {}", 'unknown key; did you mean "breaker"?'),
        ("retry: {}", 'unknown key; did you mean "retries"?'),
        ("Hedge: {}", 'unknown key; did you mean "hedging"?'),
        ("rate-limit: {}", 'unknown key; did you mean "rate" inside "limits"?'),
        ("replicas: 3", 'unknown key; did you mean "processes" inside "plugin"?'),
        ("plugin: {replicas: 3}", 'unknown key; did you mean "processes"?'),
        ("shedding: {}", 'unknown key; "shedding" belongs at the top level'),
        ("limits_store: {}", 'unknown key; "limits_store" belongs at the top level'),
        (
            "limits: {rate: {rps: 3}}",
            'unknown key; did you mean "calls_per_second"? (accepted: calls_per_second, burst, '
            "per, operations, costs, when_store_is_down)",
        ),
        (
            "limits: {rate: {calls_per_minute: 60}}",
            'unknown key; did you mean "calls_per_second"? (a sixtieth of the number) (accepted: '
            "calls_per_second, burst, per, operations, costs, when_store_is_down)",
        ),
        (
            "limits: {rate: 10}",
            "expected a mapping or a list, found a number; write {calls_per_second: 10}",
        ),
        ("limits: {rate: [5]}", "expected a mapping, found a number; write {calls_per_second: 5}"),
        ("limits: {rate: -1}", "expected a mapping or a list, found a number"),
        ("retries: true", "expected a mapping, found true or false; {} takes the defaults"),
        (
            "breaker: false",
            "expected a mapping, found true or false; remove the key, for there to be none",
        ),
    ],
)
def test_what_other_products_call_it(
    problems: Callable[[str], list[str]], keys: str, said: str
) -> None:
    (problem,) = problems(f"namespaces: [{{name: a, backend: sqlite, {keys}}}]")
    assert problem.split(": ", 2)[2] == said


@pytest.mark.parametrize(
    ("after", "advice"),
    [
        ("50ms", "; seconds, without a unit: 0.05"),
        ("95%", '; did you mean "p95"?'),
        ("P99.9", '; did you mean "p99.9"?'),
        ("'95'", '; did you mean "p95"?'),
        ("p100", ""),
        ("soon", ""),
    ],
)
def test_a_percentile_or_seconds_in_other_words(
    problems: Callable[[str], list[str]], after: str, advice: str
) -> None:
    (problem,) = problems(
        f"namespaces: [{{name: a, backend: sqlite, hedging: {{after: {after}}}}}]"
    )
    shown = after.strip("'")
    assert problem.endswith(f'found the text "{shown}"{advice}')
