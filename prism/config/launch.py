"""How a plugin is started or reached: the keys that a catalogue entry may fix."""

import shlex
from typing import Annotated, Literal

from msgspec import Meta

from prism.config.base import Block, PathText
from prism.config.verification import Digest, SignaturePolicy
from prism.streams.addresses import parse_endpoint

SIDECAR = ("sidecar",)
IN_PROCESS = ("in_process",)
REMOTE = ("remote", "grpc", "websocket")
STARTED = ("in_process", "sidecar")
STARTS = ("library", "command", "module")

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


class Launch(Block, frozen=True):
    """How a plugin is started or reached: the keys that a catalogue entry may fix."""

    module: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z_](?:[A-Za-z0-9_.]|\{version\})*:[A-Za-z_][A-Za-z0-9_]*$(?!\n)",
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
    path: Annotated[
        PathText | None,
        Meta(
            description="Directory that the module's package lies in. Without it the package is "
            "looked for among those installed for the proxy's Python, then beside this file.",
            extra={"types": IN_PROCESS, "needs": ("module",)},
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
            description="Directory to run the program in; without it, that of this file.",
            extra={"types": SIDECAR, "needs": ("command",)},
        ),
    ] = None
    endpoint: Annotated[
        str | None,
        Meta(
            description="Where the plugin listens, `host:port`; for `websocket` a URL, "
            "`wss://host/path`.",
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
    overlap: Annotated[
        bool | None,
        Meta(
            description="`false` for a plugin that cannot run twice at a time (an exclusive file): "
            "a reload then stops the old one before it starts the new one, and holds the "
            "calls meanwhile. The default is `true`.",
        ),
    ] = None
    entry: Annotated[
        str | None,
        Meta(
            description="The word of `command` that is the plugin's own file, where that is "
            "neither the program nor the script of a known interpreter. `sha256` and "
            "`signature` are about this file.",
            examples=["plugin.jar"],
            extra={"types": SIDECAR, "needs": ("command",)},
        ),
    ] = None
    sha256: Annotated[
        Digest | None,
        Meta(
            description="SHA-256 of the plugin's file, or tree digest of its Python package, as "
            "`prism plugin verify` prints it. Checked before any of it runs.",
            extra={"types": STARTED, "needs": STARTS},
        ),
    ] = None
    signature: Annotated[
        PathText | None,
        Meta(
            description="File with the plugin's signature, if not the plugin's path with `.sig` "
            "after it.",
            extra={"types": STARTED, "needs": STARTS},
        ),
    ] = None
    signature_policy: Annotated[
        SignaturePolicy | None,
        Meta(
            description="`verification.policy` for this plugin alone.",
            extra={"types": STARTED, "needs": STARTS},
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

    @property
    def websocket_url(self) -> str:
        """``endpoint`` as a URL; ``host:port`` alone is its root."""
        endpoint = self.endpoint or ""
        if "://" in endpoint:
            return endpoint
        secure = self.tls is not None and self.tls.enabled
        return f"{'wss' if secure else 'ws'}://{endpoint}/"
