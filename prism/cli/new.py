"""``prism plugin new``: a plugin to start from, in any language that a kit is there for.

What it is made of is data: ``sdks/LANGUAGE`` in a checkout, ``kits/LANGUAGE`` in the installed
package. ``sdks/README.md`` says what is in such a folder, ``new.toml`` and ``template/``.
"""

import keyword
import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import click

import prism
from prism.contract import names

EXAMPLE = "my-plugin"
"""The name that a template has, in the three forms that ``forms`` makes of any."""
WORDS = (
    "abstract become box break byte case catch chan char class const crate default do double "
    "enum extern final fn func go goto impl implements int interface let long loop main map "
    "match mod move mut native new package plugin pointer prism private protected public range "
    "ref register select self short signed sizeof static std struct super switch test throw "
    "throws trait true type typedef union unsafe unsigned use var virtual void volatile where"
)
RESERVED = {*WORDS.split(), *(word.lower() for word in keyword.kwlist)}
"""Words that are no name of a package in some language, or have a folder of their own here."""


@dataclass(frozen=True)
class Recipe:
    """``new.toml``: what is copied beside the template, and the commands that are printed."""

    files: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    into: str = ""
    needs: list[str] = field(default_factory=list)
    build: str = ""
    test: str = ""


def kits() -> Path:
    """The folder with a folder for each language."""
    package = Path(prism.__file__).parent
    installed = package / "kits"
    return installed if installed.is_dir() else package.parent / "sdks"


def languages() -> list[str]:
    """Those that ``new`` can make a plugin in."""
    return sorted(file.parent.name for file in kits().glob("*/new.toml"))


def recipe_of(folder: Path) -> Recipe:
    """The recipe in a language's folder."""
    import tomllib

    return Recipe(**tomllib.loads((folder / "new.toml").read_text()))


def kit_files(folder: Path, recipe: Recipe) -> list[Path]:
    """The files of a language's kit that a new plugin gets, relative to ``folder``."""
    without = {file for pattern in recipe.without for file in folder.glob(pattern)}
    found = {file for pattern in recipe.files for file in folder.glob(pattern) if file.is_file()}
    return sorted(file.relative_to(folder) for file in found - without)


def forms(name: str) -> dict[str, str]:
    """What becomes of each form of the template's name."""
    capitals = "".join(part.capitalize() for part in name.split("-"))
    return {EXAMPLE: name, EXAMPLE.replace("-", "_"): name.replace("-", "_"), "MyPlugin": capitals}


def wrong_name(name: str) -> str | None:
    """Why a plugin, a package and a namespace cannot all have this name."""
    if re.fullmatch(names.NAMESPACE, name) is None or not re.fullmatch(
        r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name
    ):
        return (
            f"{name!r} cannot be the name of a plugin: 1 to 63 lower-case letters, digits and "
            "single hyphens between them, a letter first, such as order-book"
        )
    if name.replace("-", "_") in RESERVED:
        return f"{name!r} is a word of its own in some language; choose another, such as my-{name}"
    return None


def make(language: str, name: str, directory: Path) -> Recipe:
    """Write the plugin ``name`` into ``directory``, which must not exist.

    Raises:
        FileExistsError: it does.
        OSError: it cannot be written; what was begun is removed.
    """
    folder = kits() / language
    recipe = recipe_of(folder)
    directory.mkdir(parents=True)
    try:
        for source in sorted((folder / "template").rglob("*")):
            if source.is_file() and "__pycache__" not in source.parts:
                where = _renamed(str(source.relative_to(folder / "template")), name)
                _write(directory / where, source, name)
        for file in kit_files(folder, recipe):
            target = directory / recipe.into / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, target)
    except OSError:
        shutil.rmtree(directory)
        raise
    return recipe


def _renamed(text: str, name: str) -> str:
    found = forms(name)
    return re.sub("|".join(found), lambda match: found[match[0]], text)


def _write(target: Path, source: Path, name: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(_renamed(source.read_text(), name))
    target.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)


EPILOG = """\b
Examples:
  prism plugin new orders --language go
  prism plugin new order-book --language python --directory plugins/order-book

\b
It has everything: the kit's sources, a test, a prism.yaml with one namespace,
and a README.md. No registry is asked, but where the language's own tool does.
"""


@click.command("new", epilog=EPILOG)
@click.argument("name", metavar="NAME")
@click.option("--language", required=True, metavar="LANGUAGE", help=f"{', '.join(languages())}.")
@click.option("--directory", type=click.Path(path_type=Path), help="Where; ./NAME without it.")
def new(name: str, language: str, directory: Path | None) -> None:
    """Make a plugin to start from."""
    if language not in languages():
        raise click.UsageError(f"no language {language!r}: choose from {', '.join(languages())}")
    if wrong := wrong_name(name):
        raise click.UsageError(wrong)
    where = directory or Path(name)
    try:
        recipe = make(language, name, where)
    except FileExistsError:
        raise click.ClickException(
            f"{where} is there already; choose another --directory"
        ) from None
    except OSError as error:
        raise click.ClickException(f"cannot write {where}: {error.strerror or error}") from None
    click.echo(f"{where} is a plugin in {language}. Build it, serve it, and ask it:\n")
    click.echo(f"  cd {shlex.quote(str(where))}" + (f" && {recipe.build}" if recipe.build else ""))
    click.echo("  prism serve --config prism.yaml")
    click.echo(f"""  curl -d '{{"name": "Ada"}}' http://127.0.0.1:50051/v1/{name}/greet""")
    if missing := [program for program in recipe.needs if shutil.which(program) is None]:
        click.echo(f"\nMissing here: {', '.join(missing)}.", err=True)
