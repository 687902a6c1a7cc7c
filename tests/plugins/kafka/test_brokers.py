"""Three brokers, of which one after the other is killed and comes back."""

from collections import Counter
from collections.abc import Iterator

import anyio
import pytest

from prism.contract.messages import HealthStatus
from prism.sdk.testing import run_plugin
from prism_plugins.kafka import KafkaPlugin
from tests.services.fixtures import start_or_skip
from tests.services.kafka import KafkaCluster

from .conftest import LIMIT, eventually, open_stream
from .test_faults import Beside, consume, publish_until_told

pytestmark = pytest.mark.slow


@pytest.fixture
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    cluster = start_or_skip(KafkaCluster, tmp_path_factory.mktemp("kafka"))  # type: ignore[type-var]
    yield cluster
    cluster.stop()


async def test_nothing_is_lost_while_one_broker_after_the_other_is_killed(
    brokers: KafkaCluster, prefix: str
) -> None:
    """What was confirmed comes to the subscriber, and both go on while one of three is gone."""
    confirmed: set[int] = set()
    seen: Counter[int] = Counter()
    stop = anyio.Event()
    beside = Beside()
    config = {
        "brokers": [f"127.0.0.1:{one.port}" for one in brokers.brokers],
        "topic_prefix": prefix,
        "delivery_timeout_seconds": LIMIT,
    }

    async def more(number: int = 100) -> None:
        told, came = len(confirmed), len(seen)

        async def there_are() -> bool:
            return len(confirmed) > told + number and len(seen) > came + number

        await eventually(there_are)

    async with run_plugin(KafkaPlugin, config=config) as plugin:
        await plugin.call("create_topic", topic="orders", partitions=3)

        async def all_in_sync() -> bool:
            described = await plugin.call("describe_topic", topic="orders")
            return all(len(part["in_sync"]) == 3 for part in described["partitions"])

        async with (
            open_stream(plugin, "subscribe", topics=["orders"]) as stream,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(consume, stream, seen)
            tasks.start_soon(publish_until_told, plugin, confirmed, stop)
            for broker in brokers.brokers:
                await more()
                await beside.do(broker.kill)
                await more()
                await beside.do(broker.restart)
                await eventually(all_in_sync)
            await more()
            stop.set()

            async def all_came() -> bool:
                return confirmed <= seen.keys()

            await eventually(all_came)
            tasks.cancel_scope.cancel()
        assert (await plugin.health()).status is HealthStatus.HEALTHY
