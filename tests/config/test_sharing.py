"""Namespaces with different access whose data are in one place."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from prism.cli.main import prism
from prism.config import parse_config

PG = 'backend: postgres, config: {connection_string: "postgresql://h/d"}'
KAFKA = "backend: kafka, config: {brokers: [h:1], topic_prefix: %s}"
REDIS = "backend: redis, config: {key_prefix: '%s'}"


def shared(first: str, second: str, access: str = "{owners: [bob]}") -> list[str]:
    """What is said of two namespaces, of which ann owns the first."""
    text = f"""\
namespaces:
  - {{name: a, access: {{owners: [ann]}}, {first}}}
  - {{name: b, access: {access}, {second}}}
authentication: {{api_keys: {{file: k}}}}
"""
    warnings = parse_config(text, "/etc/prism/prism.yaml").warnings
    return [str(each) for each in warnings if "its access is another" in each.message]


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ("backend: sqlite", "backend: sqlite", "the SQLite file /etc/prism/prism.db"),
        ("backend: sqlite, config: {path: /d/x}", "backend: sqlite, config: {path: /d/e/../x}",
         "the SQLite file /d/x"),
        (f"{PG}, credentials: {{username: u}}", f"{PG}, credentials: {{username: u}}",
         "database 'd' of PostgreSQL as the same user"),
        (REDIS % "x:", REDIS % "x:y:", "keys of this Redis that begin with 'x:y:'"),
        (REDIS % "", "backend: redis", "keys of this Redis that begin with 'b:'"),
        (KAFKA % "x.", KAFKA % "x.", "topics of this Kafka that begin with 'x.'"),
    ],
)  # fmt: skip
def test_one_place_of_two_is_told(first: str, second: str, what: str) -> None:
    (said,) = shared(first, second)
    place = "/etc/prism/prism.yaml:3:"
    assert said.startswith(place)
    assert f'namespace "a" (line 2) has {what}, too, and its access is another' in said
    assert shared(first, second, access="{allow: [], owners: [ann]}") == [], "the same people"
    assert shared(first, second, access="null") == [], "which is nobody's"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("backend: sqlite, config: {path: a.db}", "backend: sqlite, config: {path: b.db}"),
        ("backend: sqlite, config: {path: ':memory:'}",
         "backend: sqlite, config: {path: ':memory:'}"),
        (f"{PG}, credentials: {{username: u}}", f"{PG}, credentials: {{username: v}}"),
        (PG, PG.replace("d\"", "d\", sql: 'off'")),
        ("backend: redis", "backend: redis"),
        ("backend: redis", "backend: redis, config: {url: 'redis://h/1', key_prefix: ''}"),
        (KAFKA % "x.", KAFKA % "y."),
        ("backend: x, plugin: {type: sidecar, command: x}", "backend: sqlite"),
    ],
)  # fmt: skip
def test_what_is_apart(first: str, second: str) -> None:
    assert shared(first, second) == []


def test_a_link_to_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    (tmp_path / "b.db").symlink_to("a.db")
    config = f"backend: sqlite, config: {{path: {tmp_path}/%s.db}}"
    assert len(shared(config % "a", config % "b")) == 1


def test_it_is_a_warning_and_if_asked_for_an_error(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("keys: []\n")
    file = tmp_path / "prism.yaml"
    file.write_text("""\
authentication: {api_keys: {file: keys.yaml}}
namespaces:
  - {name: a, access: {owners: [ann]}, backend: sqlite}
  - {name: b, access: {owners: [bob]}, backend: sqlite}
""")
    for arguments, status, begins in (([], 0, "warning: "), (["--strict"], 1, "")):
        result = CliRunner().invoke(prism, ["config", "check", *arguments, str(file)])
        lines = [each for each in result.stderr.splitlines() if "is another" in each]
        assert (result.exit_code, len(lines)) == (status, 1)
        assert lines[0].startswith(f"{begins}{file}:4:")
