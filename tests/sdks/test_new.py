"""What `prism plugin new` makes, in each language: built, tested, served, and asked by curl."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prism.cli import new
from tests.sdks.kits import BUILD_LIMIT, KITS, RUST, need


def run(command: str, directory: Path) -> None:
    python = Path(sys.executable).parent  # the proxy's own, as for a plugin that it starts
    done = subprocess.run(
        command,
        shell=True,
        cwd=directory,
        env={**os.environ, "PATH": f"{python}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=BUILD_LIMIT,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("language", new.languages())
def test_a_new_plugin_answers(language, tmp_path, start_prism, curl) -> None:
    if language in KITS:
        need(KITS[language].tools)
    directory = tmp_path / "order-book"
    recipe = new.make(language, "order-book", directory)
    if language == "rust":  # what is built of its crates is kept, as for the kit
        (directory / "target").symlink_to(RUST, target_is_directory=True)
    assert all(shutil.which(program) for program in recipe.needs)
    if recipe.build:
        run(recipe.build, directory)
    if recipe.test:
        run(recipe.test, directory)
    options = ("--config", str(directory / "prism.yaml"), "--port", "0", "--admin-port", "0")
    proxy = start_prism(arguments=options)
    url = f"{proxy.url}/v1/order-book"
    assert json.loads(curl("-d", '{"name": "Ada"}', f"{url}/greet")) == {"text": "Hello, Ada!"}
    refused = json.loads(curl("-d", "{}", f"{url}/greet"))
    assert refused["code"] == "INVALID_ARGUMENT"
    assert "name" in refused["detail"]
    greet = json.loads(curl(url))["operations"]["greet"]
    assert greet["idempotent"]
    assert greet["access"] == "read"
    assert proxy.stop() == 0
