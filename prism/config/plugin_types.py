"""The types of plugins: how one is started or reached, in the catalogue and in a namespace."""

import shlex
from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from prism.config.fields import (
    MIB,
    Block,
    Bytes,
    Digest,
    HttpOrigin,
    Name,
    Network,
    PathText,
    PythonClass,
    Seconds,
    Text,
    Version,
)
from prism.streams.addresses import parse_endpoint

SIDECAR = ("sidecar",)
IN_PROCESS = ("in_process",)
REMOTE = ("remote", "grpc", "websocket")
WASM = ("wasm",)
STARTED = ("in_process", "sidecar", "wasm")
STARTS = ("library", "command", "module", "file")

PluginType = Literal["in_process", "sidecar", "wasm", "remote", "grpc", "websocket"]

SignaturePolicy = Literal["require", "allow_missing"]


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


class Endpoint(Block, frozen=True, kw_only=True):
    """One of several places where a plugin listens."""

    address: Annotated[
        Text,
        Meta(description="`host:port`; for `websocket` a URL.", examples=["a.example.com:20100"]),
    ]
    zone: Annotated[
        str, Meta(description="Where it is, in the words of the top level's `zone`.")
    ] = ""


class HttpGrant(Block, frozen=True, kw_only=True):
    """An origin that a WebAssembly plugin may send requests to."""

    origin: Annotated[HttpOrigin, Meta(description="Scheme and host, and the port if it has one.")]
    networks: Annotated[
        list[Network],
        Meta(
            description="Networks that the host's name may lead to beside public addresses. A "
            "name that leads elsewhere is not connected to."
        ),
    ] = []


class WasmGrants(Block, frozen=True):
    """What a WebAssembly plugin may use: what is not granted it cannot even import."""

    clock: Annotated[bool, Meta(description="The time.")] = False
    random: Annotated[bool, Meta(description="Random bytes.")] = False
    log: Annotated[
        bool,
        Meta(description="Lines in the proxy's log; its standard output and error, too."),
    ] = False
    key_value_bytes: Annotated[
        Annotated[int, Meta(ge=0, le=1024 * 1024 * 1024)],
        Meta(
            description="Size of a table that its instances share, in the memory of the host's "
            "process: it is empty after each start. 0: none."
        ),
    ] = 0
    http: Annotated[
        list[HttpOrigin | HttpGrant],
        Meta(
            description="Origins that it may send HTTP requests to: each text, or a block.",
            examples=[["https://api.example.com"]],
        ),
    ] = []


class WasmConfig(Block, frozen=True):
    """How a WebAssembly plugin runs."""

    memory_bytes: Annotated[
        Bytes, Meta(description="Most memory of each instance, for a component of each part.")
    ] = 64 * MIB
    instances: Annotated[
        Annotated[int, Meta(ge=1, le=256)],
        Meta(
            description="How many calls may run at a time, each in an instance of its own; others "
            "wait. A stream has an instance for as long as it is open; a quarter is kept for calls."
        ),
    ] = 4
    fuel: Annotated[
        Annotated[int, Meta(ge=0, le=2**62)],
        Meta(
            description="Most steps of one call, about an instruction each; 0: as many as it has "
            "time for. To count them costs a few per cent."
        ),
    ] = 0
    grants: Annotated[WasmGrants, Meta(description="What it may use of the world.")] = WasmGrants()

    def settings(self) -> bytes:
        """As JSON, for the host's process."""
        http = [{"origin": each} if isinstance(each, str) else each for each in self.grants.http]
        plain = msgspec.to_builtins(self)
        plain["grants"]["http"] = msgspec.to_builtins(http)
        return msgspec.json.encode(plain)


class Launch(Block, frozen=True):
    """How a plugin is started or reached: the keys that a catalogue entry may fix."""

    module: Annotated[
        PythonClass | None,
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
            description="Shared library that speaks the C interface of native plugins.",
            examples=["libecho.so"],
            extra={"types": IN_PROCESS},
        ),
    ] = None
    isolation: Annotated[
        Literal["process", "none"],
        Meta(
            description="Where the library runs. `process`: in a process of its own, which it may "
            "crash. `none`: in the proxy itself, which then crashes and hangs with it.",
            extra={"types": IN_PROCESS, "needs": ("library",)},
        ),
    ] = "process"
    file: Annotated[
        PathText | None,
        Meta(
            description="WebAssembly module or component, in binary form.",
            examples=["greeter.wasm"],
            extra={"types": WASM},
        ),
    ] = None
    wasm: Annotated[
        WasmConfig,
        Meta(
            description="How a WebAssembly plugin runs, and what it may use.",
            extra={"types": WASM, "needs": ("file",)},
        ),
    ] = WasmConfig()
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
        dict[str, str],
        Meta(
            description="Environment of the program, beside a small clean one. Not for secrets.",
            extra={"types": SIDECAR, "needs": ("command",), "private": True},
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
        str | Annotated[list[str | Endpoint], Meta(min_length=1)] | None,
        Meta(
            description="Where the plugin listens, `host:port`; for `websocket` a URL, "
            "`wss://host/path`. A list: there are several of it, which share the calls.",
            examples=["plugin.example.com:20100"],
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
    def endpoints(self) -> list[Endpoint]:
        """``endpoint`` as a list."""
        if self.endpoint is None:
            return []
        listed = [self.endpoint] if isinstance(self.endpoint, str) else self.endpoint
        return [Endpoint(address=one) if isinstance(one, str) else one for one in listed]

    @property
    def endpoint_text(self) -> str:
        """The first ``endpoint``, as it is written; empty where there is none."""
        return self.endpoints[0].address if self.endpoint else ""

    @property
    def argv(self) -> list[str]:
        """``command`` as a list; a single line is split as a shell would (ValueError if torn)."""
        if isinstance(self.command, str):
            return shlex.split(self.command)
        return list(self.command or [])

    @property
    def address(self) -> tuple[str, int]:
        """``endpoint``, the first if there are several, as (host, port); brackets of an IPv6
        address are taken off.

        Raises:
            ValueError: it is not ``host:port``; the message says why.
        """
        return parse_endpoint(self.endpoint_text)

    @property
    def websocket_url(self) -> str:
        """``endpoint`` as a URL; ``host:port`` alone is its root."""
        endpoint = self.endpoint_text
        if "://" in endpoint:
            return endpoint
        secure = self.tls is not None and self.tls.enabled
        return f"{'wss' if secure else 'ws'}://{endpoint}/"


class HealthConfig(Block, frozen=True):
    """How the proxy watches a plugin."""

    interval_seconds: Annotated[Seconds, Meta(description="Time between two checks.")] = 10.0
    timeout_seconds: Annotated[Seconds, Meta(description="Time a check may take.")] = 5.0
    failure_threshold: Annotated[
        Annotated[int, Meta(ge=1, le=1000)],
        Meta(description="Failed checks in a row that make the plugin unhealthy."),
    ] = 3


class RestartConfig(Block, frozen=True):
    """When the proxy starts a plugin again that failed, and when it stops trying."""

    first_delay_seconds: Annotated[
        Seconds, Meta(description="Pause after the first failure; it doubles with each in a row.")
    ] = 0.1
    max_delay_seconds: Annotated[Seconds, Meta(description="Longest pause.")] = 30.0
    good_run_seconds: Annotated[
        Seconds, Meta(description="Service after which a failure counts as the first again.")
    ] = 60.0
    max_crashes: Annotated[
        Annotated[int, Meta(ge=0, le=1_000_000)],
        Meta(
            description="Crashes in a row after which the plugin has failed and waits for a reset; "
            "0 never gives up. A plugin that says why it cannot start, or that is not there "
            "to connect to, has not crashed."
        ),
    ] = 20


class BalanceConfig(Block, frozen=True):
    """How calls are shared between several replicas of a plugin."""

    slow_start_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=86_400)],
        Meta(
            description="For so long the share of a replica that is new, or back, grows from a "
            "tenth to a full one; 0: it has a full one at once."
        ),
    ] = 10.0
    eject_after_failures: Annotated[
        Annotated[int, Meta(ge=0, le=100_000)],
        Meta(
            description="Failed calls in a row after which a replica gets no calls for a while; "
            "0: however many. Only while another replica does well."
        ),
    ] = 5
    eject_error_rate: Annotated[
        Annotated[float, Meta(ge=0, le=1)],
        Meta(
            description="By how much the share of a replica's calls that fail may be above that "
            "of the others' before it gets no calls for a while; 0: by any."
        ),
    ] = 0.3
    ejection_seconds: Annotated[
        Seconds, Meta(description="How long that is the first time; it doubles with each time.")
    ] = 10.0
    max_ejection_seconds: Annotated[Seconds, Meta(description="The longest time.")] = 300.0
    max_ejected: Annotated[
        Annotated[float, Meta(ge=0, le=1)],
        Meta(
            description="Share of the replicas that may be without calls at a time: of two or "
            "three at least one may, and at least one always stays. 0: none."
        ),
    ] = 0.5


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
    WASM = "file"
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
    type: Annotated[
        PluginType | None,
        Meta(description="How an inline plugin runs."),
    ] = None
    socket: Annotated[
        PathText | None,
        Meta(
            description="Unix socket (at most 107 bytes): the proxy listens, the plugin dials in. "
            "With a `command` the proxy starts it, with `PLUGIN_SOCKET` in its environment.",
            examples=["/var/run/plugins/kafka.sock"],
            extra={"types": SIDECAR},
        ),
    ] = None
    dial: Annotated[
        bool,
        Meta(
            description="The plugin listens on the socket and the proxy dials. With a `command` "
            "the proxy starts it; a reload then stops the old one first, as two cannot listen at "
            "one path.",
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
    processes: Annotated[
        Annotated[int, Meta(ge=1, le=1000)],
        Meta(
            description="How many processes of a plugin that the proxy starts by its `command` "
            "share the calls. Only for a plugin of which several may run at a time: its page says "
            "so."
        ),
    ] = 1
    resolve: Annotated[
        Literal["first", "all"],
        Meta(
            description="`all`: every address that DNS has for the endpoint's host is a plugin of "
            "its own, and they share the calls; who comes and goes is followed. `first`: one that "
            "can be reached is chosen."
        ),
    ] = "first"
    resolve_seconds: Annotated[
        Seconds,
        Meta(
            description="Time between two look-ups with `resolve: all`. One that is lost is reason "
            "for another, at once."
        ),
    ] = 30.0
    balance: Annotated[BalanceConfig, Meta(description="How several replicas share the calls.")] = (
        BalanceConfig()
    )
    start_timeout_seconds: Annotated[
        Seconds,
        Meta(description="From start to a successful Initialize, and from there to health."),
    ] = 10.0
    drain_timeout_seconds: Annotated[
        Seconds,
        Meta(
            description="For open calls to end at a reload or stop. Longer than a call may take "
            "by default."
        ),
    ] = 35.0
    kill_timeout_seconds: Annotated[
        Seconds, Meta(description="Between asking a process to end and killing it.")
    ] = 5.0
    cancel_grace_seconds: Annotated[
        Seconds, Meta(description="For a cancelled call to close; after it the plugin is wedged.")
    ] = 5.0
    max_frame_bytes: Annotated[Bytes, Meta(description="Largest frame from or to the plugin.")] = (
        16 * MIB
    )
    strict: Annotated[
        bool,
        Meta(
            description="For development: end the connection, and say why, where a plugin makes a "
            "mistake that is else forgiven, logged and counted; and look at every result whole."
        ),
    ] = False
    health: Annotated[HealthConfig, Meta(description="Health checks.")] = HealthConfig()
    restart: Annotated[RestartConfig, Meta(description="Restarts after failures.")] = (
        RestartConfig()
    )

    @property
    def form(self) -> PluginForm:
        """Which of the forms this is."""
        for form in PluginForm:
            if form is not PluginForm.CATALOGUE and getattr(self, form.value) is not None:
                return form
        return PluginForm.CATALOGUE

    @property
    def has_replicas(self) -> bool:
        """May there be several of it?"""
        return self.processes > 1 or isinstance(self.endpoint, list) or self.resolve == "all"

    @property
    def shares_process(self) -> bool:
        """Does it run in the proxy's own process?"""
        return self.form is PluginForm.MODULE or (
            self.form is PluginForm.LIBRARY and self.isolation == "none"
        )

    @property
    def socket_mode(self) -> int:
        """``mode`` as a number, with its default."""
        return int(self.mode or ("0660" if self.group else "0600"), 8)
