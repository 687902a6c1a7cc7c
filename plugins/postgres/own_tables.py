"""Statements on Prism's own tables, and on whose connection each runs.

Short ones share connections with other callers (`pipeline`); those that may take long, or give
much, have one for themselves, as do all behind a pooler.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from zlib import crc32

from prism.sdk import PluginError, StatusCode
from prism.sdk.later import Later
from prism.sdk.multiplexed import Multiplexed

from .connection import Connection
from .errors import DatabaseError
from .pipeline import Answer, Reply, Request, answer_of
from .pool import Pool

Share = Multiplexed[Request, Reply]
Formats = tuple[int, ...]
T = TypeVar("T")
Params = tuple[bytes | None, ...]


class OwnTables:
    """The tables of one namespace in ``schema``. ``reading`` and ``writing`` are the short
    statements, by name; ``formats`` tells which of their parameters are binary (1).

    ``readers`` and ``writers`` are empty behind a pooler. ``enabled``: whether there are tables.
    """

    def __init__(
        self,
        pool: Pool,
        readers: Sequence[Share],
        writers: Sequence[Share],
        *,
        reading: Mapping[str, str],
        writing: Mapping[str, str],
        formats: Mapping[str, Formats],
        namespace: str,
        schema: str,
        enabled: bool,
    ) -> None:
        self._pool = pool
        self._readers = readers
        self._writers = writers
        self._statements = {**reading, **writing}
        self._formats = formats
        self._namespace = namespace.encode()
        self._schema = schema
        self._enabled = enabled

    async def read(self, name: str, key: bytes) -> Answer:
        """Run a short statement that reads ``key`` of this namespace."""
        return await self._short(self._readers, name, key, (), repeatable=True)

    async def write(self, name: str, key: bytes, *params: bytes | None) -> Answer:
        """Run a short statement that writes ``key`` of this namespace."""
        return await self._short(self._writers, name, key, params, repeatable=False)

    def read_later(self, name: str, key: bytes, make: Callable[[Answer], T]) -> Later[T] | None:
        """What ``make`` makes of the answer to a short statement that reads ``key``; None where
        there is no connection that several callers share."""
        return self._later(self._readers, name, key, (), make, repeatable=True)

    def write_later(
        self, name: str, key: bytes, params: Params, make: Callable[[Answer], T]
    ) -> Later[T] | None:
        """The same of one that writes ``key``."""
        return self._later(self._writers, name, key, params, make, repeatable=False)

    async def alone(
        self,
        sql: str,
        *params: bytes | None,
        formats: Formats | None = None,
        repeatable: bool = False,
    ) -> Answer:
        """Run a statement on a connection of its own; its first parameter is the namespace."""
        if not self._enabled:
            raise PluginError(
                StatusCode.FAILED_PRECONDITION,
                "this namespace has no keys and queues (config.key_value: false)",
            )
        text = sql.format(schema=self._schema).encode()
        values = (self._namespace, *params)

        async def work(connection: Connection) -> Answer:
            prepared = await connection.prepare(text)
            connection.send_prepared(prepared, values, formats, binary=True)
            connection.send_sync()
            result = (await connection.results(connection.owed))[-1]
            await connection.finish_group()
            return answer_of(result)

        for last in (False, False, True):
            try:
                return await self._pool.run(work, repeatable=repeatable)
            except DatabaseError as error:
                # Nothing has happened: another transaction was in the way.
                if last or error.status is not StatusCode.ABORTED:
                    raise _of_own_tables(error) from error
        raise AssertionError

    async def check(self) -> None:
        """Have each shared connection answer.

        Raises:
            PluginError
        """
        for shares, name in ((self._readers, "exists"), (self._writers, "persist")):
            for share in shares:
                request = Request(name, b"", (self._namespace, b""), self._formats[name])
                _checked(await share.call(request, repeatable=True))

    async def _short(
        self, shares: Sequence[Share], name: str, key: bytes, params: Params, *, repeatable: bool
    ) -> Answer:
        later = self._later(shares, name, key, params, _itself, repeatable=repeatable)
        if later is None:
            sql, formats = self._statements[name], self._formats[name]
            return await self.alone(sql, key, *params, formats=formats, repeatable=repeatable)
        return await later

    def _later(
        self,
        shares: Sequence[Share],
        name: str,
        key: bytes,
        params: Params,
        make: Callable[[Answer], T],
        *,
        repeatable: bool,
    ) -> Later[T] | None:
        if not shares:
            return None
        share = shares[crc32(key) % len(shares)] if len(shares) > 1 else shares[0]
        values = (self._namespace, key, *params)
        size = sum(len(each) for each in values if each is not None)
        request = Request(name, key, values, self._formats[name])
        return share.later(request, make, size, repeatable=repeatable, check=_checked)


def _itself(answer: Answer) -> Answer:
    return answer


def integer(cell: bytes | None) -> int:
    """An int8 in binary form."""
    number: int = struct.unpack(">q", cell or bytes(8))[0]
    return number


def number(value: float) -> bytes:
    """A parameter."""
    return repr(value).encode()


def _checked(reply: Reply) -> Answer:
    if isinstance(reply, DatabaseError):
        raise _of_own_tables(reply)
    if isinstance(reply, PluginError):
        raise reply
    return reply


def _of_own_tables(error: DatabaseError) -> PluginError:
    """It is not the caller whom the database refuses, nor the caller's statement that is wrong.
    Tables that are gone are UNAVAILABLE: the next start makes them."""
    status = {
        StatusCode.PERMISSION_DENIED: StatusCode.FAILED_PRECONDITION,
        StatusCode.INVALID_ARGUMENT: StatusCode.FAILED_PRECONDITION,
        StatusCode.NOT_FOUND: StatusCode.UNAVAILABLE,
    }.get(error.status)
    if status is None:
        return error
    return PluginError(status, f"Prism's own tables cannot be used: {error.detail}")
