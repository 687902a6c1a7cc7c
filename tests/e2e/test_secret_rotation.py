"""Secrets that change, vanish and come back, under a running proxy: files, and a Vault's."""

import hashlib
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from prism_process import SUPPORT, eventually, settled

from tests.services.vault import ROLE_ID, SECRET_ID, Vault

LOGIN = [sys.executable, str(SUPPORT / "login_plugin.py")]
FIRST, SECOND, WRONG = (
    "nightingale-first-password",
    "nightingale-second-password",
    "nightingale-wrong-password",
)
OPEN = {"admin": {"without_token": "change"}}


@pytest.fixture
def passwords(tmp_path):
    """The file with the passwords that the backend takes."""
    file = tmp_path / "accepted"
    file.write_text(f"{FIRST}\n{SECOND}\n")
    return file


@pytest.fixture
def secrets(tmp_path):
    directory = tmp_path / "secrets"
    directory.mkdir(mode=0o700)
    return directory


def put(directory, name, value):
    """A secret, in the place of the one before."""
    new = directory / f".{name}.new"
    new.touch(mode=0o600)
    new.write_text(value + "\n")
    new.replace(directory / name)


def swap(directory, version, **values):
    """A Secret of Kubernetes in a new version: one link is renamed."""
    (directory / version).mkdir()
    for name, value in values.items():
        put(directory / version, name, value)
        with suppress(FileExistsError):
            (directory / name).symlink_to(f"..data/{name}")
    (directory / "..tmp").symlink_to(version)
    (directory / "..tmp").replace(directory / "..data")


def namespace(name, secret, passwords, **plugin):
    return {
        "name": name,
        "backend": "any",
        "config": {"passwords": str(passwords)},
        "credentials": {"password": f"{{{{ secret:{secret} }}}}"},
        "plugin": {"type": "sidecar", "command": LOGIN, **plugin},
    }


def has(proxy, name, password):
    """Whether the namespace serves with this password."""
    answer = proxy.call(name, "who")
    assert answer.status_code in (200, 503), answer.text
    return answer.json().get("hash") == hashlib.sha256(password.encode()).hexdigest()


def status(proxy, name):
    return proxy.client.get(f"{proxy.admin}/admin/plugins/{name}").json()


def prism(proxy, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "prism", *arguments, "--url", proxy.admin],
        capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip


def everything_seen(proxy):
    """All that operators, and other users of the machine, can see."""
    paths = ("/admin/plugins", "/admin/config", "/admin/config/plan", "/metrics", "/readyz")
    yield from (proxy.client.get(proxy.admin + path).text for path in paths)
    for each in status_names(proxy):
        for path in (f"/admin/plugins/{each}", f"/admin/plugins/{each}/logs"):
            yield proxy.client.get(proxy.admin + path).text
        yield prism(proxy, "plugin", "status", each)
        failed = proxy.call(each, "fail")
        assert failed.status_code in (500, 503)
        yield failed.text
    yield prism(proxy, "plugin", "list")
    yield prism(proxy, "config", "show")
    for pid in (proxy.pid, *proxy.plugin_pids):
        with suppress(OSError):
            yield Path(f"/proc/{pid}/cmdline").read_text()
        if pid != proxy.pid:
            with suppress(OSError):
                yield Path(f"/proc/{pid}/environ").read_text()
    yield proxy.printed
    yield proxy.log


def status_names(proxy):
    found = proxy.client.get(f"{proxy.admin}/admin/plugins").json()["plugins"]
    return [each["namespace"] for each in found]


def assert_nothing_is_seen(proxy, *more):
    for text in everything_seen(proxy):
        for word in ("nightingale", *more):
            at = text.find(word)
            assert at < 0, text[max(0, at - 300) : at + 100]


def test_exactly_those_that_have_a_changed_secret_are_reloaded(start_prism, secrets, passwords):
    swap(secrets, "..v1", shared=FIRST, own=FIRST)
    two = [namespace(name, "shared", passwords) for name in ("a", "b")]
    proxy = start_prism(
        {
            "log": {"level": "debug"},
            "secrets": {"directory": str(secrets)},
            "namespaces": [*two, namespace("c", "own", passwords)],
            **OPEN,
        },
        tracebacks=True,  # of the operation that raises
    )
    before = {name: status(proxy, name)["instance"] for name in "abc"}
    swap(secrets, "..v2", shared=SECOND, own=FIRST)
    for name in "ab":
        eventually(lambda name=name: has(proxy, name, SECOND))
    assert has(proxy, "c", FIRST)
    assert settled(lambda: status(proxy, "c")["instance"]) == before["c"]
    for name, count in (("a", 1), ("b", 1), ("c", 0)):
        found = proxy.metric("prism_secret_rotations_total", namespace=name, outcome="swapped")
        assert found == count
        assert proxy.metric("prism_secrets_stale", namespace=name) == 0
    assert proxy.logged("namespace a: the secrets in credentials.password have changed")
    assert_nothing_is_seen(proxy)


def test_a_wrong_password_leaves_the_old_one_serving(start_prism, secrets, passwords):
    put(secrets, "pw", FIRST)
    config = {"secrets": {"directory": str(secrets)}, **OPEN}
    proxy = start_prism(
        {"log": {"level": "debug"}, "namespaces": [namespace("a", "pw", passwords)], **config},
        tracebacks=True,
    )
    before = status(proxy, "a")["instance"]
    put(secrets, "pw", WRONG)
    told = eventually(lambda: status(proxy, "a")["secrets"])
    assert told.startswith("the changed secrets in credentials.password do not work: ")
    assert "the instance with the ones before serves on, and it is tried again in 5 s" in told
    assert status(proxy, "a")["instance"] == before
    assert has(proxy, "a", FIRST)
    assert proxy.metric("prism_secrets_stale", namespace="a") == 1
    outcomes = {"namespace": "a", "outcome": "rolled_back"}
    assert proxy.metric("prism_secret_rotations_total", **outcomes) == 1
    assert "do not work" in prism(proxy, "plugin", "list")
    assert "do not work" in prism(proxy, "plugin", "status", "a")
    assert proxy.logged("do not work")
    # It is tried again by itself: the backend comes to know the new password.
    passwords.write_text(f"{FIRST}\n{WRONG}\n")
    eventually(lambda: has(proxy, "a", WRONG))
    eventually(lambda: not status(proxy, "a")["secrets"])
    put(secrets, "pw", SECOND)
    eventually(lambda: status(proxy, "a")["secrets"])
    # Back to what it has: then there is nothing to do.
    put(secrets, "pw", WRONG)
    eventually(lambda: not status(proxy, "a")["secrets"])
    assert proxy.metric("prism_secrets_stale", namespace="a") == 0
    assert_nothing_is_seen(proxy)


def test_one_that_may_not_run_twice_goes_back_to_the_password_that_worked(
    start_prism, secrets, passwords
):
    put(secrets, "pw", FIRST)
    entry = namespace("a", "pw", passwords, overlap=False)
    config = {"secrets": {"directory": str(secrets)}, "namespaces": [entry], **OPEN}
    proxy = start_prism(config, tracebacks=True)
    put(secrets, "pw", WRONG)
    told = eventually(lambda: status(proxy, "a")["secrets"])
    assert "it is tried again when the secret changes, or by a reload" in told
    eventually(lambda: has(proxy, "a", FIRST))
    put(secrets, "pw", SECOND)
    eventually(lambda: has(proxy, "a", SECOND))
    assert_nothing_is_seen(proxy)


def test_what_is_missing_keeps_its_namespace_waiting_and_no_other(start_prism, secrets, passwords):
    put(secrets, "there", FIRST)
    entries = [namespace("a", "missing", passwords), namespace("b", "there", passwords)]
    # Its own attempts are far apart: that it starts is the secret's doing.
    entries[0]["plugin"]["restart"] = {"first_delay_seconds": 3600, "max_delay_seconds": 3600}
    config = {"secrets": {"directory": str(secrets)}, "namespaces": entries, **OPEN}
    proxy = start_prism(config, tracebacks=True)
    assert has(proxy, "b", FIRST)
    assert proxy.call("a", "who").status_code == 503
    why = proxy.absence("a")
    assert why == (
        f'{secrets}/missing: credentials.password: the secret "missing" cannot be read: '
        "No such file or directory; it starts as soon as that can be read"
    )
    assert why in prism(proxy, "plugin", "list")
    put(secrets, "missing", WRONG)
    eventually(lambda: "is not accepted" in proxy.absence("a"))
    put(secrets, "missing", SECOND)
    eventually(lambda: proxy.call("a", "who").status_code == 200)
    assert has(proxy, "a", SECOND)
    # The whole directory goes: what runs goes on, and says so.
    secrets.rename(secrets.with_name("gone"))
    for name, secret in (("a", "missing"), ("b", "there")):
        told = eventually(lambda name=name: status(proxy, name)["secrets"])
        assert told.startswith(f"{secrets / secret}: credentials.password: ")
        assert told.endswith("what it has serves on, and a new start would fail")
    assert has(proxy, "a", SECOND)
    secrets.with_name("gone").rename(secrets)
    eventually(lambda: not status(proxy, "a")["secrets"])
    assert_nothing_is_seen(proxy)


def test_a_file_that_is_being_written_is_waited_for(start_prism, secrets, passwords):
    put(secrets, "pw", FIRST)
    entry = namespace("a", "pw", passwords)
    proxy = start_prism({"secrets": {"directory": str(secrets)}, "namespaces": [entry], **OPEN})
    with (secrets / "pw").open("w") as half:  # emptied first, as editors do
        half.flush()
        eventually(lambda: "it is empty" in status(proxy, "a")["secrets"])
        half.write(SECOND)
    eventually(lambda: has(proxy, "a", SECOND))
    assert proxy.metric("prism_secret_rotations_total", namespace="a", outcome="rolled_back") == 0


def test_a_secret_of_the_environment_is_the_proxys_alone(start_prism, passwords):
    entry = namespace("a", "APP_PASSWORD", passwords)
    proxy = start_prism(
        {"secrets": {"environment": ["APP_PASSWORD"]}, "namespaces": [entry], **OPEN},
        environment={"APP_PASSWORD": FIRST},
        tracebacks=True,
    )
    assert has(proxy, "a", FIRST)
    assert_nothing_is_seen(proxy)


def test_a_secret_that_leaves_the_configuration(start_prism, secrets, passwords):
    put(secrets, "pw", FIRST)
    settings = {"secrets": {"directory": str(secrets)}, **OPEN}
    entry = namespace("a", "pw", passwords)
    proxy = start_prism({"namespaces": [entry], **settings})
    instance = status(proxy, "a")["instance"]
    entry["credentials"]["password"] = FIRST
    file = proxy.directory / "prism.yaml"
    file.write_text(json.dumps({"namespaces": [entry], **settings}))
    prism(proxy, "config", "apply")
    assert status(proxy, "a")["instance"] != instance
    (secrets / "pw").unlink()
    entry["credentials"]["password"] = "{{ secret:pw }}"
    file.write_text(json.dumps({"namespaces": [entry], **settings}))
    prism(proxy, "config", "apply")  # is refused: the new instance would have no password
    assert proxy.logged("is not applied, and nothing has changed")
    assert has(proxy, "a", FIRST)
    assert status(proxy, "a")["secrets"] == ""


@pytest.fixture
def vault():
    server = Vault()
    yield server
    server.close()


def vault_config(server, **more):
    return {
        "environment": ["VAULT_SECRET_ID"],
        "vault": {
            "address": server.address,
            "role_id": ROLE_ID,
            "secret_id": "{{ secret:VAULT_SECRET_ID }}",
            "timeout_seconds": 5,
            "refresh_seconds": 1,
            "secrets": [{"name": "pw", "path": "prod/pg", "key": "password"}],
            **more,
        },
    }


def test_vault(start_prism, vault, secrets, passwords):
    vault.sealed = True
    vault.kv["prod/pg"] = {"password": FIRST}
    put(secrets, "file", FIRST)
    entries = [namespace("a", "pw", passwords), namespace("b", "file", passwords)]
    proxy = start_prism(
        {
            "log": {"level": "debug"},
            "secrets": {"directory": str(secrets), **vault_config(vault)},
            "namespaces": entries,
            **OPEN,
        },
        environment={"VAULT_SECRET_ID": SECRET_ID},
        tracebacks=True,
    )
    assert has(proxy, "b", FIRST)
    assert proxy.absence("a") == (
        f"{vault.address} secret/prod/pg#password: credentials.password: "
        'the secret "pw" cannot be read: it answers 503 (Vault is sealed); '
        "`vault operator unseal` unseals it; it starts as soon as that can be read"
    )
    assert proxy.metric("prism_vault_up", address=vault.address) == 0
    vault.sealed = False
    eventually(lambda: has(proxy, "a", FIRST))
    assert proxy.metric("prism_vault_up", address=vault.address) == 1
    vault.tokens.clear()  # all are revoked
    vault.kv["prod/pg"] = {"password": SECOND}
    eventually(lambda: has(proxy, "a", SECOND))
    assert has(proxy, "b", FIRST)
    assert proxy.metric("prism_secret_rotations_total", namespace="b", outcome="swapped") == 0
    # A plugin that crashes while Vault is down comes back with what was read last.
    vault.sealed = True
    eventually(lambda: proxy.metric("prism_vault_up", address=vault.address) == 0)
    prism(proxy, "plugin", "restart", "a")
    assert has(proxy, "a", SECOND)
    # What Vault refuses is refused, and what runs goes on.
    vault.denied.add("prod/pg")
    vault.sealed = False
    told = eventually(lambda: "Vault refuses it" in status(proxy, "a")["secrets"])
    assert told
    assert has(proxy, "a", SECOND)
    assert_nothing_is_seen(proxy, SECRET_ID)
    assert proxy.stop() == 0
    assert not vault.tokens, "it has logged out"
