"""A plugin that cannot reach its backend says why before the proxy gives the start up."""

import pytest
from msgspec.structs import fields

from prism.config.types import PluginConfig
from prism_plugins.kafka.config import KafkaConfig
from prism_plugins.postgres.config import PostgresConfig
from prism_plugins.redis.config import RedisConfig

TO_SAY_WHY = 3.0
"""Seconds: for the process to begin, for the last attempt to end, and for its answer."""


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (KafkaConfig, "connect_timeout_seconds"),
        (RedisConfig, "connect_timeout_seconds"),
        (PostgresConfig, "connect_timeout"),
    ],
)
def test_its_connect_timeout_is_well_below_the_start_timeout(config: type, key: str) -> None:
    (own,) = [field.default for field in fields(config) if field.name == key]
    assert own + TO_SAY_WHY <= PluginConfig().start_timeout_seconds
