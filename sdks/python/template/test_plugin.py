import pytest
from plugin import MyPlugin

from prism.sdk import PluginError
from prism.sdk.testing import run_plugin

pytestmark = pytest.mark.anyio


async def test_greet() -> None:
    async with run_plugin(MyPlugin) as plugin:
        assert await plugin.call("greet", name="Ada") == {"text": "Hello, Ada!"}
        with pytest.raises(PluginError, match="name is missing"):
            await plugin.call("greet", name="")
