"""A broker that is down, killed, frozen, or refuses: nothing that was confirmed is lost."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from prism.contract.messages import ExecuteRequest, HealthStatus
from prism.contract.status import StatusCode
from prism.sdk import PluginError
from prism.sdk.testing import RunningPlugin, run_plugin
from prism_plugins.kafka import KafkaPlugin
from tests.services.fixtures import start_or_skip
from tests.services.kafka import PASSWORD, USER, Kafka
from tests.services.server import unused_port

from .conftest import LIMIT, Stream, eventually, open_stream

pytestmark = pytest.mark.slow


class Beside:
    """Does things in a thread that lives as long as the broker: it would end with the thread."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)

    async def do(self, function: Callable[[], object]) -> None:
        await anyio.to_thread.run_sync(lambda: self._executor.submit(function).result())


@pytest.fixture(scope="module")
def beside() -> Beside:
    return Beside()


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, beside: Beside) -> Iterator[Kafka]:
    """A broker for what is done to it here; each test leaves it running."""
    server = start_or_skip(Kafka, tmp_path_factory.mktemp("kafka"))
    yield server
    server.stop()


def config(server: Kafka, prefix: str, **more: Any) -> dict[str, Any]:
    return {"brokers": [f"127.0.0.1:{server.port}"], "topic_prefix": prefix, **more}


async def execute_within(plugin: KafkaPlugin, seconds: float, operation: str, text: str) -> Any:
    """A call with a deadline, as the proxy would make it."""
    with anyio.fail_after(seconds):
        return await plugin.execute(ExecuteRequest(operation=operation, params_json=text))


async def publish_until_told(
    plugin: RunningPlugin[KafkaPlugin], confirmed: set[int], stop: anyio.Event
) -> None:
    number = 0
    while not stop.is_set():
        batch = [{"value": value} for value in range(number, number + 20)]
        try:
            result = await plugin.call("publish_batch", topic="orders", messages=batch)
        except PluginError:  # the topic could not be asked for: none was sent
            await anyio.sleep(0.05)
            continue
        for value, outcome in enumerate(result["results"], start=number):
            if "offset" in outcome:
                confirmed.add(value)
        number += 20
        await anyio.sleep(0.01)  # not so fast that the rest of the test cannot keep up


async def consume(stream: Stream, seen: Counter[int]) -> None:
    """Acknowledge each message, and count how often it comes."""
    while True:
        message = await stream.next_of("message")
        seen[message["value"]] += 1
        stream.send({"acknowledge": [message["id"]]})


async def written(plugin: RunningPlugin[KafkaPlugin]) -> Counter[int]:
    """How often each value is in the topic."""
    values: Counter[int] = Counter()
    for partition in range(3):
        offset, end = 0, 1
        while offset < end:
            where = {"topic": "orders", "partition": partition, "offset": offset}
            page = await plugin.call("read", **where, limit=1000)
            values.update(message["value"] for message in page["messages"])
            offset, end = page["next_offset"], page["end_offset"]
    return values


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_nothing_is_lost_over_an_outage_under_load(
    victim: Kafka, beside: Beside, prefix: str, how: str
) -> None:
    confirmed: set[int] = set()
    seen: Counter[int] = Counter()
    stop = anyio.Event()

    async def more_than(number: int) -> None:
        async def there_are() -> bool:
            return len(confirmed) > number and len(seen) > number

        await eventually(there_are)

    settings = config(victim, prefix, delivery_timeout_seconds=LIMIT)
    async with run_plugin(KafkaPlugin, config=settings) as plugin:
        await plugin.call("create_topic", topic="orders", partitions=3)
        async with (
            open_stream(plugin, "subscribe", topics=["orders"]) as stream,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(consume, stream, seen)
            tasks.start_soon(publish_until_told, plugin, confirmed, stop)
            await more_than(100)
            if how == "killed":
                await beside.do(victim.kill)
                await beside.do(victim.restart)
            else:
                victim.freeze()
                await anyio.sleep(2)  # an outage has some length; nothing is concluded from it
                victim.thaw()
            await more_than(len(confirmed) + 100)
            stop.set()

            async def all_came() -> bool:
                return confirmed <= seen.keys()

            await eventually(all_came)
            tasks.cancel_scope.cancel()
        # What came again was acknowledged so shortly before that it was not committed yet.
        assert max(seen.values()) <= 2
        # In the log each is once, whatever the producer had to repeat.
        assert max((await written(plugin)).values()) == 1


async def test_two_members_over_a_restart(victim: Kafka, beside: Beside, prefix: str) -> None:
    """The group forms anew, and both go on."""
    seen: Counter[int] = Counter()
    async with run_plugin(KafkaPlugin, config=config(victim, prefix)) as plugin:
        await plugin.call("create_topic", topic="orders", partitions=4)
        async with (
            open_stream(plugin, "subscribe", topics=["orders"]) as first,
            open_stream(plugin, "subscribe", topics=["orders"]) as second,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(consume, first, seen)
            tasks.start_soon(consume, second, seen)
            for start in (0, 1000):
                batch = [{"value": start + value} for value in range(200)]
                result = await plugin.call("publish_batch", topic="orders", messages=batch)
                assert result["failed"] == 0

                async def all_came(start: int = start) -> bool:
                    return set(range(start, start + 200)) <= seen.keys()

                await eventually(all_came)
                await beside.do(victim.restart)
            tasks.cancel_scope.cancel()


async def test_what_is_not_known_is_said(victim: Kafka, prefix: str) -> None:
    """A deadline that passes while the broker is silent: the message may still arrive."""
    async with run_plugin(KafkaPlugin, config=config(victim, prefix)) as plugin:
        await plugin.call("create_topic", topic="orders")
        await plugin.call("publish", topic="orders", value="before")
        victim.freeze()
        try:
            text = '{"topic":"orders","value":"during"}'
            answer = await execute_within(plugin.plugin, 1, "publish", text)
            assert answer.error_code == StatusCode.DEADLINE_EXCEEDED
            assert "it may be there, or still arrive" in answer.error
            text = '{"topic":"orders","messages":[{"value":"batch"}]}'
            answer = await execute_within(plugin.plugin, 1, "publish_batch", text)
            assert answer.success
            assert '"failed":1' in answer.result_json
            assert "still arrive" in answer.result_json
        finally:
            victim.thaw()

        async def all_there() -> bool:
            page = await plugin.call("read", topic="orders")
            values = [message["value"] for message in page["messages"]]
            return values == ["before", "during", "batch"]

        await eventually(all_there)


async def test_a_delivery_that_takes_too_long(victim: Kafka, prefix: str) -> None:
    """Without a deadline of the caller's, ``delivery_timeout_seconds`` bounds it."""
    settings = config(victim, prefix, delivery_timeout_seconds=1)
    async with run_plugin(KafkaPlugin, config=settings) as plugin:
        await plugin.call("create_topic", topic="orders")
        await plugin.call("publish", topic="orders", value=1)
        victim.freeze()
        try:
            with pytest.raises(PluginError, match="it may be there") as caught:
                await plugin.call("publish", topic="orders", value=2)
            assert caught.value.status is StatusCode.DEADLINE_EXCEEDED
        finally:
            victim.thaw()

        async def works() -> bool:
            try:
                await plugin.call("publish", topic="orders", value=3)
            except PluginError:
                return False
            return True

        await eventually(works)


async def test_health_over_an_outage(victim: Kafka, prefix: str) -> None:
    async with run_plugin(KafkaPlugin, config=config(victim, prefix)) as plugin:
        assert (await plugin.health()).status is HealthStatus.HEALTHY
        victim.kill()
        try:
            health = await plugin.health()
            assert health.status is HealthStatus.DEGRADED
            assert "no broker" in health.message
            with pytest.raises(PluginError) as caught:
                await plugin.call("topics")
            assert caught.value.status is StatusCode.UNAVAILABLE
            assert str(victim.port) not in caught.value.detail
        finally:
            victim.restart()

        async def is_healthy() -> bool:
            return (await plugin.health()).status is HealthStatus.HEALTHY

        await eventually(is_healthy)


async def test_stopping_is_bounded_while_the_broker_is_silent(victim: Kafka, prefix: str) -> None:
    with anyio.fail_after(LIMIT):
        async with run_plugin(KafkaPlugin, config=config(victim, prefix)) as plugin:
            await plugin.call("create_topic", topic="orders")
            async with open_stream(plugin, "subscribe", topics=["orders"]) as stream:
                await stream.next_of("assigned")
                victim.freeze()
        # run_plugin gives it ten seconds, of which it must not need all.
    victim.thaw()


async def test_no_broker_at_the_start(prefix: str) -> None:
    settings = {
        "brokers": [f"127.0.0.1:{unused_port()}"],
        "topic_prefix": prefix,
        "connect_timeout_seconds": 0.5,
    }
    with pytest.raises(PluginError, match=r"no broker can be reached: .*refused") as caught:
        async with run_plugin(KafkaPlugin, config=settings):
            pass
    assert caught.value.status is StatusCode.UNAVAILABLE


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("names", [("username", "password"), ("sasl_username", "sasl_password")])
async def test_credentials(
    kafka: Kafka, prefix: str, mechanism: str, names: tuple[str, str]
) -> None:
    settings = {
        "brokers": [f"127.0.0.1:{kafka.sasl_port}"],
        "topic_prefix": prefix,
        "sasl_mechanism": mechanism,
        "sasl_plain_without_tls": True,
    }
    right = dict(zip(names, (USER, PASSWORD), strict=True))
    async with run_plugin(KafkaPlugin, config=settings, credentials=right) as plugin:
        await plugin.call("create_topic", topic="orders")
        await plugin.call("publish", topic="orders", value=1)
        params = {"topics": ["orders"], "auto_acknowledge": True}
        async with open_stream(plugin, "subscribe", **params) as stream:
            assert (await stream.next_of("message"))["value"] == 1
    wrong = dict(zip(names, (USER, "not-this-one"), strict=True))
    with pytest.raises(PluginError, match="refuse the credentials") as caught:
        async with run_plugin(KafkaPlugin, config=settings, credentials=wrong):
            pass
    assert caught.value.status is StatusCode.UNAUTHENTICATED
    assert "not-this-one" not in caught.value.detail


async def test_tls(kafka: Kafka, prefix: str) -> None:
    settings = {"brokers": [f"localhost:{kafka.tls_port}"], "topic_prefix": prefix}
    trusted = {"ca_cert": str(kafka.ca_file)}
    async with run_plugin(KafkaPlugin, config={**settings, "tls": trusted}) as plugin:
        await plugin.call("create_topic", topic="orders")
        assert (await plugin.call("publish", topic="orders", value=1))["offset"] == 0
    with pytest.raises(PluginError, match="certificate verify failed"):
        async with run_plugin(
            KafkaPlugin, config={**settings, "tls": True, "connect_timeout_seconds": 1}
        ):
            pass
    with pytest.raises(PluginError, match=r"tls: nowhere\.pem: No such file"):
        async with run_plugin(KafkaPlugin, config={**settings, "tls": {"ca_cert": "nowhere.pem"}}):
            pass


async def test_a_certificate_for_another_host(kafka: Kafka, prefix: str) -> None:
    settings = {
        "brokers": [f"127.0.0.2:{kafka.tls_port}"],
        "topic_prefix": prefix,
        "tls": {"ca_cert": str(kafka.ca_file)},
        "connect_timeout_seconds": 1,
    }
    with pytest.raises(PluginError) as caught:
        async with run_plugin(KafkaPlugin, config=settings):
            pass
    assert caught.value.status is StatusCode.UNAVAILABLE
