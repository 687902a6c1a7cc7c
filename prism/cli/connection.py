"""How commands reach a proxy's data port, and how they tell its errors."""

import os
import re
import signal
import ssl
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

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

Command = TypeVar("Command", bound=Callable[..., object])


def connection_options(command: Command) -> Command:
    """``--url``, ``--ca-cert`` and ``--cert``."""
    for option in (
        click.option("--cert", metavar="FILE", help="Client certificate and key, in one PEM file."),
        click.option("--ca-cert", metavar="FILE", help="Trust this authority for https."),
        click.option(
            "--url",
            envvar="PRISM_URL",
            default=DEFAULT_URL,
            show_default=True,
            help="The proxy's address.",
        ),
    ):
        command = option(command)
    return command


def target_url(url: str, namespace: str, operation: str) -> str:
    """The URL of a call.

    Raises:
        click.UsageError: a name that a URL would read otherwise.
    """
    for name in (namespace, operation):
        if not is_plain(name):
            raise click.UsageError(
                f"NAMESPACE and OPERATION are letters, digits, hyphens, underscores: not {name!r}"
            )
    return f"{url.rstrip('/')}/v1/{namespace}/{operation}"


# More than the proxy takes, so that it is the proxy that explains its rules; but nothing
# that a URL would read otherwise.
is_plain = re.compile(r"[A-Za-z0-9_-]+").fullmatch


def timeout_headers(timeout: str | None) -> dict[str, str]:
    """``prism-timeout`` for ``--timeout``."""
    if timeout is None:
        return {}
    if not (timeout.isascii() and timeout.isprintable()):
        raise click.UsageError(f"--timeout {timeout!r} is no time, such as 250ms or 2s")
    return {"prism-timeout": timeout}


def tls_context(ca_cert: str | None, cert: str | None) -> ssl.SSLContext | None:
    """The context that the options ask for; ``None`` where they ask for nothing.

    Raises:
        click.UsageError: a file cannot be used.
    """
    if ca_cert is None and cert is None:
        return None
    try:
        context = ssl.create_default_context(cafile=ca_cert)
    except OSError as error:  # ssl.SSLError is one
        raise click.UsageError(f"cannot use {ca_cert}: {_reason(error)}") from None
    try:
        if cert is not None:
            context.load_cert_chain(cert, password="")
    except OSError as error:
        raise click.UsageError(
            f"cannot use {cert}: {_reason(error)}; it must hold the certificate and its "
            "private key, unencrypted"
        ) from None
    return context


def _reason(error: OSError) -> str:
    return "not the PEM it should be" if isinstance(error, ssl.SSLError) else str(error.strerror)


def http_client(
    url: str, ca_cert: str | None, cert: str | None, patience: float | None
) -> "httpx.Client":
    """A client that waits ``patience`` seconds for an answer, ``None`` for ever."""
    import httpx

    return httpx.Client(
        # Without TLS there is no ALPN: HTTP/2 is spoken with prior knowledge.
        http1=url.startswith("https:"),
        http2=True,
        verify=tls_context(ca_cert, cert) or True,
        timeout=httpx.Timeout(patience, connect=CONNECT_TIMEOUT),
        trust_env=False,
    )


def patience_for(timeout: str | None) -> float:
    """How long to wait for the answer to a call with this ``prism-timeout``."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0}
    for unit, seconds in units.items():
        number = (timeout or "").removesuffix(unit)
        if number != timeout and number.replace(".", "", 1).isdecimal():
            return float(number) * seconds + ANSWER_GRACE
    return LONGEST_CALL


def end_on_interrupt() -> None:
    """Let Ctrl-C end this process as it ends any program (130 in a shell).

    There is nothing to clean up, and an exception could come at any place of a library.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class ReaderGone(Exception):
    """Nobody reads standard output any more, as behind ``| head``: the end, not a failure."""


def print_line(text: str) -> None:
    """Print one line of a stream, at once.

    Raises:
        ReaderGone: nobody reads it.
    """
    try:
        click.echo(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ReaderGone from None


def say_unreachable(url: str, error: Exception) -> None:
    """Tell that the proxy cannot be reached, and what to do."""
    click.echo(f"prism: cannot call {url}: {str(error) or type(error).__name__}", err=True)
    if "refused" in str(error):
        click.echo("Is the proxy running? Start one with: prism serve", err=True)


def explained(problem: object, otherwise: str) -> str:
    """An error, as the proxy's problem details say it, in one sentence for people."""
    if isinstance(problem, dict) and {"code", "detail"} <= problem.keys():
        found: dict[str, Any] = problem
        return f"prism: {found['code']}: {found['detail']} (request {found.get('request_id', '-')})"
    return f"prism: {otherwise}"
