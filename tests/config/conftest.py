from collections.abc import Callable

import pytest

from prism.config import parse_config
from prism.config.errors import ConfigError


def namespace(plugin: str, name: str = "a") -> str:
    """A file with one namespace, whose ``plugin`` has these keys."""
    return f"namespaces:\n  - name: {name}\n    backend: kafka\n    plugin: {{{plugin}}}\n"


@pytest.fixture
def problems() -> Callable[[str], list[str]]:
    """The problems of a text, as ``line:column: path: message``; it must have some."""

    def find(text: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            parse_config(text, "/etc/prism/prism.yaml")
        prefix = "/etc/prism/prism.yaml:"
        return [str(problem).removeprefix(prefix) for problem in caught.value.problems]

    return find
