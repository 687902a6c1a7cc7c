"""What the proxy needs to know to run one namespace's plugin."""

from collections.abc import Callable
from dataclasses import dataclass, field

from prism.contract.config import PluginConfig, VerificationConfig


@dataclass(frozen=True)
class InstanceSpec:
    """A namespace's plugin, resolved: ``plugin`` is never a reference to the catalogue.

    ``credentials`` is called for each new instance, so that secrets are read as
    late as possible; it raises ``ConfigError`` where one is missing.
    """

    namespace: str
    backend: str
    plugin_name: str
    plugin: PluginConfig
    config_json: str
    credentials: Callable[[], dict[str, str]]
    verification: VerificationConfig = field(default_factory=VerificationConfig)

    @property
    def label(self) -> str:
        """How messages name the plugin."""
        return f"plugin {self.plugin_name!r}"
