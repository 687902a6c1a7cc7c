"""How commands reach a proxy: its data port for calls, its admin port for operators."""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from prism.cli.output import decoded, harmless, refused
from prism.streams.addresses import unix_path

if TYPE_CHECKING:
    import ssl

    import httpx

DEFAULT_URL = "http://127.0.0.1:50051"
DEFAULT_ADMIN_URL = "http://127.0.0.1:50052"
CONNECT_TIMEOUT = 5.0
"""Seconds to reach the proxy."""
ANSWER_GRACE = 5.0
"""Seconds beyond the call's own deadline: the proxy's answer says more than ours would."""
LONGEST_CALL = 300.0
"""Seconds to wait when no timeout is given."""

Command = TypeVar("Command", bound=Callable[..., object])

cert_option = click.option(
    "--cert", metavar="FILE", help="Client certificate and key, in one PEM file."
)
ca_cert_option = click.option("--ca-cert", metavar="FILE", help="Trust this authority for https.")


def connection_options(command: Command) -> Command:
    """``--url``, ``--ca-cert``, ``--cert`` and ``--key-file``."""
    for option in (
        click.option(
            "--key-file",
            metavar="FILE",
            envvar="PRISM_KEY_FILE",
            show_envvar=True,
            help="File with an API key, or another bearer token, to show.",
        ),
        cert_option,
        ca_cert_option,
        click.option(
            "--url",
            envvar="PRISM_URL",
            show_envvar=True,
            default=DEFAULT_URL,
            show_default=True,
            help="The proxy's data port.",
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
    """``prism-timeout`` for ``--timeout``.

    Raises:
        click.UsageError: the proxy would not take it.
    """
    if timeout is None:
        return {}
    _seconds(timeout)
    return {"prism-timeout": timeout}


def credential_headers(key_file: str | None) -> dict[str, str]:
    """``authorization`` for ``--key-file``, or ``--token-file``.

    Raises:
        click.UsageError: the file cannot be used.
    """
    return {} if key_file is None else {"authorization": f"Bearer {_token(key_file)}"}


def _seconds(timeout: str) -> float:
    from prism.calls.timeout import TIMEOUT_FORM, parse_timeout
    from prism.contract.errors import InvalidRequest

    try:
        return parse_timeout(timeout)
    except InvalidRequest:
        raise click.UsageError(f"--timeout {timeout!r}: expected {TIMEOUT_FORM}") from None


def tls_context(ca_cert: str | None, cert: str | None) -> "ssl.SSLContext | None":
    """The context that the options ask for; ``None`` where they ask for nothing.

    Raises:
        click.UsageError: a file cannot be used.
    """
    if ca_cert is None and cert is None:
        return None
    from prism.streams.errors import TLSFilesError
    from prism.streams.tls import TLSFiles, load_client_context

    try:
        return load_client_context(TLSFiles(ca_cert=ca_cert, cert=cert))
    except TLSFilesError as error:
        raise click.UsageError(str(error)) from None


def http_client(
    url: str, ca_cert: str | None, cert: str | None, longest: float | None
) -> "httpx.Client":
    """A client that waits ``longest`` seconds for an answer, ``None`` for ever."""
    import httpx

    return httpx.Client(
        # Without TLS there is no ALPN: HTTP/2 is spoken with prior knowledge.
        http1=url.startswith("https:"),
        http2=True,
        verify=tls_context(ca_cert, cert) or True,
        timeout=httpx.Timeout(longest, connect=CONNECT_TIMEOUT),
        trust_env=False,
    )


def longest_wait(timeout: str | None) -> float:
    """How long to wait for the answer to a call with this ``--timeout``."""
    return LONGEST_CALL if timeout is None else _seconds(timeout) + ANSWER_GRACE


def check_json(text: bytes) -> None:
    """That ``text`` is JSON, as far as people get it wrong; the proxy is stricter.

    Raises:
        click.UsageError: it is not; says where.
    """
    try:
        json.loads(text)
    except (UnicodeDecodeError, RecursionError):
        pass  # the proxy says which byte, or how deep
    except ValueError as error:
        files = "; - reads them from standard input: < FILE" if text.startswith(b"@") else ""
        raise click.UsageError(f"the parameters are not JSON: {error}{files}") from None


def say_unreachable(url: str, error: Exception, ca_cert: str | None = None) -> None:
    """Tell that the proxy cannot be reached, and what to do; ``ca_cert`` was trusted."""
    click.echo(f"prism: cannot call {url}: {_reason(error)}", err=True)
    if "refused" in str(error):
        click.echo("Is the proxy running? Start one with: prism serve", err=True)
    elif hint := _hint(url, error, ca_cert):
        click.echo(hint, err=True)


def _reason(error: Exception) -> str:
    """The error's text; of a GOAWAY, which the library shows as an object, what it says."""
    text = str(error) or type(error).__name__
    if (goaway := _GOAWAY(text)) is None:
        return text
    if goaway[2] == "None":
        code = goaway[1].removeprefix("ErrorCodes.")
        why = "" if code in ("0", "NO_ERROR") else f" for an error ({code})"
        return f"the connection was ended by the other side{why}, as it said"
    return harmless(bytes.fromhex(goaway[2]).decode(errors="replace"))


_GOAWAY = re.compile(
    r"<ConnectionTerminated error_code:([\w.]+), .*additional_data:((?:[0-9a-f]{2})+|None)>"
).fullmatch


# What a TLS server says of its client's certificate (RFC 8446, 6.2).
_ALERTS = {
    "certificate required": "The proxy wants a client certificate: --cert",
    "certificate expired": "Your certificate (--cert) has expired",
    "certificate revoked": "Your certificate (--cert) has been revoked",
    "unknown ca": "Your certificate (--cert) is of an authority that the proxy does not know",
    "handshake failure": "Perhaps the proxy wants a client certificate: --cert",
}

# What a mistaken scheme looks like; which of these comes first is a matter of time.
_NO_TLS = (
    "wrong version number",
    "record layer",
    "unexpected eof",
    "eof occurred in violation",
)
_NO_PLAIN_HTTP = (
    "disconnected",
    "reset by peer",
    "broken pipe",
    "remote protocol",
    "http/2",
    "speaks tls",
)


def say_refused(status: int, text: str) -> None:
    """Tell that the proxy has refused, with what body, and what to do."""
    click.echo(refused(status, text), err=True)
    if status == 401 and "say who you are" in text:
        ways = {
            "--key-file, or PRISM_KEY_FILE": "Bearer" in text,
            "--cert": "a client certificate" in text,
        }
        hint = "; or ".join(way for way, is_open in ways.items() if is_open)
        click.echo(f"With {hint}", err=True)


def is_about_certificates(error: Exception) -> bool:
    """Whether one side does not take the other's certificate, which no waiting mends."""
    return bool(_advice(_said(error))) or _NOT_VERIFIED in _said(error)


_NOT_VERIFIED = "certificate verify failed"


def _said(error: Exception) -> str:
    return str(error).lower().replace("_", " ")


def _advice(said: str) -> str:
    return next((way for alert, way in _ALERTS.items() if f"alert {alert}" in said), "")


def _hint(url: str, error: Exception, ca_cert: str | None) -> str:
    """What is probably wrong with the URL, or its certificate."""
    said = f"{_said(error)} {_reason(error).lower()}"
    if advice := _advice(said):
        return advice
    if _NOT_VERIFIED in said:
        if "hostname" in said or "ip address" in said:
            return "The certificate is for another name: call the proxy by one that is in it"
        if "has expired" in said:
            return "The proxy's certificate has expired, or the clock here is wrong"
        if ca_cert is not None:
            return f"Its certificate was not issued by an authority in {ca_cert} (--ca-cert)"
        return "Who issued its certificate is not known here: name the authority with --ca-cert"
    if url.startswith("https:") and any(word in said for word in _NO_TLS):
        return "No TLS is spoken there: is it http://?"
    if url.startswith("http:") and any(word in said for word in _NO_PLAIN_HTTP):
        return "If TLS is spoken there, it is https://"
    return ""


class Number(click.FloatRange):
    """A number in a range that is one: NaN is in each, and infinity in those without an end."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """As click does; refuses also what is none."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


class RenamedOption(click.Option):
    """An option that still goes by its old names, which help does not show."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """As any option's, with its first name alone."""
        names, self.opts = self.opts, self.opts[:1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = names


def admin_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--url``, here of the admin port, and what is shown there; the command gets an ``admin``."""

    @wraps(command)
    def with_admin(
        url: str, token_file: str | None, ca_cert: str | None, cert: str | None, **options: Any
    ) -> None:
        command(admin=Admin(url, token_file, ca_cert, cert), **options)

    for option in (
        cert_option,
        ca_cert_option,
        click.option(
            "--token-file",
            metavar="FILE",
            envvar="PRISM_TOKEN_FILE",
            show_envvar=True,
            help="File with an operator's token (admin.token_file, admin.tokens).",
        ),
        click.option(
            "--url",
            "--admin",
            cls=RenamedOption,
            envvar="PRISM_ADMIN",
            show_envvar=True,
            default=DEFAULT_ADMIN_URL,
            show_default=True,
            help="The proxy's admin port: a URL, or unix:/path.",
        ),
    ):
        with_admin = option(with_admin)
    return with_admin


def admin_path(collection: str, namespace: str, rest: str = "") -> str:
    """The path of what ``collection`` has of a namespace.

    Raises:
        click.UsageError: a name that a URL would read otherwise.
    """
    of_plugin = namespace.removesuffix(":shadow") if collection == "plugins" else namespace
    if not is_plain(of_plugin):
        meant = namespace.partition("/")[0].removesuffix(":shadow")  # it may be an instance's
        hint = f"; did you mean {meant!r}?" if is_plain(meant) else ""
        raise click.UsageError(
            f"NAMESPACE is letters, digits, hyphens, underscores: not {namespace!r}{hint}"
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
    """The admin API of one proxy. What it refuses is said, and ends the command with 1.

    Nothing is read before it is first asked: some commands may do without.
    """

    def __init__(
        self, address: str, token_file: str | None, ca_cert: str | None, cert: str | None
    ) -> None:
        self.address = address
        self._token_file = token_file
        self._ca_cert = ca_cert
        self._cert = cert

    @cached_property
    def client(self) -> "httpx.Client":
        """What speaks HTTP with it."""
        import httpx

        path = unix_path(self.address)
        return httpx.Client(
            base_url="http://localhost" if path is not None else self.address,
            transport=httpx.HTTPTransport(uds=path) if path is not None else None,
            headers=credential_headers(self._token_file),
            verify=tls_context(self._ca_cert, self._cert) or True,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
            trust_env=False,
        )

    def prepare(self) -> None:
        """Have the client made now, which takes a moment."""
        _ = self.client

    def get(self, path: str) -> Any:
        """The JSON at ``path``."""
        return self._ask(lambda: self.client.get(path))

    def peek(self, path: str) -> Any:
        """The JSON at ``path``, or None where it cannot be had."""
        return self.attempt(path)[0]

    def attempt(self, path: str, longest: float | None = None) -> tuple[Any, str]:
        """The JSON at ``path``, asked for ``longest`` seconds; or None, and why."""
        import httpx

        try:
            response = self.client.get(path, timeout=longest or self.client.timeout)
            if not response.is_success:
                return None, refused(response.status_code, response.text).removeprefix("prism: ")
            found = decoded(response.text)
            return found, "" if found is not None else self._no_admin_port()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return None, f"cannot reach the admin port at {self.address}: {_reason(error)}"

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What a change answers. It is waited for: a reload takes as long as it drains."""
        return self._ask(lambda: self.client.post(path, json=body))

    def lines(self, path: str, begun: Callable[[], None] = lambda: None) -> Iterator[str]:
        """Lines of JSON as they come; ``begun`` is called when none is missed any more."""
        import httpx

        headers = {"accept": "application/x-ndjson"}
        try:
            with self.client.stream("GET", path, headers=headers) as response:
                if response.status_code != 200:
                    response.read()
                    self._refuse(response)
                begun()
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
        found = decoded(response.text)
        if found is None:
            click.echo(f"prism: {self._no_admin_port()}", err=True)
            sys.exit(1)
        return found

    def _no_admin_port(self) -> str:
        return f"{self.address} is no admin port: what it answers is not JSON"

    def _refuse(self, response: "httpx.Response") -> None:
        click.echo(refused(response.status_code, response.text), err=True)
        if hint := self._hint_of_refusal(response.status_code, response.text):
            click.echo(hint, err=True)
        sys.exit(1)

    def _hint_of_refusal(self, status: int, text: str) -> str:
        # Both ports name these keys for exactly that: the data port does not ask for its tokens.
        asks_for_token = status == 401 and "admin.token" in text
        if (status == 404 and "admin.port" in text) or (
            status == 401 and not asks_for_token and '"reason":"unauthenticated"' in text
        ):
            return (
                f"{self.address} is the data port; the admin port is on another (prism serve says "
                "it)"
            )
        if asks_for_token and self._token_file is not None:
            return f"The token in {self._token_file} is not one of those"
        if status == 401:
            return "Name the file with the token: --token-file, or PRISM_TOKEN_FILE"
        return ""

    def at(self, address: str) -> "Admin":
        """The admin API at another address, with the same token and certificates."""
        return Admin(address, self._token_file, self._ca_cert, self._cert)

    def _unreachable(self, error: Exception) -> None:
        click.echo(
            f"prism: cannot reach the admin port at {self.address}: {_reason(error)}", err=True
        )
        hint = _hint(self.address, error, self._ca_cert)
        click.echo(hint or "Where it is: --url, or PRISM_ADMIN (prism serve says it)", err=True)
        sys.exit(1)
