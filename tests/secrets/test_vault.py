"""Secrets from Vault, over real HTTP: logins, tokens, and all the ways in which it can fail."""

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
import trustme
from trio.testing import MockClock

from prism.config.types import SecretsConfig
from prism.secrets import Secrets
from prism.secrets import vault as module
from prism.secrets.store import SecretError, source_of
from prism.secrets.vault import BELIEVED_SECONDS, MAX_ANSWER, RETRY_SECONDS
from tests.services.vault import KUBERNETES_ROLE, ROLE_ID, SECRET_ID, Vault

APPROLE = {"role_id": ROLE_ID, "secret_id": "{{ secret:SID }}"}
ENVIRONMENT = {"SID": SECRET_ID, "BAD_SID": "nightingale-wrong", "TOKEN": ""}
PATH = "secret/data/prod/pg"
HIDDEN = ("nightingale", SECRET_ID)


@pytest.fixture
def server() -> Iterator[Vault]:
    vault = Vault()
    vault.kv["prod/pg"] = {"password": "hunter2", "number": 5, "empty": "", "huge": "x" * 70_000}
    yield vault
    vault.close()


class Asker:
    """Asks ``server`` for secrets, as a configuration with ``more`` would have it."""

    def __init__(self, server: Vault, **more: object) -> None:
        self.environment = dict(ENVIRONMENT)
        vault: dict[str, object] = {
            "address": server.address, "timeout_seconds": 5, "secrets": [
                {"name": "pg", "path": "prod/pg", "key": "password"},
                {"name": "other", "path": "prod/other", "key": "password"},
                *({"name": name, "path": "prod/pg", "key": name}
                  for name in ("number", "empty", "huge", "missing")),
            ], **(more or APPROLE),
        }  # fmt: skip
        given = {"environment": ["SID", "BAD_SID", "TOKEN"], "vault": vault}
        self.config = msgspec.convert(given, SecretsConfig)
        self.secrets = Secrets(self.environment)

    async def ask(self, name: str = "pg", *, anew: bool = True) -> str:
        """The secret, or why there is none."""
        source = source_of(name, self.config)
        found = (await self.secrets.look([source], anew=anew))[source]
        return f"error: {found}" if isinstance(found, SecretError) else found


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Vault that is down is asked again at once."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)


async def test_app_role(server: Vault) -> None:
    asker = Asker(server)
    assert await asker.ask() == "hunter2"
    server.kv["prod/pg"] = {"password": "hunter3"}
    assert await asker.ask() == "hunter3"
    assert server.seen == {"auth/approle/login": 1, PATH: 2}
    await asker.secrets.aclose()
    assert not server.tokens, "it was logged out"


async def test_kubernetes(server: Vault, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(server.account_token)
    way = {"kubernetes_role": KUBERNETES_ROLE, "kubernetes_token_file": str(file)}
    asker = Asker(server, **way)
    assert await asker.ask() == "hunter2"
    # The kubelet writes another one before the old one ends.
    server.account_token = "nightingale-next"
    server.tokens.clear()
    answer = await asker.ask()
    assert answer.startswith("error: Vault refuses the login at auth/kubernetes as role prism")
    file.write_text("nightingale-next")
    assert await asker.ask() == "hunter2"
    file.unlink()
    server.tokens.clear()
    assert await asker.ask() == (
        f"error: there is no login to Vault: {file}: No such file or directory"
    )


async def test_an_account_token_that_hangs_is_said_to(
    server: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(module, "read_secret", lambda *_, **__: released.wait(60) and "")
    monkeypatch.setattr("prism.secrets.store.READ_SECONDS", 0.01)
    way = {"kubernetes_role": KUBERNETES_ROLE, "kubernetes_token_file": str(tmp_path / "token")}
    try:
        assert await Asker(server, **way).ask() == (
            f"error: there is no login to Vault: {tmp_path}/token: "
            "its file system does not answer within 0.01 s"
        )
    finally:
        released.set()


async def test_a_token(server: Vault) -> None:
    asker = Asker(server, token="{{ secret:TOKEN }}")
    answer = await asker.ask()
    assert answer == (
        'error: there is no login to Vault: the secret "TOKEN" cannot be read: it is empty'
    )
    asker.environment["TOKEN"] = "hvs.nightingale-unknown"
    answer = await asker.ask()
    assert "Vault does not take the token of secrets.vault.token (permission denied)" in answer
    asker.environment["TOKEN"] = server.new_token()
    assert await asker.ask() == "hunter2"
    await asker.secrets.aclose()
    assert server.tokens, "one that was given is not ours to revoke"


async def test_a_namespace_of_vault_and_another_mount_of_the_login(server: Vault) -> None:
    server.namespace = "team-a"
    assert "there is nothing" not in await Asker(server, **APPROLE).ask()
    assert await Asker(server, **APPROLE, namespace="team-a").ask() == "hunter2"
    answer = await Asker(server, **APPROLE, namespace="team-a", auth_mount="elsewhere").ask()
    assert answer.startswith("error: Vault refuses the login at auth/elsewhere as role_id role-1")


async def test_a_secret_that_is_not_there_as_it_should_be(server: Vault) -> None:
    asker = Asker(server)
    assert await asker.ask("missing") == (
        'error: "prod/pg" has no "missing"; it has empty, huge, number, password'
    )
    assert await asker.ask("number") == 'error: "number" of "prod/pg" is no text'
    assert await asker.ask("empty") == "error: it is empty"
    assert await asker.ask("huge") == "error: it is larger than 65536 bytes"
    assert await asker.ask("other") == (
        'error: there is nothing at "prod/other"; `vault kv put -mount=secret prod/other …` puts '
        "it there, if that is a KV engine of version 2"
    )
    server.kv["prod/other"] = None
    assert await asker.ask("other") == 'error: the newest version of "prod/other" is deleted'
    server.kv["prod/other"] = {"password": "there"}
    assert await asker.ask("other") == "there"
    server.denied.add("prod/other")
    assert await asker.ask("other") == (
        "error: Vault refuses it (1 error occurred: * permission denied); the token's policy needs "
        'path "secret/data/prod/other" { capabilities = ["read"] }'
    )
    assert server.seen["auth/approle/login"] == 1, "the token is good, so it stays"


async def test_a_login_that_is_refused_is_tried_once_for_all_secrets(
    server: Vault, mock_clock: MockClock
) -> None:
    """Vault locks out who fails too often."""
    login = "auth/approle/login"
    asker = Asker(server, role_id=ROLE_ID, secret_id="{{ secret:BAD_SID }}")
    first = await asker.ask("pg")
    assert first.startswith("error: Vault refuses the login")
    mock_clock.jump(RETRY_SECONDS / 3)
    assert await asker.ask("other") == await asker.ask("pg") == first
    assert server.seen[login] == 1
    asker.environment["BAD_SID"] = "nightingale-worse"
    mock_clock.jump(RETRY_SECONDS / 3)
    await asker.ask("other")
    await asker.ask("pg")
    assert server.seen[login] == 2, "another one is tried at once"
    mock_clock.jump(RETRY_SECONDS)
    await asker.ask("pg")
    assert server.seen[login] == 3
    asker.environment["BAD_SID"] = SECRET_ID
    mock_clock.jump(1)
    assert await asker.ask("pg") == "hunter2"


async def test_a_token_that_may_not_be_looked_up_is_not_replaced_at_every_look(
    server: Vault, mock_clock: MockClock
) -> None:
    """A role with token_no_default_policy has such ones."""
    server.denied |= {"auth/token/lookup-self", "prod/other"}
    asker = Asker(server)
    for _ in range(5):
        mock_clock.jump(1)
        assert await asker.ask() == "hunter2"
        assert (await asker.ask("other")).startswith("error: Vault refuses it (")
    assert server.seen["auth/approle/login"] == 2
    server.tokens.clear()
    mock_clock.jump(BELIEVED_SECONDS)
    assert await asker.ask() == "hunter2"


async def test_a_login_that_is_refused_is_told_without_what_was_shown(
    server: Vault, fast: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    asker = Asker(server, role_id=ROLE_ID, secret_id="{{ secret:BAD_SID }}")
    assert await asker.ask() == (
        "error: Vault refuses the login at auth/approle as role_id role-1 (invalid role or secret "
        "ID); check it, and what else secrets.vault says of the login"
    )
    echo = b'{"errors": ["nightingale-wrong is\\nwrong"]}'
    server.answer = lambda _path: (400, {}, echo)
    assert "([redacted] is wrong)" in await asker.ask()
    server.answer = lambda _path: None
    assert await Asker(server).ask() == "hunter2"
    assert not [word for word in (*HIDDEN, "hunter2") if word in caplog.text]


async def test_a_token_that_is_gone_is_replaced(server: Vault) -> None:
    asker = Asker(server)
    assert await asker.ask() == "hunter2"
    server.tokens.clear()
    assert await asker.ask() == "hunter2"
    assert server.seen["auth/approle/login"] == 2


async def test_a_token_is_renewed_before_it_ends(server: Vault, mock_clock: MockClock) -> None:
    """Prism's clock runs ahead here, the server's does not: it never ends by itself."""
    asker = Asker(server)
    server.ttl = 60.0
    assert await asker.ask() == "hunter2"
    for _ in range(4):
        mock_clock.jump(39)
        await asker.secrets.tend()
        assert server.seen["auth/token/renew-self"] == 0, "a third of its time is left"
        mock_clock.jump(2)
        await asker.secrets.tend()
        assert server.seen.pop("auth/token/renew-self") == 1
    assert server.seen["auth/approle/login"] == 1


@pytest.mark.parametrize("why", ["not renewable", "its longest time is near"])
async def test_a_token_that_cannot_be_renewed_is_replaced(
    server: Vault, mock_clock: MockClock, why: str
) -> None:
    asker = Asker(server)
    server.ttl, server.renewable = 60.0, why != "not renewable"
    if server.renewable:
        server.max_ttl = 20.0
    assert await asker.ask() == "hunter2"
    mock_clock.jump(41)
    await asker.secrets.tend()
    assert server.seen["auth/approle/login"] == 2
    assert server.seen["auth/token/renew-self"] == server.renewable


async def test_a_token_that_has_ended_is_not_shown_any_more(
    server: Vault, mock_clock: MockClock
) -> None:
    asker = Asker(server)
    assert await asker.ask() == "hunter2"
    mock_clock.jump(3601)
    server.seen.clear()
    assert await asker.ask() == "hunter2"
    assert server.seen == {"auth/approle/login": 1, PATH: 1}


async def test_a_token_that_cannot_be_replaced_is_used_to_its_end(
    server: Vault, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    asker = Asker(server)
    server.ttl, server.renewable = 60.0, False
    assert await asker.ask() == "hunter2"
    asker.environment["SID"] = "nightingale-wrong"
    mock_clock.jump(41)
    await asker.secrets.tend()
    assert "the token that ends in 19 s cannot be replaced" in caplog.text
    assert await asker.ask() == "hunter2"
    mock_clock.jump(20)
    assert "refuses the login" in await asker.ask()


DOWN: dict[str, tuple[Callable[[Vault], object], str]] = {
    "sealed": (
        lambda server: setattr(server, "sealed", True),
        "it answers 503 (Vault is sealed); `vault operator unseal` unseals it",
    ),
    "garbage": (
        lambda server: setattr(server, "answer", lambda _: (200, {}, b"<html>hello")),
        "it answers 200 with what is no JSON object: is it a Vault?",
    ),
    "nested garbage": (
        lambda server: setattr(server, "answer", lambda _: (200, {}, b"[" * 100_000)),
        "it answers 200 with what is no JSON object: is it a Vault?",
    ),
    "a redirect": (
        lambda server: setattr(
            server, "answer", lambda _: (307, {"location": "http://127.0.0.1:9/v1/x"}, b"")
        ),
        "it answers 307, to ask another server, which is not done",
    ),
    "huge": (
        lambda server: setattr(server, "answer", lambda _: (200, {}, b" " * (MAX_ANSWER + 1))),
        "it answers with more than 1048576 bytes",
    ),
    "an error": (
        lambda server: setattr(server, "answer", lambda _: (500, {}, b"")),
        "it answers 500",
    ),
    "gone": (lambda server: server.close(), "all attempts to connect to 127.0.0.1:"),
}


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("how", DOWN)
async def test_while_vault_is_down_what_was_read_before_is_used(
    server: Vault, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    take_down, why = DOWN[how]
    asker = Asker(server)
    assert await asker.ask() == "hunter2"
    take_down(server)
    assert await asker.ask() == "hunter2"
    assert (await asker.ask("other")).startswith(f"error: {why}")
    assert f"Vault at {server.address} is down: {why}" in caplog.text
    assert caplog.text.count("is down") == 1
    (vault,) = asker.secrets.vaults
    assert vault.down
    if how != "gone":
        server.answer, server.sealed = lambda _path: None, False
        server.kv["prod/pg"] = {"password": "hunter3"}
        assert await asker.ask() == "hunter3"
        assert not vault.down
    assert not [word for word in (*HIDDEN, "hunter") if word in caplog.text]


async def test_an_address_that_can_be_none_is_a_vault_that_is_down(server: Vault) -> None:
    server.address = "http://vault..example"
    assert "label empty" in await Asker(server).ask()


async def test_a_vault_that_hangs_is_left_alone_for_a_while(server: Vault) -> None:
    asker = Asker(server, **APPROLE, timeout_seconds=0.2)
    assert await asker.ask() == "hunter2"
    server.answer = server.hang
    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        for _ in range(20):  # many namespaces, each of which wants a secret that was not read yet
            nursery.start_soon(asker.ask, "other")
    assert await asker.ask("other") == "error: it does not answer within 0.2 s"
    assert server.seen["secret/data/prod/other"] == 1
    assert time.monotonic() - began < 5, "they do not wait one after the other"


async def test_cancelling_a_vault_that_hangs_is_quick(server: Vault) -> None:
    asker = Asker(server, **APPROLE, timeout_seconds=60)
    server.answer = server.hang
    with trio.move_on_after(0.1) as scope:
        await asker.ask()
    assert scope.cancelled_caught
    server.answer = lambda _path: None
    assert await asker.ask() == "hunter2"


async def test_an_answer_that_trickles_is_too_late(server: Vault) -> None:
    """The limit is for all of the answer, not for each part."""

    async def trickle(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        with suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b" ")
                await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, trickle, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        port = listener.socket.getsockname()[1]
        asker = Asker(server, **APPROLE, address=f"http://127.0.0.1:{port}", timeout_seconds=0.3)
        assert await asker.ask() == "error: it does not answer within 0.3 s"
        nursery.cancel_scope.cancel()


async def test_two_secrets_of_one_path_and_two_who_ask_are_one_request(server: Vault) -> None:
    server.kv["prod/pg"] = {"password": "a", "number": "b"}
    asker = Asker(server)
    sources = [source_of(name, asker.config) for name in ("pg", "number")]
    found: list[object] = []

    async def look() -> None:
        found.append(list((await asker.secrets.look(sources, anew=True)).values()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        nursery.start_soon(look)
    assert sorted(map(sorted, found)) == [["a", "b"]] * 2  # type: ignore[arg-type]
    assert server.seen[PATH] == 1


async def test_one_look_after_another_asks_only_after_a_while(
    server: Vault, mock_clock: MockClock
) -> None:
    asker = Asker(server, **APPROLE, refresh_seconds=60)
    for _ in range(5):
        assert await asker.ask(anew=False) == "hunter2"
        assert (await asker.ask("other", anew=False)).startswith("error: there is nothing")
    assert (server.seen[PATH], server.seen["secret/data/prod/other"]) == (1, 1)
    mock_clock.jump(6)
    server.kv["prod/other"] = {"password": "there"}
    assert await asker.ask("other", anew=False) == "there", "what is missing is asked for sooner"
    assert await asker.ask(anew=False) == "hunter2"
    assert server.seen[PATH] == 1
    server.kv["prod/pg"] = {"password": "hunter2", "missing": "there"}
    assert await asker.ask("missing", anew=False) == "there", "and so is a key"
    server.seen[PATH] = 1
    mock_clock.jump(60)
    await asker.ask(anew=False)
    assert server.seen[PATH] == 2


async def test_a_vault_that_is_not_used_any_more_is_logged_out_of(
    server: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker = Asker(server)
    assert await asker.ask() == "hunter2"
    await asker.secrets.tend()
    assert server.tokens
    monkeypatch.setattr("prism.secrets.store.IDLE_SECONDS", -1.0)
    await asker.secrets.tend()
    assert not server.tokens
    assert not asker.secrets.vaults


async def test_tls_is_verified(tmp_path: Path) -> None:
    ours, others = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.issue_cert("127.0.0.1").configure_cert(context)
    server = Vault(context)
    try:
        server.kv["prod/pg"] = {"password": "hunter2"}
        for name, authority in (("ours", ours), ("others", others)):
            authority.cert_pem.write_to_path(tmp_path / name)
        good = Asker(server, **APPROLE, ca_cert=str(tmp_path / "ours"))
        assert await good.ask() == "hunter2"
        for more in ({"ca_cert": str(tmp_path / "others")}, {}):
            answer = await Asker(server, **APPROLE, **more).ask()
            assert "CERTIFICATE_VERIFY_FAILED" in answer
            assert answer.endswith("; set secrets.vault.ca_cert")
        answer = await Asker(server, **APPROLE, ca_cert=str(tmp_path / "missing")).ask()
        assert f"{tmp_path}/missing" in answer
    finally:
        server.close()
