"""Prism's own short statements of many callers on one connection (see `prism.sdk.multiplexed`).

Theory of operation. What has come together is one group: its statements, and one Sync, so one
transaction, and one commit for all writes in it. Nobody is answered before the Sync's answer,
which comes after the commit. Statements here are such that an error is rare; where one fails,
nothing of its group has happened, and each of the group is sent again, with a Sync of its own.

Two groups that write the same rows in another order would wait for each other, so the statements
of a group are sent in the order of their keys, and one key's all go over one connection.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import anyio
from psycopg import Error, pq

from prism.sdk import PluginError
from prism.sdk.multiplexed import TransportBroken

from . import errors

GROUP = 64
"""Statements that share a commit at most; bounds what is locked, and sent again, together."""

_BINARY = 1


class Request(NamedTuple):
    """A statement by name, and its parameters; ``formats``: 1 for binary ones."""

    name: str
    key: bytes
    params: tuple[bytes | None, ...]
    formats: tuple[int, ...]


class Answer(NamedTuple):
    """Rows with cells in binary form, and how many rows there were, or were written."""

    rows: list[tuple[bytes | None, ...]]
    affected: int


Reply = Answer | PluginError


class _Group:
    """Requests whose replies are given out together, in the order they were asked for."""

    __slots__ = ("missing", "replies", "requests")

    def __init__(self, requests: list[Request]) -> None:
        self.requests = requests
        self.replies: list[Reply | None] = [None] * len(requests)
        self.missing = len(requests)


class _Sent(NamedTuple):
    """What one Sync ends: some requests of a group, by their numbers there."""

    group: _Group
    numbers: list[int]


class Pipeline:
    """A transport of `Multiplexed`: ``pgconn`` is open, and has the statements prepared."""

    def __init__(self, pgconn: pq.abc.PGconn, prepared: Mapping[str, bytes]) -> None:
        self._pgconn = pgconn
        self._prepared = prepared
        self._written: list[Request] = []
        self._groups: deque[_Group] = deque()
        self._sent: deque[_Sent] = deque()
        self._results: list[Reply] = []  # of the first of _sent, so far
        self._rows: Answer | None = None
        self._flushing = anyio.Lock()
        self._failure: TransportBroken | None = None  # which flush has yet to raise

    def write(self, request: Request) -> None:
        """Add a request to the next group."""
        self._written.append(request)

    def flush_nowait(self) -> bool:
        """Send what leaves at once; False if ``flush`` is to do the rest."""
        if self._flushing.locked():  # a group is sent again, one by one
            return False
        try:
            self._send_written()
            return not self._pgconn.flush()
        except TransportBroken as broken:
            self._failure = broken
        except Error as error:
            self._failure = self._broken(error)
        return False

    async def flush(self) -> None:
        """Send what was written.

        Raises:
            TransportBroken
        """
        if self._failure is not None:
            raise self._failure
        self._send_written()
        await self._flush()

    def _send_written(self) -> None:
        written, self._written = self._written, []
        for start in range(0, len(written), GROUP):
            requests = written[start : start + GROUP]
            group = _Group(requests)
            self._groups.append(group)
            numbers = sorted(range(len(requests)), key=lambda number: requests[number].key)
            self._send(group, numbers)

    async def read(self) -> Sequence[Reply]:
        """The replies of the groups that are complete.

        Raises:
            TransportBroken
        """
        pgconn = self._pgconn
        replies: list[Reply] = []
        while not replies:
            try:
                await anyio.wait_readable(pgconn.socket)
                pgconn.consume_input()
                while self._sent and not pgconn.is_busy():
                    await self._take(pgconn.get_result())
                if not self._sent:
                    pgconn.is_busy()  # takes apart what the server says unasked
            except (Error, OSError) as error:
                raise self._broken(error) from error
            if pgconn.status != pq.ConnStatus.OK:
                raise TransportBroken(pgconn.get_error_message().strip())
            while self._groups and not self._groups[0].missing:
                replies.extend(reply for reply in self._groups.popleft().replies if reply)
        return replies

    async def aclose(self) -> None:
        """Close it."""
        if self._pgconn.status == pq.ConnStatus.OK:
            anyio.notify_closing(self._pgconn.socket)
        self._pgconn.finish()

    def _send(self, group: _Group, numbers: list[int]) -> None:
        send = self._pgconn.send_query_prepared
        try:
            for number in numbers:
                _, _, params, formats = request = group.requests[number]
                send(self._prepared[request.name], params, formats, _BINARY)
            self._pgconn.pipeline_sync()
        except Error as error:
            raise self._broken(error) from error
        self._sent.append(_Sent(group, numbers))

    async def _flush(self) -> None:
        """The other task reads meanwhile, so this may wait."""
        async with self._flushing:
            try:
                while self._pgconn.flush():
                    await anyio.wait_writable(self._pgconn.socket)
            except (Error, OSError) as error:
                raise self._broken(error) from error

    async def _take(self, result: pq.abc.PGresult | None) -> None:
        if result is None:
            if self._rows is not None:
                self._results.append(self._rows)
                self._rows = None
            return
        status = result.status
        if status == pq.ExecStatus.PIPELINE_SYNC:
            await self._end_group()
        elif status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            self._rows = answer_of(result)
        elif status == pq.ExecStatus.FATAL_ERROR:
            error = errors.from_result(result)
            if isinstance(error, errors.ConnectionLost):
                raise TransportBroken(error.detail)
            self._results.append(error)

    async def _end_group(self) -> None:
        """A Sync was answered: what is before it is committed, or nothing of it has happened."""
        group, numbers = self._sent.popleft()
        results, self._results = self._results, []
        failed = any(isinstance(result, PluginError) for result in results)
        if failed and len(numbers) > 1:
            for number in numbers:
                self._send(group, [number])
            await self._flush()
            return
        if len(results) < len(numbers):
            raise TransportBroken("PostgreSQL has answered out of order")
        for number, result in zip(numbers, results, strict=False):
            group.replies[number] = result
        group.missing -= len(numbers)

    def _broken(self, error: Exception) -> TransportBroken:
        """The server may have said why, before it went."""
        said = ""
        try:
            while not self._pgconn.is_busy() and (result := self._pgconn.get_result()) is not None:
                if result.status == pq.ExecStatus.FATAL_ERROR:
                    said = errors.from_result(result).detail
        except Error:
            pass
        return TransportBroken(said or str(error).strip())


def answer_of(result: pq.abc.PGresult) -> Answer:
    """A result whose cells are in binary form."""
    columns = range(result.nfields)
    value = result.get_value
    rows = [tuple(value(row, column) for column in columns) for row in range(result.ntuples)]
    return Answer(rows, result.command_tuples or 0)


Connect = Callable[[], Awaitable[pq.abc.PGconn]]


async def open_pipeline(connect: Connect, statements: Mapping[str, str]) -> Pipeline:
    """Connect, and prepare ``statements`` by their names.

    Raises:
        PluginError, TransportBroken
    """
    pgconn = await connect()
    try:
        prepared = {name: f"prism_{name}".encode() for name in statements}
        for name, sql in statements.items():
            pgconn.send_prepare(prepared[name], sql.encode())
        pgconn.pipeline_sync()
        while True:
            while pgconn.flush():
                await anyio.wait_writable(pgconn.socket)
            while pgconn.is_busy():
                await anyio.wait_readable(pgconn.socket)
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                continue
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                return Pipeline(pgconn, prepared)
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise errors.from_result(result)
    except Error as error:
        pgconn.finish()
        raise TransportBroken(str(error).strip()) from error
    except BaseException:
        pgconn.finish()
        raise
