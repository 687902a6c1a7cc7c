"""What all operations of the plugin share: the connection, the namespace's prefix, health."""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
from hiredis import ReplyError

from prism.sdk import Health, Plugin, PluginError, StatusCode
from prism.sdk.later import Later
from prism.sdk.multiplexed import Limits, Multiplexed, State, TransportBroken

from .config import RedisConfig, read_url
from .errors import CODES_OF_A_WRONG_SERVER, code_of, translate
from .scripts import Script
from .transport import Argument, Connector, RedisTransport, packed

T = TypeVar("T")

HEALTH_SECONDS = 3.0
"""A server that takes longer to say PONG is not well."""


class Connection:
    """Commands on the shared connection, and connections of their own for what waits."""

    def __init__(self, connector: Connector, config: RedisConfig, name: str) -> None:
        limits = Limits(
            calls=config.max_in_flight,
            connect=config.connect_timeout_seconds,
            silence=config.silence_timeout_seconds,
        )
        self.shared: Multiplexed[bytes, Any] = Multiplexed(self._connect, name, limits)
        self.role = ""
        self.dedicated = 0
        """How many of those connections there are now."""
        self._connector = connector
        self._config = config
        self._name = name

    async def _connect(self) -> RedisTransport:
        transport = await self._connector.connect()
        self.role = transport.role
        return transport

    async def command(self, *command: Argument, repeatable: bool = False) -> Any:
        """The reply to a command.

        ``repeatable``: it only reads, so that it may run again where its answer is lost.

        Raises:
            PluginError: the server refuses it, or cannot be reached.
        """
        data = packed(command)
        reply = await self.shared.call(data, len(data), repeatable=repeatable)
        if type(reply) is ReplyError:
            raise self.translate(reply)
        return reply

    def later(
        self, make: Callable[[Any], T], *command: Argument, repeatable: bool = False
    ) -> Later[T]:
        """Like ``command``, for an operation to return: ``make`` turns the reply into its result.

        Raises:
            PluginError: the server cannot be reached.
        """

        def made(reply: Any) -> T:
            if type(reply) is ReplyError:
                raise self.translate(reply)
            return make(reply)

        data = packed(command)
        return self.shared.later(data, made, len(data), repeatable=repeatable)

    async def run(
        self, script: Script, keys: Sequence[bytes], *arguments: Argument, repeatable: bool = False
    ) -> Any:
        """The reply to a script, which the server is sent once."""
        rest = (len(keys), *keys, *arguments)
        data = packed(("EVALSHA", script.sha, *rest))
        reply = await self.shared.call(data, len(data), repeatable=repeatable)
        if type(reply) is ReplyError and code_of(reply) == "NOSCRIPT":
            data = packed(("EVAL", script.source, *rest))
            reply = await self.shared.call(data, len(data), repeatable=repeatable)
        if type(reply) is ReplyError:
            raise self.translate(reply)
        return reply

    async def transaction(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """The replies to commands that run together, all or none; errors among them are
        ``ReplyError`` objects.

        Raises:
            PluginError: none was run.
        """
        data = b"".join(map(packed, (("MULTI",), *commands, ("EXEC",))))
        replies = await self.shared.call_many(data, len(commands) + 2, len(data))
        done = replies[-1]
        if type(done) is ReplyError:
            wrong = next((reply for reply in replies if type(reply) is ReplyError), done)
            raise self.translate(wrong, of_client=True)
        results: list[Any] = done
        return results

    def translate(self, error: ReplyError, *, of_client: bool = False) -> PluginError:
        """The answer for an error; where another server may be the right one, it is looked for."""
        if self._config.sentinel is not None and code_of(error) in CODES_OF_A_WRONG_SERVER:
            self.shared.give_up(str(error))
        return translate(error, of_client=of_client)

    @asynccontextmanager
    async def own(self) -> AsyncIterator[RedisTransport]:
        """A connection for one caller, which may wait on it.

        Raises:
            PluginError: RESOURCE_EXHAUSTED, there are as many as may be; UNAVAILABLE, no server.
        """
        most = self._config.max_dedicated_connections
        if self.dedicated >= most:
            raise PluginError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"{most} calls have a connection of their own; the limit is that "
                "(max_dedicated_connections)",
            )
        self.dedicated += 1
        try:
            transport = await self._open_own()
            try:
                yield transport
            except (TransportBroken, OSError, anyio.EndOfStream, anyio.BrokenResourceError) as lost:
                raise PluginError(
                    StatusCode.UNAVAILABLE,
                    f"the connection to {self._name} was lost: "
                    f"{str(lost) or 'the server closed it'}",
                ) from lost
            finally:
                with anyio.move_on_after(1, shield=True):
                    await transport.aclose()
        finally:
            self.dedicated -= 1

    async def _open_own(self) -> RedisTransport:
        try:
            with anyio.fail_after(self._config.connect_timeout_seconds):
                return await self._connector.connect()
        except TimeoutError:
            problem = f"{self._name} did not answer in time"
        except (TransportBroken, OSError) as error:
            problem = f"{self._name} cannot be reached: {_reason(error)}"
        raise PluginError(StatusCode.UNAVAILABLE, problem)


class RedisStore(Plugin):
    """One server, or the master that sentinels name, which namespaces share by prefixes."""

    name = "redis"
    version = "0.1.0"
    Config = RedisConfig
    config: RedisConfig

    connection: Connection

    async def start(self) -> None:
        """Connect; refuses with what to do."""
        server = read_url(self.config.url)
        prefix = self.config.key_prefix
        self.prefix = (f"{self.namespace}:" if prefix is None else prefix).encode()
        self.allowed = frozenset(name.upper() for name in self.config.allowed_commands)
        sentinel = self.config.sentinel
        name = f"the master {sentinel.name!r}" if sentinel else f"the server {server}"
        client = f"prism-{self.namespace}"
        connector = Connector(self.config, server, self.credentials, client)
        self.connection = Connection(connector, self.config, name)
        try:
            await self.connection.shared.start()
        except (TransportBroken, OSError) as error:
            raise PluginError(
                StatusCode.UNAVAILABLE, f"config.url: {name} cannot be reached: {_reason(error)}"
            ) from error
        self.opened()

    def opened(self) -> None:
        """The connection is there; parts that need it begin here."""

    async def stop(self) -> None:
        """Close the connection."""
        await self.connection.shared.aclose()

    async def health(self) -> Health:
        """Asks the server something, through the connection that calls use."""
        shared = self.connection.shared
        metrics = self.metrics
        metrics.connections_active = self.connection.dedicated + (shared.state is State.CONNECTED)
        metrics.queries_executed = shared.calls
        metrics.custom["in_flight"] = shared.in_flight
        metrics.custom["connects"] = shared.connects
        details = {"server": shared.name, "connects": str(shared.connects)}
        started = anyio.current_time()
        try:
            with anyio.fail_after(HEALTH_SECONDS):
                await self.connection.command("PING", repeatable=True)
        except TimeoutError:
            return Health.degraded(
                f"the server did not answer within {HEALTH_SECONDS:g} seconds", **details
            )
        except PluginError as error:
            return Health.degraded(error.detail, **details)
        details["ping_ms"] = f"{(anyio.current_time() - started) * 1000:.1f}"
        if self.connection.role not in ("", "master"):
            return Health.degraded("the server is a replica and takes no writes", **details)
        return Health.healthy(**details)

    def key(self, name: str) -> bytes:
        """The name of a key of this namespace, on the server."""
        return self.prefix + name.encode()

    def keys(self, names: Sequence[str]) -> list[bytes]:
        """The same for several."""
        return [self.prefix + name.encode() for name in names]


def _reason(error: TransportBroken | OSError) -> str:
    words = error.strerror.lower() if isinstance(error, OSError) and error.strerror else ""
    return words or str(error)


def milliseconds(seconds: float) -> int:
    """A time to live for Redis, which takes whole ones, and none of 0."""
    return max(1, math.ceil(seconds * 1000))


def glob_escape(prefix: bytes) -> bytes:
    """``prefix`` for the beginning of a pattern, where it means itself."""
    return b"".join(b"\\" + bytes([c]) if c in b"*?[]\\^-" else bytes([c]) for c in prefix)
