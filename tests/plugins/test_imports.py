"""What the plugins that come with Prism may import: the SDK, as anybody's plugin does."""

import ast
import importlib
from pathlib import Path

import pytest


@pytest.mark.parametrize("plugin", ["kafka", "postgres", "redis", "sqlite"])
def test_a_plugin_uses_the_sdk_and_nothing_else_of_prism(plugin: str) -> None:
    modules = set()
    (package,) = importlib.import_module(f"prism_plugins.{plugin}").__path__
    for file in Path(package).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module)
            elif isinstance(node, ast.Import):
                modules.update(alias.name for alias in node.names)
    of_prism = {f"{name}." for name in modules if name.partition(".")[0] == "prism"}
    assert of_prism
    assert {name for name in of_prism if not name.startswith("prism.sdk.")} == set()
    # Kafka's client has threads, which asyncio's futures are for.
    loops = {"trio"} if plugin == "kafka" else {"trio", "asyncio"}
    assert not loops & {name.partition(".")[0] for name in modules}
