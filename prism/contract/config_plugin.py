"""The configuration of plugins: in the catalogue, and in a namespace."""

import shlex
from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta

from prism.contract.config_base import MIB, Block, Bytes, Name, PathText, Seconds, Version

SIDECAR = ("sidecar",)
IN_PROCESS = ("in_process",)
REMOTE = ("remote", "grpc", "websocket")
STARTED = ("in_process", "sidecar")

PluginType = Literal["in_process", "sidecar", "remote", "grpc", "websocket"]

Environment = Annotated[dict[str, str], Meta(extra={"private": True})]


class ClientTLS(Block, frozen=True):
    """TLS towards a remote plugin. The files are PEM."""

    enabled: Annotated[bool, Meta(description="`false` is the same as no `tls` block.")] = True
    ca_cert: Annotated[
        PathText | None,
        Meta(description="Authorities that the plugin's certificate must come from."),
    ] = None
    cert: Annotated[
        PathText | None, Meta(description="The proxy's own certificate, for mutual TLS.")
    ] = None
    key: Annotated[PathText | None, Meta(description="The private key of `cert`.")] = None
    server_name: Annotated[
        str | None,
        Meta(description="Name the plugin's certificate must carry, if not the endpoint's host."),
    ] = None


class HealthConfig(Block, frozen=True):
    """How the proxy watches a plugin."""

    interval_seconds: Annotated[Seconds, Meta(description="Time between two checks.")] = 10.0
    timeout_seconds: Annotated[Seconds, Meta(description="Time a check may take.")] = 5.0
    failure_threshold: Annotated[
        Annotated[int, Meta(ge=1, le=1000)],
        Meta(description="Failed checks in a row that make the plugin unhealthy."),
    ] = 3


class Launch(Block, frozen=True):
    """How a plugin is started or reached: the keys that a catalogue entry may fix."""

    module: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$(?!\n)",
                extra={"form": '"package.module:Class"'},
            ),
        ]
        | None,
        Meta(
            description="Python class to run inside the proxy, `package.module:Class`.",
            examples=["prism_plugins.sqlite:SQLitePlugin"],
            extra={"types": IN_PROCESS},
        ),
    ] = None
    library: Annotated[
        PathText | None,
        Meta(
            description="Shared library. Accepted and checked, but starting it is not supported "
            "yet.",
            extra={"types": IN_PROCESS},
        ),
    ] = None
    command: Annotated[
        Annotated[list[str], Meta(min_length=1)] | Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="Program to run, as a list or one shell-like line (no shell is involved). "
            "A name without a slash is looked up in PATH.",
            examples=[["python3", "plugin.py"]],
            extra={"types": SIDECAR},
        ),
    ] = None
    environment: Annotated[
        Environment,
        Meta(
            description="Environment of the program, beside a small clean one. Not for secrets.",
            extra={"types": SIDECAR, "needs": ("command",)},
        ),
    ] = {}
    working_directory: Annotated[
        PathText | None,
        Meta(
            description="Directory to run the program in.",
            extra={"types": SIDECAR, "needs": ("command",)},
        ),
    ] = None
    endpoint: Annotated[
        str | None,
        Meta(
            description="Where the plugin listens, `host:port`.",
            examples=["plugin.example.com:50100"],
            extra={"types": REMOTE},
        ),
    ] = None
    tls: Annotated[
        ClientTLS | None,
        Meta(
            description="TLS towards the endpoint.", extra={"types": REMOTE, "needs": ("endpoint",)}
        ),
    ] = None
    insecure: Annotated[
        bool,
        Meta(
            description="Allow plain text towards the endpoint, which must be loopback.",
            extra={"types": REMOTE, "needs": ("endpoint",)},
        ),
    ] = False
    sha256: Annotated[
        Annotated[
            str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)", extra={"form": "64 lower-case hex digits"})
        ]
        | None,
        Meta(
            description="SHA-256 of the library or program, checked before it runs.",
            extra={"types": STARTED, "needs": ("library", "command")},
        ),
    ] = None
    signature: Annotated[
        PathText | None,
        Meta(
            description="File with the Ed25519 signature of the library or program.",
            extra={"types": STARTED, "needs": ("library", "command")},
        ),
    ] = None

    @property
    def argv(self) -> list[str]:
        """``command`` as a list; a single line is split as a shell would (ValueError if torn)."""
        if isinstance(self.command, str):
            return shlex.split(self.command)
        return list(self.command or [])

    @property
    def address(self) -> tuple[str, int]:
        """``endpoint`` as (host, port); brackets of an IPv6 address are taken off.

        Raises:
            ValueError: it is not ``host:port``; the message says why.
        """
        return parse_endpoint(self.endpoint or "")


class CatalogueVersion(Launch, frozen=True):
    """One version of a catalogue plugin: the keys that differ from its siblings."""


class CataloguePlugin(Launch, frozen=True, kw_only=True):
    """A plugin that namespaces can refer to by name."""

    name: Annotated[Name, Meta(description="Name for `plugin.name`, or a namespace's `backend`.")]
    type: Annotated[PluginType, Meta(description="How the plugin runs.")]
    versions: Annotated[
        dict[Version, CatalogueVersion],
        Meta(
            description="Versions by name, each with the keys that it sets or replaces. "
            "Quote names that look like numbers."
        ),
    ] = {}


class PluginForm(StrEnum):
    """The ways in which a plugin is described."""

    CATALOGUE = "catalogue"
    MODULE = "module"
    LIBRARY = "library"
    COMMAND = "command"
    SOCKET = "socket"
    ENDPOINT = "endpoint"


class PluginConfig(Launch, frozen=True):
    """A namespace's plugin: by `name` from the catalogue, or inline with a `type`."""

    name: Annotated[
        Name | None,
        Meta(description="A plugin from the catalogue, or a built-in one. Not with `type`."),
    ] = None
    version: Annotated[
        Version | None, Meta(description="Which of its versions, where it has several.")
    ] = None
    type: Annotated[PluginType | None, Meta(description="How an inline plugin runs.")] = None
    socket: Annotated[
        PathText | None,
        Meta(
            description="Unix socket (at most 107 bytes): the proxy listens, the plugin dials in.",
            examples=["/var/run/plugins/kafka.sock"],
            extra={"types": SIDECAR},
        ),
    ] = None
    dial: Annotated[
        bool,
        Meta(
            description="The plugin listens on the socket and the proxy dials.",
            extra={"types": SIDECAR, "needs": ("socket",)},
        ),
    ] = False
    group: Annotated[
        str | None,
        Meta(
            description="Group that may connect to the socket.",
            extra={"types": SIDECAR, "needs": ("socket",)},
        ),
    ] = None
    mode: Annotated[
        Literal["0600", "0660"] | None,
        Meta(
            description='Permissions of the socket, in quotes; "0660" needs a `group` and is '
            'then the default, "0600" otherwise.',
            extra={"types": SIDECAR, "needs": ("socket",)},
        ),
    ] = None
    start_timeout_seconds: Annotated[
        Seconds, Meta(description="From start to a successful Initialize.")
    ] = 10.0
    drain_timeout_seconds: Annotated[
        Seconds, Meta(description="For open calls to end at a reload or stop.")
    ] = 30.0
    kill_timeout_seconds: Annotated[
        Seconds, Meta(description="Between asking a process to end and killing it.")
    ] = 5.0
    cancel_grace_seconds: Annotated[
        Seconds, Meta(description="For a cancelled call to close; after it the plugin is wedged.")
    ] = 5.0
    max_frame_bytes: Annotated[Bytes, Meta(description="Largest frame from or to the plugin.")] = (
        16 * MIB
    )
    health: Annotated[HealthConfig, Meta(description="Health checks.")] = HealthConfig()

    @property
    def form(self) -> PluginForm:
        """Which of the forms this is."""
        for form in PluginForm:
            if form is not PluginForm.CATALOGUE and getattr(self, form.value) is not None:
                return form
        return PluginForm.CATALOGUE

    @property
    def unsupported(self) -> str | None:
        """Why this plugin, though valid, cannot be started by this release; None if it can."""
        if self.form is PluginForm.LIBRARY:
            return f"starting a shared library ({self.library}) is not supported yet"
        return None

    @property
    def socket_mode(self) -> int:
        """``mode`` as a number, with its default."""
        return int(self.mode or ("0660" if self.group else "0600"), 8)


def parse_endpoint(text: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[IPv6]:port``.

    Raises:
        ValueError: anything else; the message is a sentence for the operator.
    """
    if "://" in text or "/" in text:
        raise ValueError("write host:port, without a scheme or a path")
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError("write host:port")
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        raise ValueError("put an IPv6 address in brackets: [::1]:50100")
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise ValueError("the port must be a number from 1 to 65535")
    return (host[1:-1] if bracketed else host), int(port)
