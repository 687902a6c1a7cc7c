"""``prism call``: make one call, as curl would, and print its result."""

import json
import os
import sys

import click

from prism.cli import completion
from prism.cli.connection import (
    check_json,
    connection_options,
    credential_headers,
    http_client,
    longest_wait,
    say_refused,
    say_unreachable,
    target_url,
    timeout_headers,
)
from prism.cli.output import as_json

EPILOG = """\b
Examples:
  prism call demo set '{"key": "user:123", "value": {"name": "Ada"}}'
  prism call demo get '{"key": "user:123"}'
  echo '{"prefix": "user:"}' | prism call demo scan -
  prism call demo get '{"key": "k"}' --timeout 250ms --url https://prism.example:50051
  prism call demo watch '{"prefix": "user:"}' --stream

\b
The result goes to standard output, indented on a terminal and as it came otherwise;
errors go to standard error. Exit status: 0 the call succeeded, 1 it did not,
2 wrong usage.
"""


@click.command(epilog=EPILOG)
@click.argument("namespace", shell_complete=completion.namespaces)
@click.argument("operation", shell_complete=completion.operations)
@click.argument("params", metavar="[JSON]", default="{}")
@connection_options
@click.option("--timeout", metavar="TIME", help="The call's deadline, such as 250ms or 2s.")
@click.option(
    "--priority",
    type=click.Choice(["high", "normal", "low"]),
    help="What the call has of its namespace's priority, at most: low is refused first.",
)
@click.option(
    "--stream",
    is_flag=True,
    help="Call a streaming operation: standard input's lines, unless it is a terminal, "
    "are further messages.",
)
@click.option(
    "--verbose",
    "-v",
    is_flag=True,
    help="Show status, time, request id, and attempts if there was more than one.",
)
def call(
    namespace: str,
    operation: str,
    params: str,
    url: str,
    timeout: str | None,
    ca_cert: str | None,
    cert: str | None,
    key_file: str | None,
    priority: str | None,
    stream: bool,
    verbose: bool,
) -> None:
    """Make one call, with parameters in JSON.

    OPERATION of NAMESPACE is called; `-` in place of JSON reads standard input.
    """
    import httpx

    target = target_url(url, namespace, operation)
    asked = {**timeout_headers(timeout), **credential_headers(key_file)}
    if priority is not None:
        asked["prism-priority"] = priority
    headers = {"accept": "application/json", "content-type": "application/json", **asked}
    if stream:
        from prism.cli.stream import call_stream

        if not target.startswith(("http://", "https://")):
            raise click.UsageError(f"--url {url}: it begins with http:// or https://")
        sys.exit(call_stream(target, params, asked, ca_cert, cert))
    # Bytes as they were given: if they are no UTF-8, the proxy says where.
    body = sys.stdin.buffer.read() if params == "-" else os.fsencode(params)
    check_json(body)
    try:
        with http_client(url, ca_cert, cert, longest_wait(timeout)) as client:
            response = client.post(target, content=body, headers=headers)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise click.UsageError(f"--url {url}: {error}") from None
    except httpx.HTTPError as error:
        say_unreachable(url, error, ca_cert)
        sys.exit(1)
    if verbose:
        attempts = response.headers.get("prism-attempts")
        click.echo(
            f"HTTP {response.status_code} in {response.elapsed.total_seconds() * 1000:.1f} ms, "
            f"request id {response.headers.get('x-request-id', '-')}"
            + (f", {attempts} attempts" if attempts else ""),
            err=True,
        )
    if response.is_success:
        click.echo(_shown(response.text))
    else:
        say_refused(response.status_code, response.text)
        if response.status_code == 404 and "/admin/openapi.json" in response.text:
            click.echo(f"{url} is the admin port; --url is the data port", err=True)
        if "answers with a stream" in response.text:
            click.echo("Follow it with --stream, or with: prism tail", err=True)
        sys.exit(1)


def _shown(text: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return text
    try:
        return as_json(json.loads(text))
    except (ValueError, RecursionError):
        return text
