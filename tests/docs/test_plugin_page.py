"""The code in docs/writing-a-plugin.md runs as it stands there."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from prism.contract.errors import PluginError
from prism.sdk import Call, Health
from prism.sdk.health import Metrics
from prism.sdk.testing import run_plugin

PAGE = Path(__file__).parents[2] / "docs" / "writing-a-plugin.md"


@pytest.fixture(scope="module")
def page() -> SimpleNamespace:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {"__name__": "page"}
    exec("\n".join(blocks), names)
    return SimpleNamespace(**names)


def test_the_first_page_has_echo_as_its_file_has_it() -> None:
    page = (Path(__file__).parents[2] / "README.md").read_text()
    shown = "class Echo" + page.partition("class Echo")[2].partition("```")[0]
    file = (Path(__file__).parents[2] / "examples/plugins/python/echo.py").read_text()
    for part in shown.split("\n\n"):
        assert part.strip() in file, part


async def test_greeter(page: SimpleNamespace) -> None:
    async with run_plugin(page.Greeter) as greeter:
        assert await greeter.call("greet", name="Ada") == {"text": "Hello, Ada!"}
        with pytest.raises(PluginError, match=r"Expected text, found an integer - at `\$\.name`"):
            await greeter.call("greet", name=1)


async def test_ledger(page: SimpleNamespace) -> None:
    await page.test_balance()
    config, secrets = {"url": "ledger://localhost"}, {"password": "x"}
    async with run_plugin(page.Ledger, config=config, credentials=secrets) as ledger:
        with pytest.raises(PluginError, match="no account 'bob'"):
            await ledger.call("balance", id="bob")
        assert (await ledger.health()).message == ""
    with pytest.raises(PluginError, match="pool_size"):
        async with run_plugin(page.Ledger, config={**config, "pool_size": 0}, credentials=secrets):
            raise AssertionError("it started")


async def test_who(page: SimpleNamespace) -> None:
    async with run_plugin(page.Who) as who:
        answer = await who.request("am_i", {}, metadata={"prism-request-id": "r1"})
        assert answer["request_id"] == "r1"
        assert answer["namespace"] == "test"


async def test_count(page: SimpleNamespace) -> None:
    await page.test_count()
    async with run_plugin(page.Count) as count:
        assert [number async for number in count.stream("count", upto=3)] == [0, 1, 2]
        doubled = count.stream("double", {"upto": 4}, {"upto": 5})
        assert [number async for number in doubled] == [8, 10]


def test_all_that_a_plugin_has_at_hand_is_listed():
    section = PAGE.read_text().partition("## What a plugin has at hand")[2].partition("\n## ")[0]
    for field in dataclasses.fields(Metrics):
        assert f"`{field.name}`" in section
    for name in ("healthy", "degraded", "unhealthy"):
        assert callable(getattr(Health, name))
        assert f"`Health.{name}(" in section
    members = {name for name in (*dir(Call), *Call.__slots__) if not name.startswith("_")}
    assert members
    for name in members:
        assert re.search(rf"`{name}(\(\w*\))?`", section), name
