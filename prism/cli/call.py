"""``prism call``: make one call, as curl would, and print its result."""

import json
import os
import re
import ssl
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:50051"
CONNECT_TIMEOUT = 5.0
"""Seconds to reach the proxy."""
ANSWER_GRACE = 5.0
"""Seconds beyond the call's own deadline: the proxy's answer says more than ours would."""
LONGEST_CALL = 300.0
"""Seconds to wait when no timeout is given."""

EPILOG = """\b
Examples:
  prism call demo set '{"key": "user:123", "value": {"name": "Ada"}}'
  prism call demo get '{"key": "user:123"}'
  echo '{"prefix": "user:"}' | prism call demo scan -
  prism call demo get '{"key": "k"}' --timeout 250ms --url https://prism.example:50051

\b
The result goes to standard output, indented on a terminal and as it came otherwise;
errors go to standard error. Exit status: 0 the call succeeded, 1 it did not,
2 wrong usage.
"""


@click.command(epilog=EPILOG)
@click.argument("namespace")
@click.argument("operation")
@click.argument("params", metavar="[JSON]", default="{}")
@click.option(
    "--url", envvar="PRISM_URL", default=DEFAULT_URL, show_default=True, help="The proxy's address."
)
@click.option("--timeout", metavar="TIME", help="The call's deadline, such as 250ms or 2s.")
@click.option("--ca-cert", metavar="FILE", help="Trust this authority for https.")
@click.option("--cert", metavar="FILE", help="Client certificate and key, in one PEM file.")
@click.option("--verbose", "-v", is_flag=True, help="Show status, time and request id.")
def call(
    namespace: str,
    operation: str,
    params: str,
    url: str,
    timeout: str | None,
    ca_cert: str | None,
    cert: str | None,
    verbose: bool,
) -> None:
    """Make one call, with parameters in JSON.

    OPERATION of NAMESPACE is called; `-` in place of JSON reads standard input.
    """
    import httpx

    # Bytes as they were given: if they are no UTF-8, the proxy says where.
    body = sys.stdin.buffer.read() if params == "-" else os.fsencode(params)
    for name in (namespace, operation):
        if not _is_plain(name):
            raise click.UsageError(
                f"NAMESPACE and OPERATION are letters, digits, hyphens, underscores: not {name!r}"
            )
    headers = {"content-type": "application/json"}
    if timeout is not None:
        if not (timeout.isascii() and timeout.isprintable()):
            raise click.UsageError(f"--timeout {timeout!r} is no time, such as 250ms or 2s")
        headers["prism-timeout"] = timeout
    target = f"{url.rstrip('/')}/v1/{namespace}/{operation}"
    try:
        with _client(url, ca_cert, cert, _patience(timeout)) as client:
            response = client.post(target, content=body, headers=headers)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise click.UsageError(f"--url {url}: {error}") from None
    except httpx.HTTPError as error:
        click.echo(f"prism: cannot call {url}: {error or type(error).__name__}", err=True)
        if isinstance(error, httpx.ConnectError) and "refused" in str(error):
            click.echo("Is the proxy running? Start one with: prism serve", err=True)
        sys.exit(1)
    if verbose:
        click.echo(
            f"HTTP {response.status_code} in {response.elapsed.total_seconds() * 1000:.1f} ms, "
            f"request id {response.headers.get('x-request-id', '-')}",
            err=True,
        )
    if response.is_success:
        click.echo(_shown(response.text))
    else:
        click.echo(_explained(response), err=True)
        sys.exit(1)


def _client(url: str, ca_cert: str | None, cert: str | None, patience: float) -> "httpx.Client":
    import httpx

    verify: ssl.SSLContext | bool = True
    if ca_cert is not None or cert is not None:
        try:
            verify = ssl.create_default_context(cafile=ca_cert)
        except OSError as error:  # ssl.SSLError is one
            raise click.UsageError(f"cannot use {ca_cert}: {_reason(error)}") from None
        try:
            if cert is not None:
                verify.load_cert_chain(cert, password="")
        except OSError as error:
            raise click.UsageError(
                f"cannot use {cert}: {_reason(error)}; it must hold the certificate and its "
                "private key, unencrypted"
            ) from None
    return httpx.Client(
        # Without TLS there is no ALPN: HTTP/2 is spoken with prior knowledge.
        http1=url.startswith("https:"),
        http2=True,
        verify=verify,
        timeout=httpx.Timeout(patience, connect=CONNECT_TIMEOUT),
        trust_env=False,
    )


def _reason(error: OSError) -> str:
    return "not the PEM it should be" if isinstance(error, ssl.SSLError) else str(error.strerror)


def _patience(timeout: str | None) -> float:
    """How long to wait for the answer to a call with this ``prism-timeout``."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0}
    for unit, seconds in units.items():
        number = (timeout or "").removesuffix(unit)
        if number != timeout and number.replace(".", "", 1).isdecimal():
            return float(number) * seconds + ANSWER_GRACE
    return LONGEST_CALL


# More than the proxy takes, so that it is the proxy that explains its rules; but nothing
# that a URL would read otherwise.
_is_plain = re.compile(r"[A-Za-z0-9_-]+").fullmatch


def _shown(text: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return text
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def _explained(response: "httpx.Response") -> str:
    """An error response as one sentence for people."""
    try:
        problem: dict[str, Any] = response.json()
        code, detail = problem["code"], problem["detail"]
    except (ValueError, KeyError, TypeError):
        return f"prism: HTTP {response.status_code}: {response.text[:500]}"
    return f"prism: {code}: {detail} (request {problem.get('request_id', '-')})"
