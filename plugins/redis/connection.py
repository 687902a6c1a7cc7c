"""Commands on one connection that all calls share, and connections of their own for what waits.

What asks names the keys that it is about: :class:`Connection`, to one server, does not need to
know; ``Cluster``, which is one as well, chooses the server by them.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import anyio
from hiredis import ReplyError

from prism.sdk import PluginError, StatusCode
from prism.sdk.later import Later
from prism.sdk.multiplexed import Limits, Multiplexed, State, TransportBroken

from .config import RedisConfig
from .errors import CODES_OF_A_WRONG_SERVER, code_of, translate
from .scripts import GET_WITHIN, Script
from .transport import Argument, Connector, RedisTransport, packed

T = TypeVar("T")

LOST = (
    TransportBroken,
    OSError,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)
"""What a connection raises that is of no more use."""
HEALTH_SECONDS = 3.0
"""A server that takes longer to answer is not well."""


class Request(NamedTuple):
    """Packed commands that go to the server of ``key`` together, and how many answers they have.

    ``repeatable``: they only read, so that they may run again where an answer is lost.
    """

    key: bytes
    data: bytes
    wanted: int = 1
    repeatable: bool = False


class Connection:
    """Commands on the shared connection, and connections of their own for what waits."""

    def __init__(self, connector: Connector, config: RedisConfig, name: str) -> None:
        self.role = ""
        self.dedicated = 0
        """How many connections of their own calls have now."""
        self._never = anyio.Event()
        self._connector = connector
        self._config = config
        self.name = name
        self.shared = self._share(self._connect, name)

    @property
    def changed(self) -> anyio.Event:
        """Is set when other servers than now have the keys."""
        return self._never

    def _share(self, connect: Callable[[], Any], name: str) -> Multiplexed[bytes, Any]:
        limits = Limits(
            calls=self._config.max_in_flight,
            connect=self._config.connect_timeout_seconds,
            silence=self._config.silence_timeout_seconds,
        )
        return Multiplexed(connect, name, limits)

    async def _connect(self) -> RedisTransport:
        transport = await self._connector.connect()
        self.role = transport.role
        return transport

    async def start(self) -> None:
        """Connect.

        Raises:
            PluginError: the server refuses.
            TransportBroken, OSError: it cannot be reached.
        """
        await self.shared.start()

    async def aclose(self) -> None:
        """Close."""
        await self.shared.aclose()

    # -- commands -------------------------------------------------------------------

    async def exchange(self, request: Request) -> list[Any]:
        """The replies to a request, errors among them as ``ReplyError`` objects.

        Raises:
            PluginError: the server cannot be reached.
        """
        _, data, wanted, repeatable = request
        return await self.shared.call_many(data, wanted, len(data), repeatable=repeatable)

    async def exchange_each(self, requests: Sequence[Request]) -> list[list[Any] | PluginError]:
        """The same for several, each of which may fail for itself."""
        outcomes: list[list[Any] | PluginError] = []
        for request in requests:
            try:
                outcomes.append(await self.exchange(request))
            except PluginError as error:
                outcomes.append(error)
        return outcomes

    async def command(
        self, *command: Argument, key: bytes | None = None, repeatable: bool = False
    ) -> Any:
        """The reply to a command. ``key``: where that is not its first argument.

        Raises:
            PluginError: the server refuses it, or cannot be reached.
        """
        key = _bytes(command[1]) if key is None else key
        reply = (await self.exchange(Request(key, packed(command), 1, repeatable)))[0]
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
        data = packed(command)
        return self.shared.later(data, make, len(data), repeatable=repeatable, check=self.checked)

    def checked(self, reply: Any) -> Any:
        """A reply; raises what is an error."""
        if type(reply) is ReplyError:
            raise self.translate(reply)
        return reply

    async def run(
        self, script: Script, keys: Sequence[bytes], *arguments: Argument, repeatable: bool = False
    ) -> Any:
        """The reply to a script, which the server is sent once. The keys lie together."""
        rest = (len(keys), *keys, *arguments)
        data = packed(("EVALSHA", script.sha, *rest))
        reply = (await self.exchange(Request(keys[0], data, 1, repeatable)))[0]
        if type(reply) is ReplyError and code_of(reply) == "NOSCRIPT":
            data = packed(("EVAL", script.source, *rest))
            reply = (await self.exchange(Request(keys[0], data, 1, repeatable)))[0]
        if type(reply) is ReplyError:
            raise self.translate(reply)
        return reply

    async def transaction(
        self, commands: Sequence[Sequence[Argument]], keys: Sequence[bytes]
    ) -> list[Any]:
        """The replies to commands that run together, all or none; errors among them are
        ``ReplyError`` objects.

        Raises:
            PluginError: none was run.
        """
        self.check_together(keys)
        replies = await self.exchange(together(keys[0], commands))
        failure = self.failure(replies, of_client=True)
        if failure is not None:
            raise failure
        results: list[Any] = replies[-1]
        return results

    async def values_within(self, names: Sequence[bytes], most: int) -> list[bytes | None]:
        """The values of the first of these keys, as many as have ``most`` bytes together, and one
        at least; None for a key that has none, or another kind."""
        found: list[bytes | None] = await self.run(GET_WITHIN, names, most, repeatable=True)
        return found

    # -- keys -----------------------------------------------------------------------

    def by_slot(self, keys: Sequence[bytes]) -> list[list[int]]:
        """The places of those that can be in one command, for each: here, of all of them."""
        return [list(range(len(keys)))]

    def apart(self, keys: Sequence[bytes]) -> list[list[int]]:
        """The same where it is all one when each is done."""
        return self.by_slot(keys)

    def check_together(self, keys: Sequence[bytes]) -> None:
        """Raise PluginError, INVALID_ARGUMENT, where these cannot be in one command."""

    def is_position(self, at: bytes) -> bool:
        """Whether ``scan_step`` may have returned ``at``."""
        return at.isdigit() and len(at) <= 20

    async def scan_step(self, at: bytes, pattern: bytes, count: int) -> tuple[bytes, list[bytes]]:
        """Keys of strings that fit ``pattern``, of about ``count`` that are looked at, and where to
        go on. ``at`` is empty for the beginning, as is what is returned at the end."""
        command = scan_command(at or b"0", pattern, count)
        at, found = await self.command(*command, repeatable=True)
        return b"" if at == b"0" else at, found

    # -- connections of their own -----------------------------------------------------

    @asynccontextmanager
    async def own(self, key: bytes) -> AsyncIterator[RedisTransport]:
        """A connection to the server of ``key`` for one caller, which may wait on it.

        Raises:
            PluginError: RESOURCE_EXHAUSTED, there are as many as may be; UNAVAILABLE, no server.
        """
        async with self._owned(lambda: self._open_own(self._connector.connect)) as transport:
            yield transport

    @asynccontextmanager
    async def own_each(self) -> AsyncIterator[list[RedisTransport]]:
        """The same to each of the servers that have keys."""
        async with self.own(b"") as transport:
            yield [transport]

    @asynccontextmanager
    async def _owned(self, connect: Callable[[], Any]) -> AsyncIterator[RedisTransport]:
        most = self._config.max_dedicated_connections
        if self.dedicated >= most:
            raise PluginError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"{most} calls have a connection of their own; the limit is that "
                "(max_dedicated_connections)",
            )
        self.dedicated += 1
        try:
            transport: RedisTransport = await connect()
            try:
                yield transport
            except LOST as lost:
                silent = isinstance(lost, TimeoutError)
                why = str(lost) or ("it does not answer" if silent else "the server closed it")
                raise PluginError(
                    StatusCode.UNAVAILABLE, f"the connection to {self.name} was lost: {why}"
                ) from lost
            finally:
                with anyio.move_on_after(1, shield=True):
                    await transport.aclose()
        finally:
            self.dedicated -= 1

    async def _open_own(self, connect: Callable[[], Any]) -> RedisTransport:
        try:
            with anyio.fail_after(self._config.connect_timeout_seconds):
                transport: RedisTransport = await connect()
                return transport
        except TimeoutError:
            problem = f"{self.name} did not answer in time"
        except (TransportBroken, OSError) as error:
            problem = f"{self.name} cannot be reached: {reason(error)}"
        raise PluginError(StatusCode.UNAVAILABLE, problem)

    # -- what happened ----------------------------------------------------------------

    def failure(self, replies: Sequence[Any], *, of_client: bool = False) -> PluginError | None:
        """The error that answers a request, if there is one: what a transaction was refused for
        rather than that it was."""
        wrong = [reply for reply in replies if type(reply) is ReplyError]
        return self.translate(wrong[0], of_client=of_client) if wrong else None

    def translate(self, error: ReplyError, *, of_client: bool = False) -> PluginError:
        """The answer for an error; where another server may be the right one, it is looked for."""
        if self._config.sentinel is not None and code_of(error) in CODES_OF_A_WRONG_SERVER:
            self.shared.replace(str(error))
        return translate(error, of_client=of_client)

    async def problem(self) -> str:
        """What is wrong with the server, as the connection that calls use tells; empty if all is
        well."""
        try:
            with anyio.fail_after(HEALTH_SECONDS):
                await self.command("PING", key=b"", repeatable=True)
        except TimeoutError:
            return f"the server did not answer within {HEALTH_SECONDS:g} seconds"
        except PluginError as error:
            return error.detail
        if self.role not in ("", "master"):
            return "the server is a replica and takes no writes"
        return ""

    def connections(self) -> list[Multiplexed[bytes, Any]]:
        """Those that calls share."""
        return [self.shared]

    @property
    def calls(self) -> int:
        """Those that were begun."""
        return sum(shared.calls for shared in self.connections())

    @property
    def connects(self) -> int:
        """Shared connections that were made."""
        return sum(shared.connects for shared in self.connections())

    @property
    def active(self) -> int:
        """Connections that there are."""
        open_now = sum(shared.state is State.CONNECTED for shared in self.connections())
        return self.dedicated + open_now


def together(key: bytes, commands: Sequence[Sequence[Argument]]) -> Request:
    """Commands as one transaction."""
    data = b"".join(map(packed, (("MULTI",), *commands, ("EXEC",))))
    return Request(key, data, len(commands) + 2)


def scan_command(at: bytes, pattern: bytes, count: int) -> tuple[Argument, ...]:
    """One step through the keys of a server."""
    return "SCAN", at, "MATCH", pattern, "COUNT", count, "TYPE", "string"


def reason(error: BaseException) -> str:
    """Why a server cannot be reached."""
    words = error.strerror.lower() if isinstance(error, OSError) and error.strerror else ""
    return words or str(error)


def _bytes(argument: Argument) -> bytes:
    return argument if isinstance(argument, bytes) else str(argument).encode()
