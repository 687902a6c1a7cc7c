"""Hashes, lists, sets and sorted sets."""

import math
from collections.abc import AsyncIterator, Iterable
from typing import Any

import anyio
from hiredis import ReplyError
from msgspec import UNSET, Raw, UnsetType

from prism.sdk import Call, Encoding, PluginError, StatusCode, operation
from prism.sdk.keyvalue import read_value

from . import params as p
from .store import RedisStore
from .transport import Argument
from .values import pack, unpack

SCAN_COUNT = 500
"""Members that a stream of a set reads at a time."""


class StructureOperations(RedisStore):
    """Redis' own kinds of values. Values inside them are kept as those of keys are."""

    @operation(idempotent=True, access="read")
    async def hash_get(self, params: p.Field, call: Call) -> p.Found:
        """One field of a hash."""
        data = await self._read("HGET", params.key, params.field)
        return p.Found(False) if data is None else p.Found(True, *unpack(data).write(call))

    @operation(access="write")
    async def hash_set(self, params: p.SetFields, call: Call) -> p.Added:
        """Set fields of a hash, all at one moment; says how many are new."""
        unknown = params.encodings.keys() - params.fields.keys()
        if unknown:
            raise _invalid(f"encodings names {min(unknown)!r}, which is no field of this call")
        pairs: list[Argument] = []
        for field, raw in params.fields.items():
            pairs += [field, self._packed(raw, params.encodings.get(field, UNSET), call)]
        return p.Added(await self._write("HSET", params.key, *pairs))

    @operation(access="write")
    async def hash_delete(self, params: p.Fields) -> p.Removed:
        """Remove fields of a hash."""
        return p.Removed(await self._write("HDEL", params.key, *params.fields))

    @operation(idempotent=True, access="read")
    async def hash_get_all(self, params: p.Key, call: Call) -> p.FoundFields:
        """All fields of a hash."""
        found: dict[bytes, bytes] = await self._read("HGETALL", params.key)
        result = p.FoundFields(bool(found), {})
        encodings: dict[str, Encoding] = {}
        for name, data in found.items():
            field = name.decode(errors="replace")
            result.fields[field], encoding = unpack(data).write(call)
            if encoding is not UNSET:
                encodings[field] = encoding
        result.encodings = encodings or UNSET
        return result

    @operation(access="write")
    async def hash_increment(self, params: p.IncrementField) -> p.Number:
        """Add to an integer in a hash."""
        return p.Number(await self._write("HINCRBY", params.key, params.field, params.delta))

    @operation(access="write")
    async def list_push(self, params: p.Push, call: Call) -> p.Length:
        """Add values at one end of a list."""
        values = [self._packed(raw, params.encoding, call) for raw in params.values]
        name = "LPUSH" if params.side == "left" else "RPUSH"
        return p.Length(await self._write(name, params.key, *values))

    @operation(access="write")
    async def list_pop(self, params: p.Pop, call: Call) -> p.FoundValues:
        """Take values from one end of a list; can wait until there are some.

        What is taken while the caller goes away is lost, as Redis has no receipt for it.
        """
        name = "LPOP" if params.side == "left" else "RPOP"
        found = await self._write(name, params.key, params.count)
        if found is None and params.wait_seconds:
            found = await self._wait_pop(params)
        return _values(found or [], call, found_some=found is not None)

    @operation(idempotent=True, access="read")
    async def list_range(self, params: p.Range, call: Call) -> p.FoundValues:
        """Part of a list; nothing of a missing one."""
        found = await self._read("LRANGE", params.key, params.start, params.stop)
        return _values(found, call, found_some=bool(found))

    @operation(idempotent=True, access="read")
    async def list_length(self, params: p.Key) -> p.Length:
        """How long a list is; 0 where there is none."""
        return p.Length(await self._read("LLEN", params.key))

    @operation(access="write")
    async def set_add(self, params: p.Members, call: Call) -> p.Added:
        """Add members to a set."""
        return p.Added(await self._write("SADD", params.key, *self._members(params, call)))

    @operation(access="write")
    async def set_remove(self, params: p.Members, call: Call) -> p.Removed:
        """Remove members from a set."""
        return p.Removed(await self._write("SREM", params.key, *self._members(params, call)))

    @operation(idempotent=True, access="read")
    async def set_contains(self, params: p.Member, call: Call) -> p.Contains:
        """Whether a set has a member."""
        member = self._packed(params.member, params.encoding, call)
        return p.Contains(bool(await self._read("SISMEMBER", params.key, member)))

    @operation(idempotent=True, access="read")
    async def set_members(self, params: p.Key, call: Call) -> p.FoundValues:
        """All members of a set, in no order; of a large one, rather as a stream."""
        size = await self._read("SCARD", params.key)
        if size > p.MAX_RANGE:
            raise PluginError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"the set has {size} members; more than {p.MAX_RANGE} come as a stream",
            )
        found = list(await self._read("SMEMBERS", params.key))
        return _values(found, call, found_some=bool(found))

    @operation(name="set_members", idempotent=True, access="read")
    async def set_members_stream(self, params: p.Key, call: Call) -> AsyncIterator[p.OneMember]:
        """All members of a set; one may come twice where the set changes meanwhile."""
        at = b"0"
        while True:
            at, found = await self._read("SSCAN", params.key, at, "COUNT", SCAN_COUNT)
            for data in found:
                yield p.OneMember(*unpack(data).write(call))
            if at == b"0":
                return

    @operation(access="write")
    async def sorted_set_add(self, params: p.AddScored, call: Call) -> p.Added:
        """Add members to a sorted set, or give them new scores; says how many are new."""
        pairs: list[Argument] = []
        for item in params.members:
            pairs += [_score(item.score), self._packed(item.member, item.encoding, call)]
        return p.Added(await self._write("ZADD", params.key, *pairs))

    @operation(idempotent=True, access="read")
    async def sorted_set_range(self, params: p.ScoredRange, call: Call) -> p.FoundScored:
        """Members in the order of their scores."""
        by_score = params.min_score is not None or params.max_score is not None
        if by_score and (params.start or params.stop is not None):
            raise _invalid("a range is by place (start, stop) or by score, not both")
        if by_score:
            low = _score(-math.inf if params.min_score is None else params.min_score)
            high = _score(math.inf if params.max_score is None else params.max_score)
            bounds: list[Argument] = [high, low] if params.reverse else [low, high]
            bounds += ["BYSCORE", *(["REV"] if params.reverse else [])]
            bounds += ["LIMIT", 0, params.limit]
        else:
            stop = params.stop
            if stop is None or (params.start >= 0) is (stop >= 0):
                most = params.start + params.limit - 1
                stop = most if stop is None else min(stop, most)
                if params.start < 0 <= stop:
                    stop = -1
            bounds = [params.start, stop, *(["REV"] if params.reverse else [])]
        found = await self._read("ZRANGE", params.key, *bounds, "WITHSCORES")
        members = []
        for data, score in found[: params.limit]:
            raw, encoding = unpack(data).write(call)
            members.append(p.Scored(raw, score, encoding))
        return p.FoundScored(members)

    @operation(idempotent=True, access="read")
    async def sorted_set_rank(self, params: p.Member, call: Call) -> p.Rank:
        """A member's place, the lowest score (with ``reverse`` the highest) being 0."""
        name = "ZREVRANK" if params.reverse else "ZRANK"
        member = self._packed(params.member, params.encoding, call)
        key = self.key(params.key)
        commands = [(name, key, member), ("ZSCORE", key, member)]
        rank, score = await self.connection.transaction(commands, [key])
        for reply in (rank, score):
            if isinstance(reply, ReplyError):
                raise self.connection.translate(reply)
        return p.Rank(False) if rank is None or score is None else p.Rank(True, rank, score)

    @operation(access="write")
    async def sorted_set_remove(self, params: p.Members, call: Call) -> p.Removed:
        """Remove members from a sorted set."""
        return p.Removed(await self._write("ZREM", params.key, *self._members(params, call)))

    async def _wait_pop(self, params: p.Pop) -> list[bytes] | None:
        key = self.key(params.key)
        async with self.connection.own(key) as transport:
            side = params.side.upper()
            with anyio.move_on_after(params.wait_seconds + 1):
                wait, count = params.wait_seconds, params.count
                command: list[Argument] = ["BLMPOP", wait, 1, key, side, "COUNT", count]
                found = (await transport.ask(command))[0]
                return None if found is None else list(found[1])
        return None

    async def _read(self, name: str, key: str, *arguments: Argument) -> Any:
        return await self.connection.command(name, self.key(key), *arguments, repeatable=True)

    async def _write(self, name: str, key: str, *arguments: Argument) -> Any:
        return await self.connection.command(name, self.key(key), *arguments)

    def _packed(self, raw: Raw, encoding: Encoding | UnsetType, call: Call) -> bytes:
        return pack(read_value(raw, encoding, call, self.config.max_value_bytes))

    def _members(self, params: p.Members, call: Call) -> list[bytes]:
        return [self._packed(raw, params.encoding, call) for raw in params.members]


def _values(found: Iterable[bytes], call: Call, *, found_some: bool) -> p.FoundValues:
    written = [unpack(data).write(call) for data in found]
    result = p.FoundValues(found_some, [raw for raw, _ in written])
    if any(encoding is not UNSET for _, encoding in written):
        result.encodings = [None if code is UNSET else code for _, code in written]
    return result


def _score(score: float) -> str:
    if math.isnan(score):
        raise _invalid("a score is a number")
    return repr(score) if math.isfinite(score) else "inf" if score > 0 else "-inf"


def _invalid(detail: str) -> PluginError:
    return PluginError(StatusCode.INVALID_ARGUMENT, detail)
