from collections.abc import Iterator, Mapping
from typing import ClassVar

import pytest
from msgspec import Struct

from prism.contract.settings import SettingsProblem, settings_problems, suggest
from prism.contract.status import StatusCode
from prism.sdk import Plugin, PluginError
from prism.sdk.testing import run_plugin


class Free(Struct):
    """Says nothing; its fields have the names of what others say."""

    credential_names: str = ""
    problems: int = 0


class Declared(Struct):
    credential_names: ClassVar[tuple[str, ...]] = ("username", "password")

    size: int = 0

    def problems(self, credentials: Mapping[str, str]) -> Iterator[SettingsProblem]:
        if self.size > 9:
            yield SettingsProblem(("config", "sizes", 0), f"{self.size} is more than 9")
        if "username" in credentials and "password" not in credentials:
            yield SettingsProblem(("credentials",), "a password is missing")


class Ledger(Plugin):
    Config = Declared


def test_a_type_that_declares_nothing_is_free() -> None:
    assert list(settings_problems(Free, Free(), {"foo": "x"})) == []


async def test_a_plugin_refuses_to_start_with_all_that_is_wrong() -> None:
    credentials = {"username": "a", "pass": ""}
    with pytest.raises(PluginError) as refused:
        async with run_plugin(Ledger, config={"size": 10}, credentials=credentials):
            pass
    assert refused.value.status is StatusCode.INVALID_ARGUMENT
    assert refused.value.detail == (
        'credentials.pass: unknown credential; did you mean "password"? '
        "(accepted: username, password); config.sizes[0]: 10 is more than 9; "
        "credentials: a password is missing"
    )
    async with run_plugin(Ledger, config={"size": 9}, credentials={}):
        pass


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("pasword", "password"),
        ("user", "username"),
        ("timeout", "timeout_seconds"),
        ("us", None),
        ("foo", None),
    ],
)
def test_what_was_probably_meant(word: str, meant: str | None) -> None:
    assert suggest(word, ["username", "password", "timeout_seconds"]) == meant
