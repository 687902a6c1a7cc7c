"""Writes the sources of ``prism-plugin-sdk`` into a folder: ``prism.sdk`` and what it stands on.

A distribution of its own, for plugins that run where the proxy does not.

The version and the ranges of what it needs are the proxy's.
"""

import re
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("sdk", "contract", "wire")
FILES = ("__init__.py", "py.typed")
REQUIRED = ("msgspec", "anyio")
EXTRAS = {"trio": "trio", "websocket": "wsproto"}
"""What some plugins need beside: the extra's name, and the distribution."""

PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "prism-plugin-sdk"
description = "Write plugins for the Prism data-access proxy"
readme = "README.md"
license = "Apache-2.0"
license-files = ["LICENSE"]
requires-python = "{python}"
dynamic = ["version"]
dependencies = {required}

[project.optional-dependencies]
{extras}

[tool.setuptools]
packages = {packages}
package-data = {{ prism = ["py.typed"] }}

[tool.setuptools.dynamic]
version = {{ attr = "prism.__version__" }}
"""

README = """\
# prism-plugin-sdk

`prism.sdk`: write a plugin for the Prism data-access proxy in Python, serve it, and test it.
It needs msgspec and anyio; `prism-plugin-sdk[trio]` brings trio, `[websocket]` wsproto.

The proxy, `prism-data-proxy`, has the SDK in it: do not install both into one environment.
"""


def write(folder: Path) -> None:
    """Write the sources into ``folder``, which is made."""
    package = folder / "prism"
    for name in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "prism" / name, package / name, ignore=ignore)
    for name in FILES:
        shutil.copy(ROOT / "prism" / name, package)
    shutil.copy(ROOT / "LICENSE", folder)
    (folder / "README.md").write_text(README)
    (folder / "pyproject.toml").write_text(project())


def project() -> str:
    """The distribution's ``pyproject.toml``."""
    proxy = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = {re.split(r"[^\w-]", text)[0]: text for text in proxy["dependencies"]}
    folders = [ROOT / "prism" / name for name in PACKAGES]
    inner = [each.parent for folder in folders for each in sorted(folder.rglob("__init__.py"))]
    modules = ["prism", *(".".join(each.relative_to(ROOT).parts) for each in inner)]
    return PROJECT.format(
        python=proxy["requires-python"],
        required=[ranges[name] for name in REQUIRED],
        extras="\n".join(f"{extra} = {[ranges[name]]}" for extra, name in EXTRAS.items()),
        packages=modules,
    )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
