import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from prism.sdk.testing import RunningPlugin, run_plugin
from prism_plugins.redis import RedisPlugin
from tests.services.redis import Redis, RedisCluster

Running = RunningPlugin[RedisPlugin]
OpenPlugin = Callable[..., AbstractAsyncContextManager[Running]]


@asynccontextmanager
async def opened(
    server: Redis,
    namespace: str = "",
    *,
    credentials: dict[str, str] | None = None,
    **config: Any,
) -> AsyncIterator[Running]:
    """The plugin on ``server``, in a namespace that nobody else has unless one is given."""
    namespace = namespace or f"test-{secrets.token_hex(8)}"
    config = {"url": server.url()} | config
    async with run_plugin(
        RedisPlugin, config=config, credentials=credentials, namespace=namespace
    ) as plugin:
        yield plugin


def opened_on(
    servers: RedisCluster, namespace: str = "", **options: Any
) -> AbstractAsyncContextManager[Running]:
    """The plugin on a cluster, likewise."""
    config = {"cluster": {"addresses": servers.addresses()}, "url": "redis://"} | options
    return opened(servers.masters[0], namespace, **config)


@pytest.fixture
def open_plugin() -> Callable[..., Any]:
    return opened


@pytest.fixture
async def redis(redis_server: Redis) -> AsyncIterator[Running]:
    """The plugin on each kind of server."""
    async with opened(redis_server) as plugin:
        yield plugin
