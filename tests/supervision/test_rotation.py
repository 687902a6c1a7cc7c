"""Following secrets: what is done with what was found; whole reloads are in tests/e2e."""

import logging
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio

from prism.config.types import SecretsConfig
from prism.contract.errors import Draining
from prism.secrets import Secrets
from prism.supervision.keeper import Keeper
from prism.supervision.lifecycle import State
from prism.supervision.rotation import Rotation
from prism.supervision.slot import Slot
from tests.services.vault import ROLE_ID, Vault


class Running:
    """Stands for a generation that serves with these credentials."""

    def __init__(self, **credentials):
        self.credentials = credentials


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "pw").write_text("first")
    (tmp_path / "pw").chmod(0o600)
    return tmp_path


class Followed:
    """A keeper that a rotation follows; ``reloads`` has what was asked of it."""

    def __init__(self, spec, config, text="{{ secret:pw }}"):
        self.secrets = Secrets()
        credentials = self.secrets.credentials({"password": text}, config)
        self.keeper = Keeper(replace(spec, credentials=credentials), Slot(spec.namespace))
        self.keepers = {spec.namespace: self.keeper}
        self.rotation = Rotation(self.keepers, self.secrets)
        self.keeper.current = Running(password="first")
        self.keeper.perform = self.perform
        self.reloads, self.asked = [], trio.Event()
        self.outcome = ""

    async def perform(self, operation, _work):
        self.reloads.append(operation)
        self.asked.set()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def look(self, times=1, *, in_vault=False):
        for _ in range(times):
            async with trio.open_nursery() as nursery:
                await self.rotation.look(nursery, in_vault=in_vault)


@pytest.fixture
def followed(make_spec, directory):
    return Followed(make_spec(), SecretsConfig(directory=str(directory)))


async def test_a_change_counts_when_it_was_seen_twice(followed, directory):
    await followed.look(3)
    assert followed.reloads == []
    for half in ("s", "sec", "second"):
        (directory / "pw").write_text(half)
        await followed.look()
    assert followed.reloads == []
    await followed.look()
    assert followed.reloads == ["secrets"]


async def test_what_does_not_work_is_tried_later_and_later(followed, directory, mock_clock):
    followed.outcome = "the password is wrong"
    (directory / "pw").write_text("second")
    await followed.look(5)
    assert len(followed.reloads) == 1
    assert "it is tried again in 5 s" in followed.keeper.stale
    for number, pause in enumerate((5, 10, 20, 40, 80, 160, 300, 300), 2):
        mock_clock.jump(pause - 0.5)
        await followed.look(2)
        assert len(followed.reloads) == number - 1
        mock_clock.jump(1)
        await followed.look(2)
        assert len(followed.reloads) == number
    (directory / "pw").write_text("third")
    await followed.look(2)
    assert len(followed.reloads) == 10, "another one is tried at once"
    assert "it is tried again in 5 s" in followed.keeper.stale
    (directory / "pw").write_text("first")
    await followed.look(2)
    assert (len(followed.reloads), followed.keeper.stale) == (10, "")


async def test_one_that_may_not_run_twice_is_not_ended_again_and_again(
    make_spec, directory, mock_clock
):
    config = SecretsConfig(directory=str(directory))
    followed = Followed(make_spec(overlap=False), config)
    followed.outcome = "the password is wrong"
    (directory / "pw").write_text("second")
    for _ in range(10):
        await followed.look(2)
        mock_clock.jump(1000)
    assert len(followed.reloads) == 1


async def test_while_something_else_is_done_with_it_nothing_is(followed, directory):
    (directory / "pw").write_text("second")
    followed.keeper.operation = "drain"
    await followed.look(3)
    assert followed.reloads == []
    followed.keeper.operation = None
    followed.outcome = Draining("the proxy is stopping")
    await followed.look(2)
    assert followed.reloads == ["secrets"] * 2
    assert followed.keeper.stale == ""


async def test_what_is_missing_is_told_once(followed, directory, caplog):
    (directory / "pw").unlink()
    await followed.look(3)
    assert followed.keeper.stale.endswith("what it has serves on, and a new start would fail")
    assert caplog.text.count("what it has serves on") == 1
    assert followed.reloads == []


async def test_a_start_that_waits_is_hurried_only_by_other_credentials(followed, directory):
    class Waiting:
        class lifecycle:  # noqa: N801 - as an attribute
            state = State.BACKING_OFF

    keeper = followed.keeper
    keeper.current, keeper.newest, keeper._delay = None, Waiting(), 30.0
    keeper.tried = {"password": "first"}
    await followed.look(3)
    assert keeper._delay == 30.0, "that has failed"
    (directory / "pw").write_text("second")
    await followed.look(2)
    assert keeper._delay == 0.0
    keeper._delay, keeper.paused = 30.0, True
    (directory / "pw").write_text("third")
    await followed.look(2)
    assert keeper._delay == 30.0, "an operator has drained it"


async def test_those_who_are_gone_are_forgotten(followed):
    await followed.look()
    followed.keepers.clear()
    await followed.look()
    assert not followed.rotation._followed


async def test_a_vault_that_hangs_holds_up_no_file(make_spec, directory):
    server = Vault()
    server.answer = server.hang
    where = {
        "directory": str(directory),
        "vault": {
            "address": server.address, "role_id": ROLE_ID, "timeout_seconds": 60,
            "secrets": [{"name": "v", "path": "v", "key": "v"}],
        },
    }  # fmt: skip
    try:
        config = msgspec.convert(where, SecretsConfig)
        slow, quick = (Followed(make_spec(namespace=text), config, f"{{{{ secret:{text} }}}}")
                       for text in ("v", "pw"))  # fmt: skip
        slow.keepers.update(quick.keepers)
        (directory / "pw").write_text("second")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow.rotation.run)
            with trio.fail_after(30):
                await quick.asked.wait()
            nursery.cancel_scope.cancel()
    finally:
        server.close()


async def test_a_bug_does_not_end_it(followed, directory, monkeypatch, caplog):
    calls, again = [], trio.Event()

    async def broken(_nursery, *, in_vault):
        calls.append(in_vault)
        if len(calls) == 6:
            again.set()
        raise ValueError("a bug")

    monkeypatch.setattr(followed.rotation, "look", broken)
    monkeypatch.setattr("prism.supervision.rotation.INTERVAL", 0.01)
    caplog.set_level(logging.ERROR)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(followed.rotation.run)
        with trio.fail_after(30):
            await again.wait()
        nursery.cancel_scope.cancel()
    assert "bug while following secrets" in caplog.text


async def test_a_bug_in_a_reload_does_not_end_it(followed, directory, mock_clock, caplog):
    followed.outcome = ValueError("a bug")
    (directory / "pw").write_text("second")
    await followed.look(4)
    assert followed.reloads == ["secrets"]  # and it is not tried at every look
    assert "bug while the secrets of namespace ns were changed" in caplog.text
    assert "a bug" in followed.keeper.stale
