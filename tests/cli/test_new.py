"""`prism plugin new`: what it writes, prints and refuses. tests/sdks builds and serves it."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from prism.cli import new
from prism.cli.main import prism
from prism.config import parse_config

ROOT = Path(__file__).parents[2]


def run(*words):
    return CliRunner().invoke(prism, ["plugin", "new", *map(str, words)])


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("language", new.languages())
def test_it_writes_a_plugin_of_the_name(language):
    told = run("order-book", "--language", language)
    assert told.exit_code == 0, told.output
    commands = [line.strip() for line in told.stdout.splitlines() if line.startswith("  ")]
    assert commands[0].startswith("cd order-book")
    assert commands[1] == "prism serve --config prism.yaml"
    assert commands[2].endswith("http://127.0.0.1:50051/v1/order-book/greet")
    directory = Path("order-book")
    text = (directory / "prism.yaml").read_text()
    (namespace,) = parse_config(text, "prism.yaml").config.namespaces
    assert namespace.name == "order-book"
    readme = (directory / "README.md").read_text()
    assert commands[1] in readme
    assert commands[2] in readme
    for file in directory.rglob("*"):
        assert "my-plugin" not in file.name
        assert "my_plugin" not in file.name
        if file.is_file():
            told = file.read_text()
            assert not any(form in told for form in ("my-plugin", "my_plugin", "MyPlugin")), file


def test_what_the_page_shows():
    page = (ROOT / "docs" / "writing-a-plugin.md").read_text()
    told = run("orders", "--language", "go")
    shown = "$ prism plugin new orders --language go\n" + told.stdout
    assert f"```\n{shown}```\n" in page


def test_where_it_is_written():
    told = run("orders", "--language", "python", "--directory", "deep/in/orders-plugin")
    assert "cd deep/in/orders-plugin" in told.stdout
    assert Path("deep/in/orders-plugin/plugin.py").is_file()
    told = run("orders", "--language", "python", "--directory", "my orders; ls")
    assert "  cd 'my orders; ls'\n" in told.stdout


def test_a_directory_that_is_there_is_left_alone():
    Path("orders").mkdir()
    told = run("orders", "--language", "python")
    assert told.exit_code == 1
    assert "orders is there already; choose another --directory" in told.output
    assert list(Path("orders").iterdir()) == []


def test_a_directory_that_cannot_be_written():
    Path("file").touch()
    told = run("orders", "--language", "python", "--directory", "file/orders")
    assert told.exit_code == 1
    assert "cannot write file/orders: Not a directory" in told.output


@pytest.mark.parametrize(
    "name", ["", "Orders", "9lives", "a_b", "-a", "a-", "a--b", "../up", "a/b", "é", "x" * 64]
)
def test_names_that_are_none(name):
    told = run("--language", "python", "--", name)
    assert told.exit_code == 2
    assert "cannot be the name of a plugin" in told.output
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("name", ["class", "fn", "prism", "import"])
def test_names_that_are_words_of_a_language(name):
    told = run(name, "--language", "python")
    assert told.exit_code == 2
    assert f"my-{name}" in told.output


def test_a_language_that_there_is_none_for():
    told = run("orders", "--language", "cobol")
    assert told.exit_code == 2
    assert "no language 'cobol': choose from" in told.output
    assert "python" in told.output


def test_what_is_installed_has_all_of_it(tmp_path, monkeypatch):
    """A wheel's ``prism/kits`` makes the same as a checkout's ``sdks``."""
    monkeypatch.chdir(ROOT)
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib")]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    installed = tmp_path / "lib" / "prism" / "kits"
    for language in new.languages():
        folder = new.kits() / language
        wanted = [folder / file for file in new.kit_files(folder, new.recipe_of(folder))]
        wanted += [file for file in (folder / "template").rglob("*") if file.is_file()]
        wanted = [file for file in wanted if "__pycache__" not in file.parts]
        for file in wanted:
            packed = installed / language / file.relative_to(folder)
            assert packed.read_bytes() == file.read_bytes(), file
        assert (installed / language / "new.toml").is_file()
    assert sorted(path.name for path in installed.iterdir()) == new.languages()
