"""Whom the broker lets do what: ACLs, and certificates of clients."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from prism.contract.messages import HealthStatus
from prism.contract.status import StatusCode
from prism.sdk import PluginError
from prism.sdk.testing import RunningPlugin, run_plugin
from prism_plugins.kafka import KafkaPlugin
from tests.services.fixtures import start_or_skip
from tests.services.kafka import CLIENT, PASSWORD, USER, Kafka

from .conftest import eventually, open_stream

pytestmark = pytest.mark.slow

Running = RunningPlugin[KafkaPlugin]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker that lets nobody do anything but those who come through its plain door."""
    settings = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "listener.name.ssl.ssl.client.auth": "required",
    }
    server = start_or_skip(Kafka, tmp_path_factory.mktemp("kafka"), settings=settings)
    yield server
    server.stop()


def allow(server: Kafka, who: str, kind: ResourceType, name: str, what: AclOperation) -> None:
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{server.port}"})
    binding = AclBinding(
        kind, name, ResourcePatternType.PREFIXED, f"User:{who}", "*", what, AclPermissionType.ALLOW
    )
    for done in admin.create_acls([binding]).values():
        done.result(60)


@asynccontextmanager
async def as_user(server: Kafka, prefix: str) -> AsyncIterator[Running]:
    config = {
        "brokers": [f"127.0.0.1:{server.sasl_port}"],
        "topic_prefix": prefix,
        "consumer_group": f"{prefix}group",
    }
    credentials = {"username": USER, "password": PASSWORD}
    async with run_plugin(KafkaPlugin, config=config, credentials=credentials) as plugin:
        yield plugin


async def succeeds_soon(plugin: Running, operation: str, **params: Any) -> Any:
    """The result, once the broker knows the new ACL."""

    async def done() -> Any:
        try:
            return await plugin.call(operation, **params)
        except PluginError as error:
            if error.status is not StatusCode.PERMISSION_DENIED:
                raise
            return None

    return await eventually(done)


async def test_what_no_acl_allows_is_denied(guarded: Kafka, prefix: str) -> None:
    """Until one does; meanwhile the plugin is well, as the broker is."""
    open_door = {"brokers": [f"127.0.0.1:{guarded.port}"], "topic_prefix": prefix}
    async with run_plugin(KafkaPlugin, config=open_door) as admin, as_user(guarded, prefix) as user:
        await admin.call("create_topic", topic="orders")
        for operation, params in (
            ("publish", {"topic": "orders", "value": 1}),
            ("read", {"topic": "orders", "partition": 0}),
            ("create_topic", {"topic": "new"}),
            ("delete_topic", {"topic": "orders"}),
            ("lag", {}),
        ):
            with pytest.raises(PluginError) as denied:
                await user.call(operation, **params)
            assert denied.value.status is StatusCode.PERMISSION_DENIED, (operation, denied.value)
        batch = {"topic": "orders", "messages": [{"value": 1}]}
        with pytest.raises(PluginError) as denied:
            await user.call("publish_batch", **batch)
        assert denied.value.status is StatusCode.PERMISSION_DENIED
        assert await user.call("topics") == {"topics": []}  # those that it may see
        assert (await user.health()).status is HealthStatus.HEALTHY

        allow(guarded, USER, ResourceType.TOPIC, f"{prefix}orders", AclOperation.WRITE)
        assert (await succeeds_soon(user, "publish", topic="orders", value=1))["offset"] == 0
        with pytest.raises(PluginError) as denied:
            await user.call("read", topic="orders", partition=0)
        assert denied.value.status is StatusCode.PERMISSION_DENIED
        await denied_stream(user)  # the group

        allow(guarded, USER, ResourceType.GROUP, f"{prefix}group", AclOperation.READ)
        await anyio.to_thread.run_sync(
            allow, guarded, USER, ResourceType.TOPIC, f"{prefix}orders", AclOperation.READ
        )
        found = await succeeds_soon(user, "read", topic="orders", partition=0)
        assert [one["value"] for one in found["messages"]] == [1]
        async with open_stream(user, "subscribe", topics=["orders"]) as stream:
            assert (await stream.messages(1))[0]["value"] == 1


async def denied_stream(plugin: Running) -> None:
    async with open_stream(plugin, "subscribe", topics=["orders"]) as stream:
        with pytest.raises(PluginError) as denied:
            await stream.next()
        assert denied.value.status is StatusCode.PERMISSION_DENIED


async def test_a_certificate_says_who_the_plugin_is(
    guarded: Kafka, prefix: str, tmp_path: Path
) -> None:
    allow(guarded, CLIENT, ResourceType.TOPIC, prefix, AclOperation.ALL)
    mine, ca = str(guarded.client_file), str(guarded.ca_file)
    config = {"brokers": [f"localhost:{guarded.tls_port}"], "topic_prefix": prefix}
    good = {"ca_cert": ca, "cert": mine, "key": mine}
    async with run_plugin(KafkaPlugin, config={**config, "tls": good}) as plugin:
        await succeeds_soon(plugin, "create_topic", topic="orders")
        assert (await plugin.call("publish", topic="orders", value=1))["offset"] == 0
        assert (await plugin.health()).status is HealthStatus.HEALTHY
    stranger = trustme.CA().issue_cert("client.example", common_name=CLIENT)
    other = str(tmp_path / "other.pem")
    stranger.private_key_and_cert_chain_pem.write_to_path(other)
    for tls in ({"ca_cert": ca}, {"ca_cert": ca, "cert": other, "key": other}):
        with pytest.raises(PluginError) as refused:
            async with run_plugin(
                KafkaPlugin, config={**config, "tls": tls, "connect_timeout_seconds": 2}
            ):
                pass
        assert refused.value.status is StatusCode.UNAVAILABLE, refused.value
        assert "certificate" in refused.value.detail, refused.value.detail
