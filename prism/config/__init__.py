"""The configuration: from a YAML file to ``prism.config.types.Config``.

``load_config`` reads a file; everything wrong with it is in one ``ConfigError``.
``resolve_plugin`` tells which plugin a namespace means, ``Credentials`` reads its secrets
when an instance is made, ``redacted`` is what may be shown.
``schema_json`` and ``reference_markdown`` are generated from the same types.
"""

from prism.config.catalogue import UnknownPlugin, resolve_plugin
from prism.config.credentials import Credentials, read_secret, redacted, resolve_credentials
from prism.config.loading import LoadedConfig, load_config, parse_config
from prism.config.reference import reference_markdown
from prism.config.schema import config_schema, schema_json

__all__ = [
    "Credentials",
    "LoadedConfig",
    "UnknownPlugin",
    "config_schema",
    "load_config",
    "parse_config",
    "read_secret",
    "redacted",
    "reference_markdown",
    "resolve_credentials",
    "resolve_plugin",
    "schema_json",
]
