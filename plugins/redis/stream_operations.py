"""Messages at least once: topics that are Redis streams, with groups of consumers.

Theory of operation. A group's message that was read stands in the group's list of pending
entries until it is acknowledged: with its consumer, the time since it was delivered last, and
how often it was. Redis itself never delivers it again; a subscriber does, who looks through the
list for entries that have been there for longer than the visibility timeout, and claims them.
Only one can: claiming begins the time anew.

A rejected message is handed to a consumer that does not exist, with a time since its delivery
of ``REJECTED`` less the delay, which is more than any timeout: subscribers leave it alone until
it has reached ``REJECTED``.
"""

import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec
from hiredis import ReplyError
from msgspec import UNSET

from prism.sdk import Call, PluginError, Positioned, StatusCode, Value, operation
from prism.sdk.keyvalue import read_value

from . import params as p
from .store import RedisStore
from .transport import Argument, RedisTransport
from .values import pack, shown, unpack

HEADER = "header:"
"""Stands before a header's name, as a field of an entry."""
NOBODY = b"prism-rejected"
"""The consumer that has what was rejected."""
REJECTED = 10 * 86_400_000
"""Milliseconds: see above."""
CONSUMER = "prism-"
"""Names of consumers begin so; what is left of those is removed."""
CONSUMER_AGE = 3_600_000
"""Milliseconds after which a consumer that has nothing pending is gone for good."""
LOOK_SECONDS = 1.0
"""Between looks for entries to deliver again, and the longest wait for new ones."""
READ_AT_ONCE = 100

Entry = tuple[bytes, dict[bytes, bytes], int]
"""Id, fields, and how often it was delivered."""


class StreamOperations(RedisStore):
    """publish, subscribe, acknowledge and reject."""

    @operation(access="write")
    async def publish(self, params: p.Publish, call: Call) -> p.Published:
        """Add a message to a topic, which keeps it until it is trimmed."""
        value = read_value(params.value, params.encoding, call, self.config.max_value_bytes)
        most = self.config.stream_max_length if params.max_length is None else params.max_length
        command: list[Argument] = ["XADD", self.key(params.topic)]
        if most:
            command += ["MAXLEN", "~", most]
        command += ["*", "value", pack(value)]
        for name, text in params.headers.items():
            command += [HEADER + name, text]
        return p.Published((await self.connection.command(*command)).decode())

    @operation(idempotent=True, access="write")
    async def subscribe(
        self, params: p.Subscribe, call: Call
    ) -> AsyncIterator[Positioned[p.Delivered]]:
        """The messages of a topic, one after the other, without an end."""
        start = _start(call.resume_after or params.start)
        async with self.connection.own(self.key(params.topic)) as transport:
            if params.group is None:
                if start == "$":
                    start = await self._newest(params.topic)
                while True:
                    for entry in await self._read_after(transport, params.topic, start):
                        start = entry[0].decode()
                        yield _delivered(entry, call)
            else:
                consumer = _Consumer(self, transport, params)
                try:
                    await consumer.begin(start)
                    while True:
                        for entry in await consumer.next():
                            if await consumer.hand_out(entry):
                                yield _delivered(entry, call, in_group=True)
                finally:
                    with anyio.move_on_after(1, shield=True):
                        await consumer.end()

    @operation(idempotent=True, access="write")
    async def acknowledge(self, params: p.MessageIds) -> p.Acknowledged:
        """These messages were dealt with, and are not delivered again."""
        ids = [_id(text) for text in params.message_ids]
        done = await self.connection.command("XACK", self.key(params.topic), params.group, *ids)
        return p.Acknowledged(done)

    @operation(access="write")
    async def reject(self, params: p.Reject) -> p.Rejected:
        """Have these messages delivered again, after ``delay_seconds``."""
        idle = REJECTED - int(params.delay_seconds * 1000)
        ids = [_id(text) for text in params.message_ids]
        command: list[Argument] = ["XCLAIM", self.key(params.topic), params.group, NOBODY, 0]
        command += [*ids, "IDLE", idle, "JUSTID"]
        return p.Rejected(len(await self.connection.command(*command)))

    async def _newest(self, topic: str) -> str:
        """The id after which new messages come: resolved once, so that none is missed between
        two reads."""
        found = await self.connection.command("XREVRANGE", self.key(topic), "+", "-", "COUNT", 1)
        return found[0][0].decode() if found else "0-0"

    async def _read_after(self, transport: RedisTransport, topic: str, after: str) -> list[Entry]:
        """What follows an entry; waits for some for a while."""
        key = self.key(topic)
        block = int(LOOK_SECONDS * 1000)
        command: list[Argument] = ["XREAD", "COUNT", READ_AT_ONCE, "BLOCK", block]
        found = await self.ask_patiently(transport, *command, "STREAMS", key, after)
        return [(identity, fields, 0) for identity, fields in _entries(found, key)]

    async def ask_patiently(self, transport: RedisTransport, *command: Argument) -> Any:
        """The reply to a command that the server may let wait for ``LOOK_SECONDS``.

        Raises:
            TimeoutError: it takes much longer; the connection is of no more use.
        """
        with anyio.fail_after(LOOK_SECONDS + self.config.silence_timeout_seconds):
            return (await transport.ask(command))[0]


class _Consumer:
    """One subscriber of a group."""

    def __init__(self, store: StreamOperations, transport: RedisTransport, params: p.Subscribe):
        assert params.group is not None  # noqa: S101 - the caller has looked
        self._store = store
        self._transport = transport
        self._key = store.key(params.topic)
        self._group = params.group
        self._max_in_flight = params.max_in_flight
        self._max_deliveries = params.max_deliveries
        self._timeout = int(params.visibility_timeout_seconds * 1000)
        self._name = CONSUMER + secrets.token_hex(8)
        self._prefetched: deque[bytes] = deque()
        self._read_at = 0.0
        self._look_at = 0.0
        self._look_from = "-"

    async def begin(self, start: str) -> None:
        """Have the group, and no more of consumers that are gone."""
        connection = self._store.connection
        command = ("XGROUP", "CREATE", self._key, self._group, start, "MKSTREAM")
        try:
            await connection.command(*command, key=self._key)
        except PluginError as error:
            if error.status is not StatusCode.ALREADY_EXISTS:
                raise
        consumers = ("XINFO", "CONSUMERS", self._key, self._group)
        for reply in await connection.command(*consumers, key=self._key):
            known = {key.decode(): item for key, item in reply.items()}
            name = known["name"].decode(errors="replace")
            if not known["pending"] and known["idle"] > CONSUMER_AGE and name.startswith(CONSUMER):
                await self._remove(name)

    async def end(self) -> None:
        """Give back what was read and never handed out."""
        connection = self._store.connection
        if self._prefetched:
            command: list[Argument] = ["XCLAIM", self._key, self._group, NOBODY, 0]
            command += [*self._prefetched, "IDLE", REJECTED, "JUSTID"]
            await connection.command(*command)
        if not await self._pending_here():
            await self._remove(self._name)

    async def _remove(self, consumer: str) -> None:
        command = ("XGROUP", "DELCONSUMER", self._key, self._group, consumer)
        await self._store.connection.command(*command, key=self._key)

    async def next(self) -> list[Entry]:
        """The next messages: those to deliver again first. Waits for some for a while."""
        room = self._max_in_flight - await self._pending_here()
        if room <= 0:
            await anyio.sleep(LOOK_SECONDS / 10)
            return []
        count = min(room, READ_AT_ONCE)
        entries: list[Entry] = []
        now = anyio.current_time()
        if now >= self._look_at:
            entries = await self._claim(count)
            if not entries:
                self._look_at = now + min(LOOK_SECONDS, self._timeout / 2000)
        if not entries:
            wait = max(1, int((self._look_at - now) * 1000))
            command: list[Argument] = ["XREADGROUP", "GROUP", self._group, self._name]
            command += ["COUNT", count, "BLOCK", wait, "STREAMS", self._key, ">"]
            found = await self._store.ask_patiently(self._transport, *command)
            entries = [(identity, fields, 1) for identity, fields in _entries(found, self._key)]
        self._read_at = anyio.current_time()
        self._prefetched = deque(identity for identity, _, _ in entries)
        return entries

    async def hand_out(self, entry: Entry) -> bool:
        """Whether the client is to get it now: it may have waited here for so long, for a client
        that reads slowly, that another subscriber has it."""
        identity = self._prefetched.popleft()
        waited = (anyio.current_time() - self._read_at) * 1000
        if waited < self._timeout / 4:
            return True
        ask: list[Argument] = ["XPENDING", self._key, self._group, identity, identity, 1]
        found = await self._store.connection.command(*ask, self._name)
        if not found:
            return False
        claim: list[Argument] = ["XCLAIM", self._key, self._group, self._name, 0, identity]
        await self._store.connection.command(*claim, "JUSTID")
        return True

    async def _pending_here(self) -> int:
        """What this subscriber was given and has not been acknowledged, by whichever proxy."""
        connection = self._store.connection
        ask: list[Argument] = ["XPENDING", self._key, self._group, "-", "+"]
        return len(await connection.command(*ask, self._max_in_flight, self._name))

    async def _claim(self, count: int) -> list[Entry]:
        """Entries whose time is up, now this subscriber's."""
        connection = self._store.connection
        due: dict[bytes, int] = {}
        ask: list[Argument] = ["XPENDING", self._key, self._group, "IDLE", self._timeout]
        found = await connection.command(*ask, self._look_from, "+", READ_AT_ONCE)
        # The list may begin with what was rejected and has to wait: the next look goes on.
        full = len(found) == READ_AT_ONCE
        self._look_from = f"({found[-1][0].decode()}" if full else "-"
        for identity, consumer, idle, deliveries in found:
            if consumer != NOBODY or idle >= REJECTED:
                due[identity] = deliveries + 1
            if len(due) == count:
                self._look_from = "-"
                break
        dead = [i for i, times in due.items() if 0 < self._max_deliveries < times]
        for identity in dead:
            del due[identity]
            await self._bury(identity)
        if not due:
            return []
        command: list[Argument] = ["XCLAIM", self._key, self._group, self._name, self._timeout]
        claimed = await connection.command(*command, *due)
        return [(identity, _fields(fields), due[identity]) for identity, fields in claimed]

    async def _bury(self, identity: bytes) -> None:
        """Move a message that was delivered too often to the topic's dead letters."""
        connection = self._store.connection
        found = await connection.command("XRANGE", self._key, identity, identity)
        acknowledge: list[Argument] = ["XACK", self._key, self._group, identity]
        if not found:
            await connection.command(*acknowledge)
            return
        fields = [part for pair in _fields(found[0][1]).items() for part in pair]
        most = self._store.config.stream_max_length
        trim: list[Argument] = ["MAXLEN", "~", most] if most else []
        dead = self._key + b".dead"
        add: list[Argument] = ["XADD", dead, *trim, "*", *fields]
        if len(connection.by_slot([self._key, dead])) > 1:
            await connection.command(*add)  # rather twice than not at all
            await connection.command(*acknowledge)
            return
        for reply in await connection.transaction([acknowledge, add], [self._key, dead]):
            if isinstance(reply, ReplyError):
                raise connection.translate(reply)


def _start(text: str) -> str:
    if text == "new":
        return "$"
    return "0-0" if text == "earliest" else _id(text)


def _id(text: str) -> str:
    """The id of a message, as Redis writes it.

    Raises:
        PluginError: INVALID_ARGUMENT
    """
    for part in (parts := text.split("-")):
        if len(parts) != 2 or not (part.isascii() and part.isdigit() and int(part) < 2**64):
            raise PluginError(
                StatusCode.INVALID_ARGUMENT,
                f"{text[:40]!r} is no id of a message, such as 1700000000000-0",
            )
    return text


def _entries(found: Any, key: bytes) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Of XREAD's reply: nothing, or entries by stream."""
    if not found:
        return []
    return [(identity, _fields(fields)) for identity, fields in found[key] if fields is not None]


def _fields(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _delivered(entry: Entry, call: Call, *, in_group: bool = False) -> Positioned[p.Delivered]:
    identity, fields, deliveries = entry
    if b"value" in fields:
        value = unpack(fields[b"value"])
    else:  # another program's: all of its fields
        value = Value(msgspec.json.encode(shown(fields)), binary=False)
    raw, encoding = value.write(call)
    name = identity.decode()
    message = p.Delivered(name, raw, int(name.partition("-")[0]) / 1000, encoding)
    start = len(HEADER)
    headers = {
        field.decode(errors="replace")[start:]: text.decode(errors="replace")
        for field, text in fields.items()
        if field.startswith(HEADER.encode())
    }
    message.headers = headers or UNSET
    if in_group:
        message.deliveries = deliveries
    return Positioned(message, name)
