"""The JSON Schema of the configuration, for editors and other programs."""

import json
from typing import Any

import msgspec

from prism.config.types import Config

SCHEMA_ID = "urn:prism:config.schema.json"


def config_schema() -> dict[str, Any]:
    """The schema (draft 2020-12), generated from the types.

    It knows every key, type and range. Rules that concern several keys (which
    keys go with which plugin type, unique names) are checked by ``load_config`` only.
    """
    generated = msgspec.json.schema(Config)
    definitions: dict[str, Any] = generated["$defs"]
    root = definitions.pop("Config")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **root,
        "title": "Prism configuration",
        "$defs": dict(sorted(definitions.items())),
    }


def schema_json() -> str:
    """The text of ``schemas/config.schema.json``."""
    return json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"
