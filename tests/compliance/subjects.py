"""The plugins that are held to their groups, and what each needs to run.

To add one: a ``Subject``, whose ``setup`` gives the configuration for tests that begin with an
empty backend or share one with others, in namespaces of their own. A server comes from a
fixture: ``request.getfixturevalue("redis")``.
"""

import secrets
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.services.kafka import Kafka
from tests.services.postgres import PASSWORD, USER, PostgreSQL
from tests.services.redis import Redis, RedisCluster, Valkey, ValkeyCluster

ROOT = Path(__file__).parents[2]


class Setup(NamedTuple):
    """What a plugin is configured with, for one test."""

    config: Mapping[str, Any]
    credentials: Mapping[str, str] = {}


class Subject(NamedTuple):
    """A plugin. ``deviations`` are the promises that it does not keep, by the test's name, with
    the reason, which the page shows; such a test has to fail."""

    name: str
    module: str
    """Where its class is, as ``module:Class`` of the configuration; a path for a single file."""

    groups: frozenset[str]
    setup: Callable[[pytest.FixtureRequest], Setup]
    page: str
    """Its page in ``docs/``."""

    deviations: Mapping[str, str] = {}
    own: frozenset[str] = frozenset()
    """Operations of its own whose names are those of a group that it does not declare."""

    @property
    def command(self) -> list[str]:
        """What starts it as a process of its own."""
        where = self.module.partition(":")[0]
        return [sys.executable, where] if where.endswith(".py") else [sys.executable, "-m", where]


def _sqlite(request: pytest.FixtureRequest) -> Setup:
    directory: Path = request.getfixturevalue("tmp_path")
    return Setup({"path": str(directory / "compliance.db")})


def _postgres(request: pytest.FixtureRequest) -> Setup:
    """Prism's tables in a schema of their own: others use the server as well."""
    server: PostgreSQL = request.getfixturevalue("postgres18")
    where = f"postgresql://127.0.0.1:{server.port}/postgres?sslmode=disable"
    config = {"connection_string": where, "schema": "_prism_compliance"}
    return Setup(config, {"username": USER, "password": PASSWORD})


def _redis(request: pytest.FixtureRequest, kind: type[Redis]) -> Setup:
    shared_server = request.getfixturevalue("shared_server")
    return Setup({"url": shared_server(kind).url()})


def _redis_cluster(request: pytest.FixtureRequest, kind: type[RedisCluster]) -> Setup:
    shared_server = request.getfixturevalue("shared_server")
    return Setup({"cluster": {"addresses": shared_server(kind).addresses()}})


def _kafka(request: pytest.FixtureRequest) -> Setup:
    server: Kafka = request.getfixturevalue("kafka")
    where = [f"127.0.0.1:{server.port}"]
    return Setup({"brokers": where, "topic_prefix": f"c{secrets.token_hex(6)}."})


SUBJECTS = (
    Subject(
        name="sqlite",
        module="prism_plugins.sqlite:SQLitePlugin",
        groups=frozenset({"key_value", "kv_versions", "watch", "queue", "sql"}),
        setup=_sqlite,
        page="sqlite.md",
    ),
    Subject(
        name="postgres",
        module="prism_plugins.postgres:PostgresPlugin",
        groups=frozenset({"key_value", "kv_versions", "queue", "notifications", "sql"}),
        setup=_postgres,
        page="postgres.md",
    ),
    *(
        Subject(
            name=kind,
            module="prism_plugins.redis:RedisPlugin",
            groups=frozenset({"key_value", "kv_versions", "watch", "notifications"}),
            setup=setup,
            page=page,
            # Of topics with other parameters: ids and no receipts, no partitions.
            own=frozenset({"acknowledge", "reject", "publish", "subscribe"}),
            deviations={
                "test_scan_gives_keys_in_the_order_of_their_bytes": "its scans have no order",
                "test_a_stream_of_scan_resumes_after_each_key": "it goes on after a page",
                "test_every_write_of_a_value_makes_another_version": "a version is of the value",
                "test_a_version_does_not_come_back_after_a_delete": "it comes back with the value",
                "test_a_watch_resumes_after_a_position": f"{kind} keeps no log of changes",
            },
        )
        for kind, setup, page in (
            ("redis", partial(_redis, kind=Redis), "redis.md"),
            ("valkey", partial(_redis, kind=Valkey), "redis.md"),
            (
                "valkey-cluster",
                partial(_redis_cluster, kind=ValkeyCluster),
                "redis.md#a-cluster",
            ),
        )
    ),
    Subject(
        name="kafka",
        module="prism_plugins.kafka:KafkaPlugin",
        groups=frozenset({"topics"}),
        setup=_kafka,
        page="kafka.md",
    ),
    Subject(
        name="memory",
        module=f"{ROOT / 'examples' / 'plugins' / 'python' / 'memory.py'}:Memory",
        groups=frozenset({"key_value"}),
        setup=lambda _: Setup({}),
        page="writing-a-plugin.md#keys-and-values",
        deviations={"test_values_outlive_the_plugin": "it keeps nothing when it ends"},
    ),
)
