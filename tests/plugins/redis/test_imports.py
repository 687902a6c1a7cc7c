import ast
from pathlib import Path

import prism_plugins.redis


def test_the_plugin_uses_the_sdk_and_nothing_else_of_prism() -> None:
    modules = set()
    for file in Path(prism_plugins.redis.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module)
            elif isinstance(node, ast.Import):
                modules.update(alias.name for alias in node.names)
    of_prism = {module for module in modules if module.partition(".")[0] == "prism"}
    assert of_prism <= {
        "prism.sdk",
        "prism.sdk.background",
        "prism.sdk.keyvalue",
        "prism.sdk.later",
        "prism.sdk.byte_streams",
        "prism.sdk.multiplexed",
    }
    assert not {"trio", "asyncio"} & {module.partition(".")[0] for module in modules}
