"""Files from their text to a Config, and what is said about wrong ones."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.config import load, load_config, parse_config, redacted
from prism.config.errors import ConfigError
from prism.config.load import MAX_PROBLEMS
from prism.config.types import Config, PluginForm

EXAMPLES = Path(__file__).parents[2] / "examples" / "config"
Problems = Callable[[str], list[str]]


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.name)
def test_every_example_loads(file: Path) -> None:
    loaded = load_config(file)
    assert loaded.file == str(file)
    plain = msgspec.to_builtins(loaded.config)
    assert msgspec.convert(plain, Config) == loaded.config


def test_the_rfc_s_namespaces() -> None:
    loaded = load_config(EXAMPLES / "namespaces.yaml")
    profiles, events = loaded.config.namespaces
    assert profiles.plugin.form is PluginForm.LIBRARY
    assert profiles.plugin.library == str(EXAMPLES / "libprism_postgres_plugin.so")
    assert not profiles.plugin.shares_process
    assert profiles.config["pool_size"] == 20
    assert profiles.credentials["password"] == "{{ secret:postgres_password }}"
    assert events.plugin.form is PluginForm.SOCKET
    assert events.plugin.socket == "/var/run/plugins/kafka.sock"
    assert events.config["brokers"] == ["kafka-1:9092", "kafka-2:9092", "kafka-3:9092"]
    assert loaded.warnings == ()


def test_the_rfc_s_remote_plugin() -> None:
    (namespace,) = load_config(EXAMPLES / "remote.yaml").config.namespaces
    assert namespace.plugin.address == ("custom-plugin.example.com", 20100)
    assert namespace.plugin.tls is not None
    assert namespace.plugin.tls.ca_cert == "/path/to/ca.pem"


def test_the_rfc_s_registered_plugin() -> None:
    loaded = load_config(EXAMPLES / "register-plugin.yaml")
    assert loaded.config.plugins[0].library == "/path/to/libmy_backend_plugin.so"
    assert "no namespaces" in str(loaded.warnings[0])


def test_relative_paths_start_at_the_file() -> None:
    text = """
listen: {tls: {cert: tls/cert.pem, key: /abs/key.pem}}
secrets: {directory: secrets}
plugins:
  - {name: p, type: sidecar, versions: {v1: {command: ./v1/run --fast, signature: v1/run.sig}}}
namespaces:
  - name: a
    backend: b
    plugin: {type: sidecar, command: "bin/run 'x y'", working_directory: work}
    config: {path: notes.db}
  - {name: c, backend: b, plugin: {type: sidecar, command: [python3, run.py]}}
"""
    config = parse_config(text, "/etc/prism/prism.yaml").config
    assert config.listen.tls is not None
    assert config.listen.tls.cert == "/etc/prism/tls/cert.pem"
    assert config.listen.tls.key == "/abs/key.pem"
    assert config.secrets.directory == "/etc/prism/secrets"
    assert config.plugins[0].versions["v1"].argv == ["/etc/prism/v1/run", "--fast"]
    assert config.plugins[0].versions["v1"].signature == "/etc/prism/v1/run.sig"
    assert config.namespaces[0].plugin.argv == ["/etc/prism/bin/run", "x y"]
    assert config.namespaces[0].plugin.working_directory == "/etc/prism/work"
    assert config.namespaces[0].config == {"path": "notes.db"}, "the plugin's own business"
    assert config.plugins[0].working_directory == "/etc/prism"
    assert config.namespaces[1].plugin.working_directory == "/etc/prism"
    assert config.namespaces[1].plugin.argv == ["python3", "run.py"], "looked up in PATH"


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("", "/etc/prism/prism.db"),
        ("config: {path: a.db}", "/etc/prism/a.db"),
        ("config: {path: /a.db}", "/a.db"),
        ("config: {path: ':memory:'}", ":memory:"),
    ],
)
def test_paths_of_built_in_plugins_start_at_the_file(written: str, path: str) -> None:
    text = f"namespaces:\n  - name: a\n    backend: sqlite\n    {written}\n"
    config = parse_config(text, "/etc/prism/prism.yaml").config
    assert config.namespaces[0].config == {"path": path}


def test_the_config_of_built_in_plugins_is_checked(problems: Problems) -> None:
    text = """\
namespaces:
  - name: a
    backend: sqlite
    config:
      pth: a.db
      readers: 65
      max_rows: 0
      sql_timeout_seconds: 0
      synchronous: ful
  - name: b
    backend: sqlite
    plugin: {type: sidecar, command: run}
    config: {pth: not asked}
"""
    found = problems(text)
    assert [line.partition(": ")[0] for line in found] == [
        f"{line}:{column}" for line, column in [(5, 7), (6, 16), (7, 17), (8, 28), (9, 20)]
    ]
    assert found[0].startswith('5:7: namespaces[0].config.pth: unknown key; did you mean "path"?')
    assert "expected a whole number from 1, found" in found[2]
    assert "expected a number above 0, found" in found[3]


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "missing.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert "is empty; the smallest useful one" in refused(tmp_path / "empty.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    assert "expected a mapping, found a list" in refused(tmp_path / "list.yaml")


def test_a_text_with_problems_but_no_value() -> None:
    with pytest.raises(ConfigError, match="is empty"):
        parse_config("---\n", "f")


def test_what_only_msgspec_refuses_is_told_in_its_words(
    problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "check_types", lambda at, block: None)
    (problem,) = problems("listen: {port: x}")
    assert problem == "1:1: Expected `int`, got `str` - at `$.listen.port`"


def test_a_fault_that_aliases_repeat_is_told_once(problems: Problems) -> None:
    text = """\
namespaces:
  - {name: a, backend: sqlite, limits: &limits {max_in_flight: 0}}
  - {name: b, backend: sqlite, limits: *limits}
  - {name: c, backend: sqlite, limits: {<<: *limits}}
"""
    found = problems(text)
    assert [problem.partition(": ")[0] for problem in found] == ["2:64"]


def test_all_problems_come_at_once_in_the_order_of_the_file(problems: Problems) -> None:
    text = """\
listen:
  address: 0.0.0.0
  prot: 1
namespaces:
  - name: Orders
    backend: on
    plugin:
      typ: sidecar
    socket: x
  - backend: sqlite
    limits: {max_in_flight: "5", timeout_seconds: 0}
  - name: b
    backend: sqlite
    config:
drain_timeout_seconds: soon
log: {format: jsn, level: 5}
x: 1
x: 2
"""
    assert problems(text) == [
        "2:12: listen.address: 0.0.0.0 can be reached from other machines, and clients are not "
        "authenticated; use 127.0.0.1, or set authentication, or accept it with "
        '"insecure: true" at the top level',
        '3:3: listen.prot: unknown key; did you mean "port"? '
        "(accepted: address, port, server, tls, client_certificates, trusted_proxies, web_origins, "
        "limits)",
        "5:11: namespaces[0].name: expected 1 to 63 lower-case letters, digits and hyphens, "
        'no hyphen first, found the text "Orders"',
        "6:14: namespaces[0].backend: expected text, found true (written on); "
        'put it in quotes: "on"',
        '8:7: namespaces[0].plugin.typ: unknown key; did you mean "type"?',
        '9:5: namespaces[0].socket: unknown key; "socket" belongs inside "plugin"',
        '10:5: namespaces[1]: the required key "name" is missing',
        "11:29: namespaces[1].limits.max_in_flight: expected a whole number from 1 to 1000000, "
        'found the text "5"; remove the quotes',
        "11:51: namespaces[1].limits.timeout_seconds: expected a number from 0.001 to 86400, "
        "found the number 0",
        "14:12: namespaces[2].config: expected a mapping, found nothing (null); "
        "remove the key, or give it a value",
        "15:24: drain_timeout_seconds: expected a number from 0.001 to 86400, "
        'found the text "soon"',
        "16:15: log.format: expected one of auto, console, json, found the text "
        '"jsn"; did you mean "json"?',
        "16:27: log.level: expected one of debug, info, warning, error, found the number 5",
        f"17:1: x: unknown key (accepted: {', '.join(Config.__struct_fields__)})",
        "18:1: x: the key is here twice; first at line 17, column 1",
    ]


def test_yaml_s_booleans_in_plugin_settings_draw_a_warning() -> None:
    plugin = "plugin: {type: sidecar, command: r}"
    config = "config: {country: no, x: true, y: 'on'}"
    text = f"namespaces:\n  - {{name: a, {config}, backend: b, {plugin}}}\n"
    (warning,) = parse_config(text, "f").warnings
    assert str(warning) == (
        "f:2:33: namespaces[0].config.country: YAML reads no as false; write false, "
        'or put it in quotes if you mean the word: "no"'
    )


SIGNS = [f"{sign}CANARY" for sign in "*&!@%`|>#?-~"]


def everything_said(text: str) -> str:
    try:
        return "\n".join(map(str, parse_config(text, "f").warnings))
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize("secret", ["CANARY", "12345678", "2020-01-01", "12:34:56", *SIGNS])
@pytest.mark.parametrize("form", ["{}", "[{}]", "{{a: {}}}", "password:{}", "- {}", "a: {{ {} }}"])
@pytest.mark.parametrize("key", ["config", "credentials", "plugin", "plugin: {environment"])
def test_no_message_shows_a_value_that_may_be_secret(key: str, form: str, secret: str) -> None:
    end = "}" if "{" in key else ""
    value = form.format(secret)
    for block in (f"\n      {value}", f" {value}", f" {{password: {value}}}"):
        text = f"namespaces:\n  - name: a\n    backend: sqlite\n    {key}:{block}{end}\n"
        assert secret.lstrip("".join(SIGNS).replace("CANARY", "")) not in everything_said(text)


def test_a_long_value_is_cut(problems: Problems) -> None:
    (problem,) = problems(f"log: {{level: {'x' * 5000}}}")
    assert len(problem) < 200
    (problem, *_) = problems(f"{'k' * 5000}: 1")
    assert len(problem) < 200


def test_only_so_many_problems_are_listed(problems: Problems) -> None:
    found = problems("".join(f"k{n}: 1\n" for n in range(MAX_PROBLEMS + 5)))
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1].endswith("and 5 more problems")


def test_a_large_file_is_checked_in_reasonable_time() -> None:
    entry = "  - name: n{}\n    backend: sqlite\n    config: {{path: n{}.db}}\n"
    text = "namespaces:\n" + "".join(entry.format(n, n) for n in range(2000))
    assert len(parse_config(text, "f").config.namespaces) == 2000


@given(
    st.lists(
        st.sampled_from(
            [
                "namespaces:",
                "  - name: a",
                "    backend: sqlite",
                "    plugin:",
                "      type: sidecar",
                "      type: in_process",
                "      socket: s",
                "      module: a:B",
                "      endpoint: localhost:1",
                "      name: p",
                "    config: {a: '{{ secret:x }}'}",
                "    credentials: {a: '{{ secret:x }}'}",
                "plugins:",
                "  - {name: p, type: grpc, versions: {v1: {}}}",
                "    versions: {v2: {tls: {}}}",
                "listen: {address: '::'}",
                "insecure: true",
                "admin:",
                "  - 1",
            ]
        ),
        max_size=14,
    )
)
def test_any_mix_of_lines_is_loaded_or_refused(lines: list[str]) -> None:
    try:
        loaded = parse_config("\n".join(lines), "f")
    except ConfigError as error:
        assert all(problem.message for problem in error.problems)  # noqa: PT017
    else:
        redacted(loaded.config)
