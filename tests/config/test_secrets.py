import time
from collections.abc import Callable

import pytest

from prism.config import parse_config, redacted
from prism.config.errors import ConfigError
from prism.config.secrets import is_secret, mask

Problems = Callable[[str], list[str]]


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
    "place",
    [
        "limits_store: {url: 'redis://h', password: %s}",
        "secrets: {vault: {address: 'https://v', token: %s, "
        "secrets: [{name: a, path: b, key: c}]}}",
        "secrets: {vault: {address: 'https://v', role_id: r, secret_id: %s, "
        "secrets: [{name: a, path: b, key: c}]}}",
        "authentication: {introspection: {url: 'https://i', client_id: c, client_secret: %s}}",
    ],
)
def test_a_secret_without_its_quotes_is_not_shown(place: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(f"{place % 4711815}\nnamespaces: [{{name: a, backend: sqlite}}]", "f")
    (problem,) = raised.value.problems
    assert problem.message == "expected text that is not empty, found a number; put it in quotes"


def test_where_a_key_above_is_misspelt_only_that_is_told(problems: Problems) -> None:
    own = "{name: a, backend: redis, %s: {password: '{{ secret:y }}'}}"
    (problem,) = problems(f"namespacs: [{own % 'credentials'}]")
    assert 'did you mean "namespaces"?' in problem
    (problem,) = problems(f"namespaces: [{own % 'credental'}]")
    assert 'did you mean "credentials"?' in problem


@pytest.mark.parametrize("text", ["${PGPASSWORD}", "${PGPASSWORD:-CANARY}"])
def test_a_variable_of_the_environment_is_not_expanded_and_told_so(text: str) -> None:
    own = f"plugin: {{type: sidecar, command: run}}, credentials: {{password: '{text}'}}"
    (warning,) = parse_config(f"namespaces: [{{name: a, backend: b, {own}}}]", "f").warnings
    assert warning.message == (
        "${PGPASSWORD} is not expanded, so the plugin gets these characters themselves; write "
        '"{{ secret:PGPASSWORD }}", with PGPASSWORD in secrets.environment'
    )


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


VAULT = (
    "secrets: {environment: [SID], vault: {address: 'https://v:8200', role_id: r, "
    "secret_id: '{{ secret:SID }}', secrets: [{name: pg, path: prod/pg, key: password}]}}\n"
    "namespaces: [{name: a, backend: b, plugin: {type: sidecar, command: run}, "
    "credentials: {password: '{{ secret:pg }}'}}]\n"
)


def test_what_leads_to_secrets_is_shown_and_a_login_is_not() -> None:
    loaded = parse_config(VAULT, "f")
    assert loaded.warnings == ()
    assert redacted(loaded.config)["secrets"]["vault"]["secrets"] == [
        {"name": "pg", "path": "prod/pg", "key": "password"}
    ]
    assert redacted(loaded.config)["secrets"]["vault"]["secret_id"] == "{{ secret:SID }}"
    written = VAULT.replace("'{{ secret:SID }}'", "CANARY")
    (warning,) = parse_config(written, "f").warnings
    assert warning.path == "secrets.vault.secret_id"
    assert "the secret itself is in the configuration file" in warning.message
    assert redacted(parse_config(written, "f").config)["secrets"]["vault"]["secret_id"] == "***"
    token = written.replace("role_id: r, secret_id", "token")
    assert redacted(parse_config(token, "f").config)["secrets"]["vault"]["token"] == "***"


@pytest.mark.parametrize(
    ("old", "new", "path", "said"),
    [
        ("role_id: r, secret_id: '{{ secret:SID }}', ", "", "", "how does Prism log in?"),
        ("role_id: r", "role_id: r, token: t", "", "and not token and role_id"),
        ("role_id: r", "kubernetes_role: r", ".secret_id", "it goes with role_id"),
        ("role_id: r, secret_id", "auth_mount: x, token", ".auth_mount", "there is no login"),
        ("https://v", "http://v", ".address", "what comes in plain text can be anybody's"),
        ("https://v", "https://u:p@v", ".address", "without a user and a password"),
        ("https://v", "v", ".address", "expected a URL such as"),
        ("secret:SID", "secret:pg", ".secret_id", "pg is in Vault itself"),
        ("[SID]", "[SID, pg]", ".secrets[0].name", "secrets.environment has pg, too"),
        (
            "[{name", "[{name: pg, path: a, key: b}, {name", ".secrets[1].name",
            'the name "pg" is taken by line 1',
        ),
        ("prod/pg", "../pg", ".secrets[0].path", 'expected a path such as "prod/orders"'),
        ("prod/pg", "a/../../sys/raw", ".secrets[0].path", "expected a path such as"),
        ("prod/pg", "a%2f..", ".secrets[0].path", "expected a path such as"),
        ("prod/pg", "/prod/pg", ".secrets[0].path", "expected a path such as"),
        ("name: pg", "name: ../pg", ".secrets[0].name", "expected a name of letters, digits"),
        ("role_id: r", "role_id: r, mount: ../sys", ".mount", "expected a path such as"),
    ],
)  # fmt: skip
def test_mistakes_in_how_to_reach_vault(
    problems: Problems, old: str, new: str, path: str, said: str
) -> None:
    assert old in VAULT
    found = problems(VAULT.replace(old, new, 1))
    (told,) = [one for one in found if f"secrets.vault{path}: " in one]
    assert said in told
