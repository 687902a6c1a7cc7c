import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prism.config import parse_config, redacted, resolve_credentials
from prism.config.errors import ConfigError
from prism.config.secrets import MAX_SECRET_BYTES, Credentials, is_secret, mask

Problems = Callable[[str], list[str]]


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    for name, content in [("pg", b"hunter2\n"), ("crlf", b"a b\r\n"), ("key.pem", b"x\ny\n\n")]:
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    return tmp_path


def test_placeholders_are_replaced_wherever_they_stand_in_a_value(secrets: Path) -> None:
    credentials = {
        "user": "prism",
        "password": "{{ secret:pg }}",
        "url": "postgres://u:{{secret:pg}}@h/{{  secret:crlf  }}",
        "key": "{{ secret:key.pem }}",
    }
    assert resolve_credentials(credentials, secrets) == {
        "user": "prism",
        "password": "hunter2",
        "url": "postgres://u:hunter2@h/a b",
        "key": "x\ny",
    }
    assert resolve_credentials({}, secrets / "missing") == {}


def test_a_secret_that_looks_like_a_placeholder_is_not_replaced_again(secrets: Path) -> None:
    (secrets / "tricky").write_text(r"{{ secret:pg }}\1")
    assert resolve_credentials({"a": "{{ secret:tricky }}"}, secrets) == {"a": r"{{ secret:pg }}\1"}


def test_a_rotated_secret_is_seen_the_next_time(secrets: Path) -> None:
    assert resolve_credentials({"a": "{{ secret:pg }}"}, secrets) == {"a": "hunter2"}
    (secrets / "pg").write_text("hunter3")
    assert resolve_credentials({"a": "{{ secret:pg }}"}, secrets) == {"a": "hunter3"}


def test_every_secret_that_cannot_be_read_is_named_but_no_value(secrets: Path) -> None:
    (secrets / "empty").touch()
    (secrets / "binary").write_bytes(b"CANARY\xff")
    (secrets / "large").write_bytes(b"C" * (MAX_SECRET_BYTES + 1))
    (secrets / "folder").mkdir()
    os.mkfifo(secrets / "pipe")
    names = ["missing", "empty", "binary", "large", "folder", "pipe"]
    credentials = {name: f"{{{{ secret:pg }}}}{{{{ secret:{name} }}}}" for name in names}
    with pytest.raises(ConfigError) as caught:
        resolve_credentials(credentials, secrets)
    assert [str(problem) for problem in caught.value.problems] == [
        f'{secrets}/missing: credentials.missing: the secret "missing" cannot be read: '
        "No such file or directory",
        f'{secrets}/empty: credentials.empty: the secret "empty" cannot be read: it is empty',
        f'{secrets}/binary: credentials.binary: the secret "binary" cannot be read: '
        "it is not UTF-8 text",
        f'{secrets}/large: credentials.large: the secret "large" cannot be read: '
        "it is larger than 65536 bytes",
        f'{secrets}/folder: credentials.folder: the secret "folder" cannot be read: Is a directory',
        f'{secrets}/pipe: credentials.pipe: the secret "pipe" cannot be read: '
        "it is not a regular file",
    ]
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_that_any_user_may_read_draws_a_warning(
    secrets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        resolve_credentials({"a": "{{ secret:pg }}"}, secrets)
        assert not caplog.records
        (secrets / "pg").chmod(0o644)
        resolve_credentials({"a": "{{ secret:pg }}"}, secrets)
    assert f"{secrets}/pg" in caplog.text
    assert "hunter2" not in caplog.text


def test_the_warning_comes_once_however_often_a_plugin_is_started(
    secrets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (secrets / "pg").chmod(0o644)
    credentials = Credentials({"a": "{{ secret:pg }}"}, secrets)
    assert credentials() == credentials() == {"a": "hunter2"}
    assert caplog.text.count("any user may read") == 1
    assert credentials == Credentials({"a": "{{ secret:pg }}"}, secrets)


@pytest.mark.parametrize(
    "value",
    [
        "{{ secret:../etc/passwd }}",
        "{{ secret:/etc/passwd }}",
        "{{ secret:.. }}",
        "{{ secret:a/b }}",
        "{{ secret: }}",
        "{{ secret:a",
        "{{ env:HOME }}",
        "{{ secret:a }} {{b}}",
    ],
)
def test_a_malformed_placeholder_is_an_error(problems: Problems, value: str) -> None:
    text = f"namespaces: [{{name: a, backend: sqlite, credentials: {{k: '{value}'}}}}]"
    (problem,) = problems(text)
    assert 'credentials.k: a placeholder must read "{{ secret:name }}"' in problem
    assert "passwd" not in problem


@pytest.mark.parametrize(
    "block",
    [
        "config: {a: [{b: 'x {{secret:y}}'}]}",
        "config: {'{{ secret:y }}': 1}",
        "description: '{{ secret : y }}'",
        "plugin: {type: sidecar, command: [a, '{{ secret:y }}']}",
        "plugin: {type: sidecar, command: a, environment: {A: '{{ secret:y }}'}}",
        "credentials: {'{{ secret:y }}': x}",
    ],
)
def test_a_placeholder_anywhere_else_is_an_error(problems: Problems, block: str) -> None:
    found = problems(f"namespaces: [{{name: a, backend: sqlite, {block}}}]")
    (_,) = (each for each in found if "in the values of `credentials` only" in each)


@pytest.mark.parametrize(
    ("block", "path"),
    [
        ("config: {url: 'redis://:CANARY@h'}", "config.url"),
        ("config: {pool: [{dsn: 'host=h password=CANARY'}]}", "config.pool[0].dsn"),
        ("config: {api_key: CANARY}", "config.api_key"),
        ("credentials: {password: CANARY}", "credentials.password"),
    ],
)
def test_a_password_in_the_file_draws_a_warning(block: str, path: str) -> None:
    plugin = "plugin: {type: sidecar, command: run}"
    text = f"namespaces: [{{name: a, backend: b, {plugin}, {block}}}]"
    (warning,) = parse_config(text, "f").warnings
    assert warning.path == f"namespaces[0].{path}"
    assert "CANARY" not in str(warning)


@pytest.mark.parametrize("key", ["password", "sasl_password", "DB_PASSWD", "api-key", "authToken"])
def test_keys_that_name_a_secret(key: str) -> None:
    assert is_secret(key, "x") == (key != "authToken")
    assert not is_secret(key, "")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("primary_key", "id"),
        ("max_tokens", "5"),
        ("url", "https://h:80/a@b"),
        ("url", "postgres://user@h/db"),
        ("key_prefix", "a"),
        ("without_token", "read"),
    ],
)
def test_what_only_looks_like_a_secret(key: str, text: str) -> None:
    assert not is_secret(key, text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgres://u:p@h:5432/d?x=1", "postgres://u:***@h:5432/d?x=1"),
        ("amqp://u:p@q@h", "amqp://u:***@h"),
        ("redis://:p@h", "redis://:***@h"),
        ("a://u:p@h,b://v:q@i", "a://u:***@h,b://v:***@i"),
        ("host=h password=p user=u", "host=h password=*** user=u"),
        ("https://h/?pwd=p&x=1", "https://h/?pwd=***&x=1"),
    ],
)
def test_passwords_inside_a_text_are_masked(text: str, shown: str) -> None:
    assert mask(text) == shown


@pytest.mark.parametrize("part", ["a", "a://", "a://b:", "pwd=", "a:b@"])
def test_a_long_text_is_masked_in_linear_time(part: str) -> None:
    started = time.process_time()
    mask(part * 100_000)
    assert time.process_time() - started < 10, "quadratic would be minutes"


def test_redacted_shows_everything_but_secrets() -> None:
    text = """
namespaces:
  - name: a
    backend: sqlite
    config: {url: "pg://u:CANARY@h", token: CANARY, pin: {secret: 5}, size: 3, pool: ["x=1"]}
    credentials: {user: CANARY, password: "{{ secret:pg }}", mixed: "CANARY{{ secret:pg }}"}
    plugin: {type: sidecar, command: [a, password=CANARY], environment: {API_TOKEN: CANARY}}
"""
    shown = redacted(parse_config(text, "f").config)
    assert "CANARY" not in str(shown)
    (namespace,) = shown["namespaces"]
    assert namespace["config"] == {
        "url": "pg://u:***@h",
        "token": "***",
        "pin": {"secret": "***"},
        "size": 3,
        "pool": ["x=1"],
    }
    assert namespace["credentials"] == {
        "user": "***",
        "password": "{{ secret:pg }}",
        "mixed": "***",
    }
    assert shown["listen"]["port"] == 50051
