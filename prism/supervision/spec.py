"""What the proxy needs to know to run one namespace's plugin."""

from collections.abc import Callable
from dataclasses import dataclass, field

from prism.config.types import PluginConfig, PluginForm, VerificationConfig
from prism.contract.errors import UnknownVersion


def no_versions(version: str) -> PluginConfig:
    """The ``at_version`` of a plugin that is not from the catalogue."""
    raise UnknownVersion(f"there is no version {version!r}: the plugin is not from the catalogue")


@dataclass(frozen=True)
class InstanceSpec:
    """A namespace's plugin, resolved: ``plugin`` is never a reference to the catalogue.

    ``credentials`` is called for each new instance, so that secrets are read as
    late as possible; it raises ``ConfigError`` where one is missing. ``at_version``
    gives the plugin in another of the catalogue's versions, or raises ``UnknownVersion``.

    Specs are equal when an instance of one could serve for the other: ``credentials``
    must therefore be a value, not just any function. ``verification`` says whose code may
    start, which is of no meaning for what runs.
    """

    namespace: str
    backend: str
    plugin_name: str
    plugin: PluginConfig
    config_json: str
    credentials: Callable[[], dict[str, str]]
    verification: VerificationConfig = field(default_factory=VerificationConfig, compare=False)
    at_version: Callable[[str], PluginConfig] = field(default=no_versions, compare=False)

    @property
    def label(self) -> str:
        """How messages name the plugin."""
        return f"plugin {self.plugin_name!r}"

    @property
    def may_overlap(self) -> bool:
        """May two instances run at a time?"""
        return self.plugin.overlap is not False

    @property
    def dials_in(self) -> bool:
        """Does the plugin come to us, whenever it will?"""
        return self.plugin.form is PluginForm.SOCKET and not self.plugin.dial
