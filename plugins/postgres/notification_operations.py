"""Messages at most once: who listens now, hears it."""

import binascii
from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec
from msgspec import UNSET

from prism.sdk import Call, PluginError, StatusCode, Value, operation
from prism.sdk.keyvalue import read_value

from . import params as p
from .connection import Connection
from .errors import invalid
from .notifications import Heard
from .store import Store

MAX_PAYLOAD = 7_999
"""Bytes of a notification; PostgreSQL's own limit."""
MAX_NAME = 63
"""Bytes of a channel's name, likewise."""

_BASE64 = "base64:"
"""Before a payload that is binary. JSON text never begins so."""


class NotificationOperations(Store, group="notifications"):
    """notify and listen."""

    @operation(access="write")
    async def notify(self, params: p.Notify, call: Call) -> None:
        """Say something to those who listen now."""
        channel = self._channel(params.channel)
        payload = _payload(read_value(params.value, params.encoding, call, MAX_PAYLOAD))
        self.metrics.queries_executed += 1

        async def send(connection: Connection) -> None:
            connection.send(b"SELECT pg_notify($1, $2)", [channel.encode(), payload])
            connection.send_sync()
            await connection.finish_group()

        await self.pool.run(send)

    @operation(access="read")
    async def listen(self, params: p.Listen, call: Call) -> AsyncIterator[p.Heard]:
        """What is said on channels from now on; first ``ready``, and ``gap`` where some of it may
        have been missed."""
        if self.config.behind_pooler:
            raise PluginError(
                StatusCode.FAILED_PRECONDITION,
                "behind a pooler nothing can be heard (config.statement_cache_size: 0): have a "
                "namespace whose connection_string leads to PostgreSQL itself",
            )
        names = {self._channel(channel): channel for channel in params.channels}
        async with aclosing(self.listener.listen(names)) as events:
            async for event in events:
                if isinstance(event, Heard):
                    value = _value(event.payload).write(call)
                    yield p.Heard(UNSET, names[event.channel], *value)
                else:
                    yield p.Heard(event)

    def _channel(self, channel: str) -> str:
        prefix = self.config.channel_prefix
        name = (f"{self.namespace}:" if prefix is None else prefix) + channel
        if len(name.encode()) > MAX_NAME:
            raise invalid(
                f"the channel {name!r} has {len(name.encode())} bytes, with its prefix "
                f"(config.channel_prefix); PostgreSQL's limit is {MAX_NAME}"
            )
        if "\0" in name:
            raise invalid("the channel has the character U+0000")
        return name


def _payload(value: Value) -> bytes:
    data = value.data
    if value.binary:
        data = _BASE64.encode() + binascii.b2a_base64(data, newline=False)
    if len(data) > MAX_PAYLOAD:
        raise invalid(f"the value has {len(data)} bytes; PostgreSQL's limit is {MAX_PAYLOAD}")
    return data


def _value(payload: str) -> Value:
    """JSON and binary values as they were sent; what else a trigger may say, as a string."""
    if payload.startswith(_BASE64):
        try:
            data = binascii.a2b_base64(payload.removeprefix(_BASE64), strict_mode=True)
            return Value(data, binary=True)
        except ValueError:
            pass
    try:
        msgspec.json.decode(payload)
    except (ValueError, RecursionError):
        return Value(msgspec.json.encode(payload), binary=False)
    return Value(payload.encode(), binary=False)
