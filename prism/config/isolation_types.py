"""The types of what a plugin's process may do."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from prism.config.fields import Block, PathText, Size, Text
from prism.config.plugin_types import ClientTLS

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class EgressDestination(Block, frozen=True, kw_only=True):
    """A destination towards which Prism speaks TLS in the plugin's place."""

    to: Annotated[Text, Meta(description="As an entry that is a text.", examples=["db:5432"])]
    tls: Annotated[
        ClientTLS | None,
        Meta(
            description="The plugin speaks in the clear, and Prism in TLS, with the certificate "
            "that is named here: the plugin need not have it."
        ),
    ] = None


class IsolationConfig(Block, frozen=True):
    """What the processes that Prism starts as plugins may do.

    At the top level it is about all of them. A key in a namespace's own block replaces the one
    there.
    """

    sandbox: Annotated[
        Literal["auto", "required", "off"] | bool | None,
        Meta(
            description="`auto` (the default): what this machine offers, and what breaks no "
            "plugin. `required`: the plugin does not start where something cannot be had. `off`: "
            "nothing; YAML reads that as `false`, which means the same."
        ),
    ] = None
    mechanism: Annotated[
        Literal["landlock", "bubblewrap"] | None,
        Meta(
            description="By which means. Without it `auto` takes Landlock where it is complete, "
            "and `required` bubblewrap; what is not there is replaced by the other."
        ),
    ] = None
    read: Annotated[
        list[PathText] | None,
        Meta(
            description="Files and directories that the plugin reads. With this or `write` there "
            "is nothing else but its own, and the system's programs and libraries."
        ),
    ] = None
    write: Annotated[
        list[PathText] | None,
        Meta(
            description="Files and directories that it changes, beside its working directory and "
            "what its `config` names."
        ),
    ] = None
    network: Annotated[
        Literal["all", "none"] | None,
        Meta(
            description="`none`: no sockets but the one to Prism. Else (`all`, the default) what "
            "the machine can reach."
        ),
    ] = None
    egress: Annotated[
        list[str | EgressDestination] | None,
        Meta(
            description="The destinations that the plugin may connect to, and no others: "
            '`"host:port"`, `"*.domain:port"`, an address or a network, `"unix:/path"`; the port '
            "may be `*`. It asks for their names' addresses alone, and nobody connects to it. "
            "`[]`: none. Drivers need no change.",
            examples=[["db.internal:5432", "*.kafka.internal:9092", "10.0.0.0/8:6379"]],
        ),
    ] = None
    user: Annotated[
        Text | None,
        Meta(
            description="User to run it as, by name or number (in quotes); only where Prism runs "
            "as root. Without it, Prism's own."
        ),
    ] = None
    memory: Annotated[
        Size | None,
        Meta(description="Memory of all its processes together.", examples=["256MiB"]),
    ] = None
    cpu: Annotated[
        Annotated[float, Meta(ge=0.01, le=1024)] | None,
        Meta(description="Processors' time that it may take, in processors.", examples=[0.5]),
    ] = None
    processes: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        Meta(description="Processes and threads that it may have at a time.", examples=[32]),
    ] = None

    @property
    def destinations(self) -> list[EgressDestination]:
        """``egress``, each entry in its long form."""
        return [
            EgressDestination(to=each) if isinstance(each, str) else each
            for each in self.egress or ()
        ]

    @property
    def memory_bytes(self) -> int | None:
        """``memory`` in bytes."""
        if self.memory is None:
            return None
        number = self.memory.rstrip("KMGiB")
        return int(number) * _UNITS[self.memory[len(number) :]]

    def over(self, default: "IsolationConfig") -> "IsolationConfig":
        """These keys, and those of ``default`` that are not here; ``sandbox`` is a word then.
        ``network`` and ``egress`` are about the same: one that is here stands for both."""
        written: dict[str, Any] = {
            key: value for key, value in msgspec.structs.asdict(self).items() if value is not None
        }
        if written.keys() & {"network", "egress"}:
            written = {"network": None, "egress": None} | written
        merged = msgspec.structs.replace(default, **written)
        return msgspec.structs.replace(merged, sandbox="off") if merged.sandbox is False else merged
