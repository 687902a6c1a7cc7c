"""The configuration of plugins: in the catalogue, and in a namespace."""

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta

from prism.config.base import MIB, Block, Bytes, Name, PathText, Seconds, Version
from prism.config.launch import SIDECAR, Launch, PluginType


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
    type: Annotated[
        PluginType | None,
        Meta(description="How an inline plugin runs."),
    ] = None
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
        Seconds,
        Meta(description="From start to a successful Initialize, and from there to health."),
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
    def unsupported(self) -> str | None:
        """Why this plugin, though valid, cannot be started by this release; None if it can."""
        if self.form is PluginForm.LIBRARY:
            return f"starting a shared library ({self.library}) is not supported yet"
        return None

    @property
    def socket_mode(self) -> int:
        """``mode`` as a number, with its default."""
        return int(self.mode or ("0660" if self.group else "0600"), 8)
