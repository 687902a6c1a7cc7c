"""The configuration: from a YAML file to ``prism.config.types.Config``.

``load_config`` reads a file; everything wrong with it is in one ``ConfigError``.
``resolve_plugin`` tells which plugin a namespace means, ``redacted`` is what may be shown.
``config_schema`` is generated from the same types as the messages.
"""

from prism.config.catalogue import UnresolvedPlugin, resolve_plugin
from prism.config.load import LoadedConfig, load_config, parse_config
from prism.config.schema import config_schema, schema_json
from prism.config.secrets import redacted

__all__ = [
    "LoadedConfig",
    "UnresolvedPlugin",
    "config_schema",
    "load_config",
    "parse_config",
    "redacted",
    "resolve_plugin",
    "schema_json",
]
