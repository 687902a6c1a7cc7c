"""What all operations of the plugin share: the connection, the namespace's prefix, health."""

import math
from collections.abc import Sequence

import anyio

from prism.sdk import Health, Plugin, PluginError, StatusCode
from prism.sdk.multiplexed import TransportBroken

from .cluster import Cluster
from .config import RedisConfig, read_address, read_url
from .connection import Connection, reason
from .transport import Connector

__all__ = ["Connection", "RedisStore", "glob_escape", "milliseconds"]


class RedisStore(Plugin):
    """One server, the master that sentinels name, or a cluster, which namespaces share by
    prefixes."""

    name = "redis"
    version = "0.1.0"
    Config = RedisConfig
    config: RedisConfig

    connection: Connection

    async def start(self) -> None:
        """Connect; refuses with what to do."""
        prefix = self.config.key_prefix
        self.prefix = (f"{self.namespace}:" if prefix is None else prefix).encode()
        self.allowed = frozenset(name.upper() for name in self.config.allowed_commands)
        self.connection = self._connection()
        try:
            await self.connection.start()
        except (TransportBroken, OSError) as error:
            raise PluginError(
                StatusCode.UNAVAILABLE,
                f"config.{'cluster' if self.config.cluster else 'url'}: "
                f"{self.connection.name} cannot be reached: {reason(error)}",
            ) from error
        self.opened()

    def _connection(self) -> Connection:
        config = self.config
        server = read_url(config.url)
        connector = Connector(config, server, self.credentials, f"prism-{self.namespace}")
        if config.cluster is not None:
            places = [read_address(one) for one in config.cluster.addresses]
            return Cluster(connector, config, places, tls=server.tls)
        sentinel = config.sentinel
        name = f"the master {sentinel.name!r}" if sentinel else f"the server {server}"
        return Connection(connector, config, name)

    def opened(self) -> None:
        """The connection is there; parts that need it begin here."""

    async def stop(self) -> None:
        """Close the connection."""
        await self.connection.aclose()

    async def health(self) -> Health:
        """Asks each server something, through the connection that calls use."""
        connection, metrics = self.connection, self.metrics
        metrics.connections_active = connection.active
        metrics.queries_executed = connection.calls
        in_flight = sum(shared.in_flight for shared in connection.connections())
        metrics.custom["in_flight"] = in_flight
        metrics.custom["connects"] = connection.connects
        details = {"server": connection.name, "connects": str(connection.connects)}
        started = anyio.current_time()
        problem = await connection.problem()
        if problem:
            return Health.degraded(problem, **details)
        details["ping_ms"] = f"{(anyio.current_time() - started) * 1000:.1f}"
        return Health.healthy(**details)

    def key(self, name: str) -> bytes:
        """The name of a key of this namespace, on the server."""
        return self.prefix + name.encode()

    def keys(self, names: Sequence[str]) -> list[bytes]:
        """The same for several."""
        return [self.prefix + name.encode() for name in names]


def milliseconds(seconds: float) -> int:
    """A time to live for Redis, which takes whole ones, and none of 0."""
    return max(1, math.ceil(seconds * 1000))


def glob_escape(prefix: bytes) -> bytes:
    """``prefix`` for the beginning of a pattern, where it means itself."""
    return b"".join(b"\\" + bytes([c]) if c in b"*?[]\\^-" else bytes([c]) for c in prefix)
