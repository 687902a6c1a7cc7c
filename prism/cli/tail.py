"""``prism tail``: follow a stream, over lost connections and restarts of the proxy too."""

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import click

from prism.cli import completion
from prism.cli.connection import (
    connection_options,
    credential_headers,
    http_client,
    is_about_certificates,
    say_refused,
    say_unreachable,
    target_url,
)
from prism.cli.output import ReaderGone, decoded, end_on_interrupt, explained, print_line

if TYPE_CHECKING:
    import httpx

FIRST_PAUSE = 0.5
LAST_PAUSE = 10.0
"""Seconds before connecting again, doubled up to the last."""
SILENCE = 60.0
"""Seconds: four of the proxy's signs of life are missing."""

EPILOG = """\b
Examples:
  prism tail demo watch '{"prefix": "user:"}'
  prism tail demo scan '{"prefix": "user:"}' | jq .key

\b
Each message is a line on standard output. After a lost connection the stream goes on where
it was, if the plugin gives positions, and anew if not. Exit status: 0 the stream ended,
1 it failed, or a certificate is not taken, 130 Ctrl-C.
"""


@click.command(epilog=EPILOG)
@click.argument("namespace", shell_complete=completion.namespaces)
@click.argument("operation", shell_complete=completion.operations)
@click.argument("params", metavar="[JSON]", default="{}")
@connection_options
def tail(
    namespace: str,
    operation: str,
    params: str,
    url: str,
    ca_cert: str | None,
    cert: str | None,
    key_file: str | None,
) -> None:
    """Follow a stream, over lost connections too.

    It connects again whenever the stream breaks off.
    """
    target = target_url(url, namespace, operation)
    end_on_interrupt()
    try:
        with http_client(url, ca_cert, cert, SILENCE) as client:
            client.headers.update(credential_headers(key_file))
            sys.exit(_follow(client, url, ca_cert, target, params))
    except ReaderGone:
        sys.exit(0)


class _Event(NamedTuple):
    kind: str
    id: str
    data: str


def _follow(client: "httpx.Client", url: str, ca_cert: str | None, target: str, params: str) -> int:
    import httpx

    position, pause = "", FIRST_PAUSE
    told = False

    def tell_once() -> None:
        nonlocal told
        if not told:
            click.echo("Trying again until it answers; Ctrl-C ends this.", err=True)
        told = True

    while True:
        headers = {"accept": "text/event-stream"}
        if position:
            headers["last-event-id"] = position
        try:
            with client.stream("POST", target, content=params, headers=headers) as response:
                if response.status_code != 200:
                    response.read()
                    problem = decoded(response.text)
                    if not told or not _passes(problem):
                        say_refused(response.status_code, response.text)
                    if not _passes(problem):
                        return 1
                    tell_once()
                for event in _events(response.iter_lines()) if response.is_success else ():
                    if event.kind == "end":
                        return 0
                    if event.kind == "error":
                        problem = decoded(event.data)
                        if not _passes(problem):
                            click.echo(explained(problem, event.data), err=True)
                            return 1
                        break
                    position, pause, told = event.id or position, FIRST_PAUSE, False
                    print_line(event.data)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise click.UsageError(f"--url {url}: {error}") from None
        except httpx.HTTPError as error:
            if not told:
                say_unreachable(url, error, ca_cert)
            if is_about_certificates(error):
                return 1
            tell_once()
        time.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)


def _passes(problem: object) -> bool:
    """Whether an error is one that waiting mends."""
    return isinstance(problem, dict) and problem.get("code") == "UNAVAILABLE"


def _events(lines: Iterator[str]) -> Iterator[_Event]:
    kind, number = "", ""
    data: list[str] = []
    for line in lines:
        name, _, value = line.partition(": ")
        if line == "" and data:
            yield _Event(kind, number, "".join(data))
            kind, number, data = "", "", []
        elif name == "event":
            kind = value
        elif name == "id":
            number = value
        elif name == "data":
            data.append(value)
