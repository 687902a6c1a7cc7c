"""How operators' commands reach the admin port."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from prism.cli.connection import CONNECT_TIMEOUT, explained, is_plain
from prism.streams.addresses import unix_path

if TYPE_CHECKING:
    import httpx

DEFAULT_ADMIN = "http://127.0.0.1:50052"
Command = TypeVar("Command", bound=Callable[..., object])


def admin_options(command: Command) -> Command:
    """``--admin`` and ``--token-file``."""
    for option in (
        click.option(
            "--token-file",
            metavar="FILE",
            envvar="PRISM_TOKEN_FILE",
            help="File with the token of `admin.token_file`.",
        ),
        click.option(
            "--admin",
            envvar="PRISM_ADMIN",
            default=DEFAULT_ADMIN,
            show_default=True,
            help="The admin port: a URL, or unix:/path.",
        ),
    ):
        command = option(command)
    return command


def admin_path(collection: str, namespace: str, rest: str = "") -> str:
    """The path of what ``collection`` has of a namespace.

    Raises:
        click.UsageError: a name that a URL would read otherwise.
    """
    if not is_plain(namespace):
        raise click.UsageError(
            f"NAMESPACE is letters, digits, hyphens, underscores: not {namespace!r}"
        )
    return f"/admin/{collection}/{namespace}{rest}"


def _token(file: str) -> str:
    """The token in ``file``; what is wrong with it is said without showing it."""
    try:
        token = Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise click.UsageError(f"cannot read {file}: {reason}") from None
    if not token or " " in token or not (token.isascii() and token.isprintable()):
        raise click.UsageError(f"{file} has no token: it is not one line of ASCII without spaces")
    return token


class Admin:
    """The admin API of one proxy. What it refuses is said, and ends the command with 1."""

    def __init__(self, address: str, token_file: str | None) -> None:
        import httpx

        headers = {}
        if token_file is not None:
            headers["authorization"] = f"Bearer {_token(token_file)}"
        path = unix_path(address)
        self._address = address
        self._client = httpx.Client(
            base_url="http://localhost" if path is not None else address,
            transport=httpx.HTTPTransport(uds=path) if path is not None else None,
            headers=headers,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
            trust_env=False,
        )

    def get(self, path: str) -> Any:
        """The JSON at ``path``."""
        return self._ask(lambda: self._client.get(path))

    def peek(self, path: str) -> Any:
        """The JSON at ``path``, or None where it cannot be had."""
        import httpx

        try:
            response = self._client.get(path)
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
        return response.json() if response.is_success else None

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What a change answers. It is waited for: a reload takes as long as it drains."""
        return self._ask(lambda: self._client.post(path, json=body))

    def lines(self, path: str) -> Iterator[str]:
        """Lines of JSON as they come."""
        import httpx

        headers = {"accept": "application/x-ndjson"}
        try:
            with self._client.stream("GET", path, headers=headers) as response:
                if response.status_code != 200:
                    response.read()
                    self._refuse(response)
                yield from response.iter_lines()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._unreachable(error)

    def _ask(self, ask: Callable[[], "httpx.Response"]) -> Any:
        import httpx

        try:
            response = ask()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._unreachable(error)
        if not response.is_success:
            self._refuse(response)
        return response.json()

    def _refuse(self, response: "httpx.Response") -> None:
        try:
            problem = response.json()
        except ValueError:
            problem = None
        click.echo(explained(problem, f"HTTP {response.status_code}"), err=True)
        if response.status_code == 401:
            click.echo("Name the file with the token: --token-file, or PRISM_TOKEN_FILE", err=True)
        sys.exit(1)

    def _unreachable(self, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        click.echo(f"prism: cannot reach the admin port at {self._address}: {reason}", err=True)
        click.echo("Where it is: --admin, or PRISM_ADMIN (prism serve says it)", err=True)
        sys.exit(1)
