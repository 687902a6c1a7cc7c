"""A cluster that tests, and ``make services-up``, start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.fixtures import check_installed
from tests.services.redis import RedisCluster
from tests.services.server import start_time


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    check_installed(RedisCluster.kind)
    cluster = RedisCluster.start(tmp_path, replicas=False)
    yield cluster
    cluster.stop()


def test_a_cluster_that_lacks_a_server_is_ended_where_it_is_found(cluster: RedisCluster) -> None:
    record = cluster.record()
    found = RedisCluster.attach(record)
    assert found is not None
    assert found.addresses() == cluster.addresses()
    pids = [server.pid for server in cluster.servers]
    cluster.masters[0].kill()
    assert RedisCluster.attach(record) is None
    assert not any(start_time(pid) for pid in pids)
