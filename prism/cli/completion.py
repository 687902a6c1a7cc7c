"""What shells complete: commands and options, and the names that a running proxy knows.

Those are asked of the proxy that the command line, or the environment, names. Where it does not
answer at once, or not to whom asks, nothing is completed, and nothing is said.
"""

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem, get_completion_class

if TYPE_CHECKING:
    import httpx

VARIABLE = "_PRISM_COMPLETE"
LONGEST = 1.0
"""Seconds for an answer: somebody waits at a prompt."""

EPILOG = """\b
Examples:
  prism completion bash > /etc/bash_completion.d/prism
  prism completion zsh > "${fpath[1]}/_prism"
  prism completion fish > ~/.config/fish/completions/prism.fish

\b
Namespaces and operations are completed too, while the proxy runs that --url, PRISM_URL or
PRISM_ADMIN names, and for who may see them (PRISM_KEY_FILE, PRISM_TOKEN_FILE).
"""


@click.command(epilog=EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has one for each of the choices
    try:
        script = kind(context.find_root().command, {}, "prism", VARIABLE).source()
    except RuntimeError as error:  # a bash that is too old
        click.echo(f"prism: {error}", err=True)
        sys.exit(1)
    click.echo(script)


def namespaces(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The namespaces that clients see."""
    found = _ask(lambda: _data_port(context), "/v1")
    return _fitting(begun, found, lambda: (one["namespace"] for one in found["namespaces"]))


def operations(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The operations of the namespace that is written before."""
    from prism.cli.connection import is_plain

    namespace = context.params.get("namespace") or ""
    if not is_plain(namespace):
        return []
    found = _ask(lambda: _data_port(context), f"/v1/{namespace}")
    return _fitting(begun, found, lambda: found["operations"])


def administered(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The namespaces that operators see."""
    found = _ask(lambda: _admin_port(context), "/admin/namespaces")
    return _fitting(begun, found, lambda: (one["namespace"] for one in found["namespaces"]))


def plugins(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The plugins in the catalogue of ``--config``, or a path."""
    from prism.config import load_config
    from prism.contract.errors import PrismError

    file = context.params.get("file")
    try:
        names = [entry.name for entry in load_config(file).config.plugins] if file else []
    except PrismError:
        names = []
    fitting = [CompletionItem(name) for name in names if name.startswith(begun)]
    return fitting or [CompletionItem(begun, type="file")]


def _data_port(context: click.Context) -> "httpx.Client":
    from prism.cli.connection import credential_headers, http_client

    given = context.params
    client = http_client(given["url"], given["ca_cert"], given["cert"], LONGEST)
    client.base_url = given["url"]
    client.headers.update(credential_headers(given["key_file"]))
    return client


def _admin_port(context: click.Context) -> "httpx.Client":
    from prism.cli.connection import Admin

    given = context.params
    admin = Admin(given["url"], given["token_file"], given["ca_cert"], given["cert"])
    admin.client.timeout = LONGEST
    return admin.client


def _ask(port: Callable[[], "httpx.Client"], path: str) -> Any:
    """The JSON at ``path``, or None."""
    import httpx

    try:
        with port() as client:
            return client.get(path).raise_for_status().json()
    except (click.ClickException, httpx.HTTPError, httpx.InvalidURL, ValueError):
        return None


def _fitting(begun: str, found: Any, names: Callable[[], Iterable[str]]) -> list[CompletionItem]:
    if found is None:
        return []
    return [CompletionItem(name) for name in names() if name.startswith(begun)]
