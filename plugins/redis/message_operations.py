"""Messages at most once: those who listen now, hear it (Redis' Pub/Sub)."""

from collections.abc import AsyncIterator

import anyio
from hiredis import ReplyError
from msgspec import UNSET

from prism.sdk import Call, PluginError, StatusCode, operation
from prism.sdk.keyvalue import read_value

from . import params as p
from .store import RedisStore, glob_escape
from .transport import Argument, RedisTransport, packed
from .values import pack, unpack

HEARTBEAT_SECONDS = 10.0
"""A connection that is silent for so long is asked whether it is there."""


class MessageOperations(RedisStore, group="notifications"):
    """notify and listen."""

    @operation(access="write")
    async def notify(self, params: p.Channel, call: Call) -> p.Receivers:
        """Say something to those who listen now."""
        value = read_value(params.value, params.encoding, call, self.config.max_value_bytes)
        channel = self.key(params.channel)
        return p.Receivers(await self.connection.command("PUBLISH", channel, pack(value)))

    @operation(access="read")
    async def listen(self, params: p.Listen, call: Call) -> AsyncIterator[p.Notified]:
        """What is said on channels from now on, until the connection to the server is lost;
        first ``ready``.

        Nothing is sent again: a stream that ends has missed what is said until it is opened
        anew. The server closes it where the client reads too slowly.
        """
        if not params.channels and not params.patterns:
            raise PluginError(StatusCode.INVALID_ARGUMENT, "listen wants channels, or patterns")
        start = len(self.prefix)
        # Any server of a cluster hears of all messages; notify counts listeners at this one.
        somewhere = self.key(params.channels[0] if params.channels else "")
        async with self.connection.own(somewhere) as transport:
            await self._subscribe(transport, params)
            yield p.Notified("ready")
            while True:
                while transport.pushes:
                    kind, *rest = transport.pushes.popleft()
                    if kind not in (b"message", b"pmessage"):
                        continue
                    channel, data = rest[-2:]
                    name = channel[start:].decode(errors="replace")
                    yield p.Notified(UNSET, name, *unpack(data).write(call))
                await read_or_ping(transport)

    async def _subscribe(self, transport: RedisTransport, params: p.Listen) -> None:
        """Subscribe, and wait until the server has begun all of it."""
        wanted = 0
        for name, channels in (
            ("SUBSCRIBE", self.keys(params.channels)),
            (
                "PSUBSCRIBE",
                [glob_escape(self.prefix) + pattern.encode() for pattern in params.patterns],
            ),
        ):
            if channels:
                command: list[Argument] = [name, *dict.fromkeys(channels)]
                transport.write(packed(command))
                wanted += len(command) - 1
        await transport.flush()
        begun = 0
        while begun < wanted:
            for reply in await read_or_ping(transport):
                if isinstance(reply, ReplyError):
                    raise self.connection.translate(reply)
            begun = sum(push[0] in (b"subscribe", b"psubscribe") for push in transport.pushes)


async def read_or_ping(transport: RedisTransport) -> list[object]:
    """Read what comes; from a server that is silent, at least the answer to a PING: a path that
    is gone does not tell.

    Raises:
        TimeoutError: there was none.
    """
    with anyio.move_on_after(HEARTBEAT_SECONDS):
        return await transport.read()
    transport.write(packed(["PING"]))
    await transport.flush()
    with anyio.fail_after(HEARTBEAT_SECONDS):
        await transport.read()
    return []
