"""``prism plugin keygen``, ``sign`` and ``verify``: whose code may run; runs none of it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prism.cli import completion
from prism.cli.output import output_option, show, show_one

if TYPE_CHECKING:
    from prism.config.types import Config, PluginConfig
    from prism.verification import Verdict

COLUMNS = ("plugin", "version", "result", "signed_by", "pinned", "digest", "file")

KEYGEN_EPILOG = """\b
Examples:
  prism plugin keygen release.key
  prism plugin keygen --name orders-team keys/orders.key

\b
The private key is written to FILE, which only you can read and which must not exist.
Keep it off the machines that run Prism; they need the public key only.
"""


@click.command(epilog=KEYGEN_EPILOG)
@click.argument("file", metavar="FILE")
@click.option("--name", metavar="NAME", help="Whose key it is; by default FILE without its ending.")
@output_option
def keygen(file: str, name: str | None, output: str) -> None:
    """Make a key to sign plugins with, and print what to trust it by."""
    from prism.contract import names
    from prism.verification.signature import key_id, public_text
    from prism.verification.signing import generate_key

    path = Path(file)
    name = name or path.stem.lower()
    if re.fullmatch(names.PLUGIN, name) is None:
        raise click.UsageError(f"{name!r} is no name: {names.NAMESPACE_FORM}; use --name")
    public = generate_key(path).public
    text = public_text(public)
    if output != "table":
        show_one({"name": name, "key": text, "id": key_id(public), "private_key": file}, output)
        return
    click.echo(
        f"# The private key is in {file}. To trust it, put into the configuration:\n"
        "verification:\n"
        "  trusted_keys:\n"
        f"    - name: {name}\n"
        f'      key: "{text}"  # id {key_id(public)}'
    )


SIGN_EPILOG = """\b
Examples:
  prism plugin sign --key release.key --name orders --version v1.3 dist/orders
  prism plugin sign --key release.key my_package/

\b
PATH is a program, a script, a library, or the directory of a Python package. The
signature goes beside it, into PATH.sig. A plugin that the catalogue has a name and
versions for needs --name and --version, exactly as they are there.
"""


@click.command(epilog=SIGN_EPILOG)
@click.argument("path", metavar="PATH")
@click.option("--key", "key_file", metavar="FILE", required=True, help="The private key.")
@click.option("--name", metavar="NAME", help="The plugin's name in the catalogue.")
@click.option("--version", metavar="VERSION", help="Its version in the catalogue.")
@output_option
def sign(path: str, key_file: str, name: str | None, version: str | None, output: str) -> None:
    """Sign the plugin at PATH."""
    from prism.verification.signing import load_key
    from prism.verification.signing import sign as sign_path

    statement, place = sign_path(path, load_key(Path(key_file)), name, version)
    show_one(
        {
            "digest": str(statement.digest),
            "name": statement.name,
            "version": statement.version,
            "key": statement.key,
            "signature": str(place),
        },
        output,
    )


VERIFY_EPILOG = """\b
Examples:
  prism plugin verify --config prism.yaml              every plugin that Prism starts
  prism plugin verify --config prism.yaml orders v1.3  one version
  prism plugin verify --config prism.yaml ./dist/orders
  prism plugin verify --key ed25519:... ./dist/orders

\b
With a slash it is a PATH, otherwise the NAME of a plugin in the catalogue. The
digest is what `sha256` in the configuration takes. Exit status: 0 when all of them
may run, 1 otherwise.
"""


@click.command(epilog=VERIFY_EPILOG)
@click.argument(
    "target", metavar="[NAME [VERSION] | PATH]", required=False, shell_complete=completion.plugins
)
@click.argument("version", metavar="", required=False)
@click.option(
    "--config",
    "-c",
    "file",
    metavar="FILE",
    envvar="PRISM_CONFIG",
    show_envvar=True,
    help="The configuration.",
)
@click.option("--key", "keys", metavar="KEY", multiple=True, help="Trust this public key as well.")
@output_option
def verify(
    target: str | None, version: str | None, file: str | None, keys: tuple[str, ...], output: str
) -> None:
    """Check plugins as Prism does before it starts them."""
    from prism.config import load_config
    from prism.config.types import Config

    config = load_config(file).config if file is not None else Config()
    config = _with_keys(config, keys)
    if target is not None and "/" in target:
        if version is not None:
            raise click.UsageError("a path has no VERSION")
        checks = [_path_check(target, config)]
    elif file is None:
        raise click.UsageError("give a path with a slash in it, or a --config with plugins")
    else:
        checks = list(_catalogue_checks(config, target, version))
        if target is None:
            checks += _inline_checks(config)
    records, problems = _run(checks)
    if records or output != "table":
        show(records, output, COLUMNS)
    else:
        click.echo("Prism starts none of these plugins, so there is nothing to verify")
    for problem in problems:
        click.echo(f"prism: {problem}", err=True)
    if problems:
        raise SystemExit(1)


Check = tuple[str, str | None, "Callable[[], Verdict | None]"]
"""A plugin's name, its version, and what verifies it."""


def _run(checks: list[Check]) -> tuple[list[dict[str, Any]], list[str]]:
    """A record for each check, and a sentence for each refusal."""
    from prism.verification.refusals import PluginRefused

    records: list[dict[str, Any]] = []
    problems: list[str] = []
    for name, version, check in checks:
        record: dict[str, Any] = {"plugin": name, "version": version, "result": "ok"}
        record |= dict.fromkeys(("signed_by", "key", "pinned", "digest", "file", "problem"))
        verdict = None
        try:
            verdict = check()
        except PluginRefused as error:
            problems.append(str(error))
            record |= {"result": error.reason, "problem": str(error), "file": error.place}
        if verdict is not None:
            record |= {
                "signed_by": verdict.signer,
                "key": verdict.key,
                "pinned": verdict.pinned,
                "digest": verdict.content.digest.hexdigest,
                "file": verdict.content.path,
            }
        records.append(record)
    return records, problems


def _check(plugin: "PluginConfig", label: str, config: "Config") -> "Callable[[], Verdict | None]":
    from prism.supervision.process import clean_environment
    from prism.verification import Verifier

    verifier = Verifier(plugin, label, config.verification)
    return lambda: verifier.verify(clean_environment(plugin.environment)["PATH"])


def _path_check(path: str, config: "Config") -> Check:
    from prism.config.types import PluginConfig
    from prism.verification import Verifier

    verifier = Verifier(PluginConfig(), path, config.verification)
    place = str(Path.cwd() / path)
    return path, None, lambda: verifier.path(place)


def _catalogue_checks(config: "Config", name: str | None, version: str | None) -> Iterator[Check]:
    """The catalogue's plugins that Prism starts: all, one by name, or one version of it.

    Raises:
        click.UsageError: the catalogue has no such plugin or version; says what it has.
    """
    from prism.config import UnresolvedPlugin, resolve_plugin
    from prism.config.types import NamespaceConfig, PluginConfig

    entries = {entry.name: entry for entry in config.plugins}
    if name is None:
        wanted = [(entry.name, v) for entry in config.plugins for v in entry.versions or [None]]
    elif version is None and name in entries and entries[name].versions:
        wanted = [(name, v) for v in entries[name].versions]
    else:
        wanted = [(name, version)]
    for plugin_name, plugin_version in wanted:
        reference = PluginConfig(name=plugin_name, version=plugin_version)
        namespace = NamespaceConfig(name="none", backend="none", plugin=reference)
        try:
            plugin = resolve_plugin(config, namespace)
        except UnresolvedPlugin as error:
            raise click.UsageError(str(error)) from None
        if _is_started(plugin):
            label = f"plugin {plugin_name!r}" + (f" {plugin_version}" if plugin_version else "")
            yield plugin_name, plugin_version, _check(plugin, label, config)


def _inline_checks(config: "Config") -> Iterator[Check]:
    """The plugins that namespaces have for themselves, under the names of their namespaces."""
    for namespace in config.namespaces:
        plugin = namespace.plugin
        if plugin.type is not None and _is_started(plugin):
            label = f"the plugin of namespace {namespace.name!r}"
            yield namespace.name, None, _check(plugin, label, config)


def _is_started(plugin: "PluginConfig") -> bool:
    from prism.config.types import PluginForm

    return plugin.form in (
        PluginForm.COMMAND,
        PluginForm.MODULE,
        PluginForm.LIBRARY,
        PluginForm.WASM,
    )


def _with_keys(config: "Config", keys: tuple[str, ...]) -> "Config":
    """The configuration with the command line's keys among the trusted ones."""
    import msgspec

    from prism.config.types import TrustedKey

    trusted = list(config.verification.trusted_keys)
    for number, key in enumerate(keys, 1):
        try:
            trusted.append(msgspec.convert({"name": f"given-{number}", "key": key}, TrustedKey))
        except msgspec.ValidationError:
            raise click.UsageError(
                f'--key {key}: expected "ed25519:" and 44 characters, as keygen prints it'
            ) from None
    verification = msgspec.structs.replace(config.verification, trusted_keys=trusted)
    return msgspec.structs.replace(config, verification=verification)
