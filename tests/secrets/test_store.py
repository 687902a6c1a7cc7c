"""Where a secret is, and texts with secrets in them."""

import threading
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from prism.config.errors import ConfigError
from prism.config.types import SecretsConfig
from prism.secrets import Credentials, Secrets
from prism.secrets import store as module
from prism.secrets.store import source_of


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, content in [("pg", "hunter2\n"), ("crlf", "a b\r\n")]:
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    return tmp_path


def config(directory: Path | str = "/run/secrets", **more: object) -> SecretsConfig:
    return msgspec.convert({"directory": str(directory), **more}, SecretsConfig)


def credentials(texts: dict[str, str], directory: Path) -> Credentials:
    return Secrets().credentials(texts, config(directory))


async def test_placeholders_are_replaced_wherever_they_stand_in_a_value(directory: Path) -> None:
    texts = {
        "user": "prism",
        "password": "{{ secret:pg }}",
        "url": "postgres://u:{{secret:pg}}@h/{{  secret:crlf  }}",
    }
    assert await credentials(texts, directory)() == {
        "user": "prism",
        "password": "hunter2",
        "url": "postgres://u:hunter2@h/a b",
    }
    assert await credentials({}, directory / "missing")() == {}


async def test_a_secret_that_looks_like_a_placeholder_is_not_replaced_again(
    directory: Path,
) -> None:
    (directory / "tricky").write_text(r"{{ secret:pg }}\1")
    found = await credentials({"a": "{{ secret:tricky }}"}, directory)()
    assert found == {"a": r"{{ secret:pg }}\1"}


async def test_a_directory_that_hangs_takes_few_threads(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are resolved, and large bodies checked, in the others."""
    released = threading.Event()
    monkeypatch.setattr(module, "read_from", lambda *_: released.wait(60) and "found")
    secrets = Secrets()
    asked = secrets.credentials({"a": "{{ secret:pg }}"}, config(directory))
    limiter = trio.to_thread.current_default_thread_limiter()
    free = limiter.available_tokens
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(asked)
        await trio.testing.wait_all_tasks_blocked()
        held = free - limiter.available_tokens, secrets.threads.borrowed_tokens
        nursery.cancel_scope.cancel()
    released.set()
    assert held == (0, module.THREADS)


async def test_a_directory_that_hangs_is_said_to_and_holds_up_no_variables(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(module, "read_from", lambda *_: released.wait(60) and "found")
    monkeypatch.setattr(module, "READ_SECONDS", 0.01)
    secrets = Secrets({"NAMED": "hunter4"})
    places = config(directory, environment=["NAMED"])
    asked = secrets.credentials({"a": "{{ secret:pg }}{{ secret:NAMED }}"}, places)
    try:
        for _ in range(module.THREADS + 1):  # with no thread left, too
            with pytest.raises(ConfigError, match=r"pg.*does not answer within 0.01 s$") as caught:
                await asked()
            assert len(caught.value.problems) == 1
        variable = secrets.credentials({"a": "{{ secret:NAMED }}"}, places)
        assert await variable() == {"a": "hunter4"}
    finally:
        released.set()


async def test_a_rotated_secret_is_seen_the_next_time(directory: Path) -> None:
    asked = credentials({"a": "{{ secret:pg }}"}, directory)
    assert await asked() == {"a": "hunter2"}
    (directory / "pg").write_text("hunter3")
    assert await asked() == {"a": "hunter3"}


async def test_every_secret_that_cannot_be_read_is_named_but_no_value(directory: Path) -> None:
    (directory / "empty").touch()
    texts = {name: f"{{{{ secret:pg }}}}{{{{ secret:{name} }}}}" for name in ("missing", "empty")}
    with pytest.raises(ConfigError) as caught:
        await credentials(texts, directory)()
    assert [str(problem) for problem in caught.value.problems] == [
        f'{directory}/empty: credentials.empty: the secret "empty" cannot be read: it is empty',
        f'{directory}/missing: credentials.missing: the secret "missing" cannot be read: '
        "No such file or directory",
    ]
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_the_warning_of_an_exposed_file_comes_once(directory: Path) -> None:
    (directory / "pg").chmod(0o644)
    told: list[Path] = []
    secrets = Secrets(on_exposed=told.append)
    for _ in range(2):
        assert await secrets.credentials({"a": "{{ secret:pg }}"}, config(directory))()
    assert told == [directory / "pg"]


async def test_of_the_environment_only_what_is_named_can_be_read(directory: Path) -> None:
    environment = {"NAMED": "hunter4\n", "OTHER": "CANARY", "EMPTY": ""}
    secrets = Secrets(environment)
    places = config(directory, environment=["NAMED", "EMPTY", "UNSET"])
    found = await secrets.credentials({"a": "{{ secret:NAMED }}"}, places)()
    assert found == {"a": "hunter4"}
    texts = {name: f"{{{{ secret:{name} }}}}" for name in ("OTHER", "EMPTY", "UNSET")}
    with pytest.raises(ConfigError) as caught:
        await secrets.credentials(texts, places)()
    assert [str(problem) for problem in caught.value.problems] == [
        "the environment variable EMPTY: credentials.EMPTY: "
        'the secret "EMPTY" cannot be read: it is empty',
        f'{directory}/OTHER: credentials.OTHER: the secret "OTHER" cannot be read: '
        "No such file or directory",
        "the environment variable UNSET: credentials.UNSET: "
        'the secret "UNSET" cannot be read: it is not set',
    ]


async def test_a_variable_is_not_replaced_by_a_file_of_its_name(directory: Path) -> None:
    places = config(directory, environment=["pg"])
    with pytest.raises(ConfigError, match=r"the environment variable pg: .* it is not set"):
        await Secrets({}).credentials({"a": "{{ secret:pg }}"}, places)()


VAULT = {
    "address": "https://vault:8200",
    "role_id": "r",
    "secret_id": "{{ secret:sid }}",
    "secrets": [{"name": "pg", "path": "prod/orders", "key": "password"}],
}


def test_credentials_are_equal_if_their_texts_and_places_are() -> None:
    def made(**more: object) -> Credentials:
        return Secrets().credentials({"a": "{{ secret:pg }}"}, config(**more))

    with_vault = made(vault=VAULT)
    assert made() == made(environment=["OTHER"])
    assert made() != made(environment=["pg"])
    assert made() != with_vault
    more = [*VAULT["secrets"], {"name": "b", "path": "b", "key": "b"}]
    assert with_vault == made(vault=VAULT | {"secrets": more}, environment=["OTHER"])
    assert with_vault != made(vault=VAULT, environment=["sid"]), "another way to log in"
    assert with_vault != made(vault=VAULT | {"address": "https://vault2:8200"})


def test_a_place_shows_no_login() -> None:
    token = VAULT | {"token": "CANARY", "role_id": None, "secret_id": None}
    source = source_of("pg", config(vault=token))
    assert str(source) == "https://vault:8200 secret/prod/orders#password"
    assert "CANARY" not in repr(source)
    assert "CANARY" not in repr(Secrets().credentials({"a": "CANARY{{ secret:pg }}"}, config()))
