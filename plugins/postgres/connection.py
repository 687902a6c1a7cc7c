"""One connection to PostgreSQL: libpq, without blocking, on whatever event loop runs.

Theory of operation. The connection is always in libpq's pipeline mode: commands are sent, each
with no answer awaited, and their answers are read in order. A ``sync`` ends a group of them: what
comes after an error is skipped by the server up to there. Nobody uses a connection but who has
it from the pool, one caller at a time, since a cancel request stops whatever the server runs on
the connection at that moment.

A caller that is cancelled leaves its connection with commands that are running. The pool then
has ``recover`` cancel them and read the rest, so the connection is clean again, or closes it.
"""

import itertools
import select
import socket
import struct
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import anyio
from psycopg import Error, pq

from prism.sdk import PluginError, StatusCode

from . import errors
from .errors import ConnectionLost, StaleStatement

CANCEL_TIMEOUT = 5.0
"""Seconds for a cancel request, and what it takes the server to end the statement."""
CHUNK_ROWS = 64
"""Rows that are taken at a time of a result that may be cut."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""What may come before libpq has one chunk of rows; it keeps that in memory, however large."""
KEPT_BYTES = 1024 * 1024
"""libpq's buffer grows with the largest message, and stays so: a connection that has seen a
larger one than this is not used again."""

_BYTES_RECEIVED = 128  # where Linux has it in its struct tcp_info
_S = pq.ExecStatus
_COPYING = {_S.COPY_IN, _S.COPY_OUT, _S.COPY_BOTH}
_FAILED = {_S.FATAL_ERROR, _S.PIPELINE_ABORTED, _S.BAD_RESPONSE}
Values = Sequence[bytes | None]


class Prepared(NamedTuple):
    """A statement that the server has taken apart: the types of its parameters and columns."""

    name: bytes
    sql: bytes
    parameters: tuple[int, ...]
    columns: tuple[str, ...]
    types: tuple[int, ...]


class Connection:
    """An open connection of libpq's; ``connecting`` makes them."""

    def __init__(self, pgconn: pq.abc.PGconn, cache_size: int) -> None:
        self._pgconn = pgconn
        self._cache_size = cache_size
        self._statements: OrderedDict[bytes, Prepared] = OrderedDict()
        self._numbers = itertools.count(1)
        self._commands = 0  # whose answers are not read yet
        self._syncs = 0
        self._in_group = False  # which no sync has ended yet; libpq knows no transactions before
        self._held_back = False  # answers to what was sent: the server keeps them until it is asked
        self.largest = 0  # bytes of a row, or of a statement's parameters
        self._resetting = False
        self.opened_at = self.used_at = anyio.current_time()
        self.times_used = 0
        pgconn.notice_handler = None

    @property
    def server_version(self) -> int:
        """150018 is 15.18."""
        return self._pgconn.server_version

    @property
    def pid(self) -> int:
        """Of the server's process for this connection."""
        return self._pgconn.backend_pid

    def parameter(self, name: str) -> str:
        """What the server last reported of a setting, such as ``in_hot_standby``."""
        return (self._pgconn.parameter_status(name.encode()) or b"").decode()

    @property
    def closed(self) -> bool:
        """Whether it is of no use any more."""
        return self._pgconn.status != pq.ConnStatus.OK

    @property
    def is_clean(self) -> bool:
        """Whether the next caller can have it: nothing runs, no transaction is open."""
        if self.closed:
            return False
        if self._resetting:
            return True
        idle = self._pgconn.transaction_status == pq.TransactionStatus.IDLE
        return idle and not (self._commands or self._syncs or self._in_group)

    @property
    def owed(self) -> int:
        """Commands whose answers are not read yet."""
        return self._commands

    @property
    def is_worn(self) -> bool:
        """Whether its buffer has grown too large to be kept."""
        return self.largest > KEPT_BYTES

    def looks_alive(self) -> bool:
        """Whether the server has not closed it meanwhile; costs one system call."""
        if self.closed:
            return False
        poll = select.poll()
        poll.register(self._pgconn.socket, select.POLLIN)
        if poll.poll(0):
            try:
                self._pgconn.consume_input()
            except Error:
                return False
        return not self.closed

    def close(self) -> None:
        """Close at once, whatever runs."""
        if self._pgconn.status == pq.ConnStatus.OK:
            anyio.notify_closing(self._pgconn.socket)
        self._pgconn.finish()

    def begin_reset(self) -> None:
        """Have the session as it was at its start, whatever a client's SQL did to it.

        It is sent, and nobody waits: the next to have the connection reads the answers.
        """
        self.send(b"SET SESSION AUTHORIZATION DEFAULT")
        self.send(b"RESET ALL")
        self.send(b"SELECT pg_advisory_unlock_all()")
        self.send(b"DISCARD TEMP")
        self.send_sync()
        self._resetting = True
        try:
            self._pgconn.flush()
        except Error as error:
            raise self._lost(error) from error

    async def settle(self) -> None:
        """Before a caller gets it: the reset has been done.

        Raises:
            PluginError: it cannot be used.
        """
        if self._resetting:
            await self.finish_group()
            self._resetting = False

    # -- sending ----------------------------------------------------------------

    def send(self, sql: bytes, params: Values = ()) -> None:
        """Queue a statement that is not kept prepared."""
        self._queue(self._pgconn.send_query_params, sql, params or None)

    def send_prepared(
        self,
        statement: Prepared,
        params: Values,
        formats: Sequence[int] | None = None,
        *,
        binary: bool = False,
    ) -> None:
        """Queue a statement that ``prepare`` has made; ``formats``: 1 for binary parameters.
        ``binary``: the form of the result."""
        size = sum(len(value) for value in params if value is not None)
        self.largest = max(self.largest, size)
        if statement.name:
            self._queue(
                self._pgconn.send_query_prepared, statement.name, params, formats, int(binary)
            )
        else:  # behind a pooler: the unnamed statement of one session need not be that of another
            types = statement.parameters or None
            self._queue(
                self._pgconn.send_query_params, statement.sql, params, types, formats, int(binary)
            )

    def send_sync(self) -> None:
        """End a group of commands."""
        try:
            self._pgconn.pipeline_sync()
        except Error as error:
            raise self._lost(error) from error
        self._syncs += 1
        self._in_group = self._held_back = False

    def _queue(self, send: Any, *arguments: Any) -> None:
        try:
            send(*arguments)
        except Error as error:
            if self.closed:
                raise self._lost(error) from error
            raise errors.invalid(str(error)) from error
        self._commands += 1
        self._in_group = self._held_back = True

    # -- receiving --------------------------------------------------------------

    async def prepare(self, sql: bytes) -> Prepared:
        """Have a statement taken apart, once for each connection; answers owed are read before.

        Raises:
            DatabaseError: it is wrong, or what was sent before was.
        """
        found = self._statements.get(sql)
        if found is not None:
            self._statements.move_to_end(sql)
            return found
        if len(self._statements) >= self._cache_size > 0:
            _, oldest = self._statements.popitem(last=False)
            self._queue(self._pgconn.send_close_prepared, oldest.name)
        name = b"prism_%d" % next(self._numbers) if self._cache_size else b""
        self._queue(self._pgconn.send_prepare, name, sql)
        self._queue(self._pgconn.send_describe_prepared, name)
        described = (await self.results(self._commands))[-1]
        fields = range(described.nfields)
        prepared = Prepared(
            name,
            sql,
            tuple(described.param_type(index) for index in range(described.nparams)),
            tuple((described.fname(index) or b"").decode() for index in fields),
            tuple(described.ftype(index) for index in fields),
        )
        if self._cache_size:
            self._statements[sql] = prepared
        return prepared

    def forget_statements(self) -> None:
        """Prepare all statements anew; the old ones end with the session."""
        self._statements.clear()

    async def results(self, count: int) -> list[pq.abc.PGresult]:
        """The results of the next ``count`` commands.

        Raises:
            DatabaseError: the first that failed; the group's rest is read as well.
            ConnectionLost
        """
        found = []
        for _ in range(count):
            result = await self._next()
            assert result is not None  # noqa: S101 - libpq's promise for each command
            found.append(result)
            await self._end_command()
        return found

    async def chunks(self) -> AsyncIterator[pq.abc.PGresult]:
        """The next command's result, in pieces of rows; the last may have none.

        Raises:
            DatabaseError, ConnectionLost
        """
        self._pgconn.set_chunked_rows_mode(CHUNK_ROWS)
        while True:
            result = await self._next()
            if result is None:
                self._commands -= 1
                return
            yield result

    async def finish_group(self) -> None:
        """Read up to the ``sync`` that ends the group; answers owed before it are read, too.

        Raises:
            DatabaseError, ConnectionLost
        """
        await self.results(self._commands)
        while self._syncs:
            await self._read_sync()

    async def roll_back(self) -> None:
        """End the group, and the transaction that it is in.

        Raises:
            ConnectionLost
        """
        try:
            await self._skip_group()
        except Error as error:
            raise self._lost(error) from error

    async def _end_command(self) -> None:
        if await self._next() is not None:
            raise ConnectionLost("PostgreSQL has answered out of order", sent=True)
        self._commands -= 1

    async def _read_sync(self) -> None:
        result = await self._next()
        if result is None or result.status != _S.PIPELINE_SYNC:
            raise ConnectionLost("PostgreSQL has answered out of order", sent=True)
        self._syncs -= 1

    async def _next(self) -> pq.abc.PGresult | None:
        """libpq's next result, or the None that ends a command's."""
        await self._fill()
        result = self._pgconn.get_result()
        if result is not None and result.status in _FAILED:
            error = errors.from_result(result)
            if isinstance(error, ConnectionLost):
                self.close()
                raise error
            await self._skip_group()
            if isinstance(error, StaleStatement):
                self.forget_statements()
            raise error
        if result is not None and result.status in _COPYING:
            self.close()  # it would say so for ever
            raise PluginError(StatusCode.UNIMPLEMENTED, "COPY is not offered")
        return result

    async def _skip_group(self) -> None:
        """After an error: read the rest of the group, and end the transaction that it was in."""
        if not self._syncs:
            self.send_sync()
        await self._skip()
        if self._pgconn.transaction_status != pq.TransactionStatus.IDLE:
            self.send(b"ROLLBACK")
            self.send_sync()
            await self._skip()

    async def _skip(self) -> None:
        """Read all that is owed, and look at nothing."""
        while self._syncs:
            await self._fill()
            result = self._pgconn.get_result()
            if result is not None:
                if result.status == _S.PIPELINE_SYNC:
                    self._syncs -= 1
                elif result.status == _S.FATAL_ERROR and self.closed:
                    raise errors.from_result(result)
        self._commands = 0

    async def _fill(self) -> None:
        """Send what is queued, and receive until libpq has a result."""
        pgconn = self._pgconn
        before = None
        try:
            if self._held_back:
                pgconn.send_flush_request()
                self._held_back = False
            if pgconn.flush():
                await self._flush_slowly()
            while pgconn.is_busy():
                if before is None:  # before libpq reads: it takes all that comes meanwhile
                    before = _received(pgconn.socket)
                await anyio.wait_readable(pgconn.socket)
                pgconn.consume_input()
                if _received(pgconn.socket) - before > MAX_ANSWER_BYTES:
                    self.close()
                    raise PluginError(
                        StatusCode.RESOURCE_EXHAUSTED,
                        f"{CHUNK_ROWS} rows have more than {MAX_ANSWER_BYTES} bytes: select "
                        "fewer columns, or parts of them with substr()",
                    )
        except (Error, OSError, anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            raise self._lost(error) from error

    async def _flush_slowly(self) -> None:
        """Send more than the kernel takes at once. What the server answers meanwhile must be
        received, or it takes no more."""

        async def receive() -> None:
            while True:
                await anyio.wait_readable(self._pgconn.socket)
                self._pgconn.consume_input()

        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            while self._pgconn.flush():
                await anyio.wait_writable(self._pgconn.socket)
            group.cancel_scope.cancel()

    def _lost(self, error: Exception) -> Exception:
        """What the broken connection becomes; the server may have said why before."""
        said: Exception | None = None
        try:
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    break
                if result.status == _S.FATAL_ERROR:
                    said = errors.from_result(result)
        except Error:
            pass
        self.close()
        if isinstance(said, ConnectionLost):
            return said
        return ConnectionLost(f"the connection to PostgreSQL was lost: {said or error}", sent=True)

    # -- after a cancelled caller -------------------------------------------------

    async def recover(self) -> bool:
        """Cancel what runs, and read what is owed; True if the connection is clean then.

        Takes ``CANCEL_TIMEOUT`` seconds at most.
        """
        with anyio.move_on_after(CANCEL_TIMEOUT):
            try:
                if self._pgconn.transaction_status == pq.TransactionStatus.ACTIVE or self._commands:
                    await self.cancel()
                await self._skip_group()
            except (Error, PluginError, OSError):
                return False
            return self.is_clean
        return False

    async def cancel(self) -> None:
        """Have the server cancel what runs on this connection now.

        Raises:
            psycopg.Error: it could not be reached.
        """
        request = self._pgconn.cancel_conn()
        try:
            request.start()
            while True:
                match request.poll():
                    case pq.PollingStatus.OK:
                        return
                    case pq.PollingStatus.READING:
                        await anyio.wait_readable(request.socket)
                    case pq.PollingStatus.WRITING:
                        await anyio.wait_writable(request.socket)
                    case _:
                        raise Error(request.get_error_message())
        finally:
            request.finish()

    # -- notifications ----------------------------------------------------------

    def take_notifications(self) -> list[tuple[str, str]]:
        """Channel and payload of those that have come."""
        found = []
        while (notify := self._pgconn.notifies()) is not None:
            found.append((notify.relname.decode(), notify.extra.decode()))
        return found

    async def wait_unasked(self) -> None:
        """Wait until the server sends something, though nothing is owed. Cancelling loses nothing.

        Raises:
            ConnectionLost
        """
        try:
            await anyio.wait_readable(self._pgconn.socket)
            self._pgconn.consume_input()
            self._pgconn.is_busy()  # takes apart what came
        except (Error, OSError, anyio.ClosedResourceError) as error:
            raise self._lost(error) from error
        if self.closed:
            raise self._lost(Error("the server closed it"))


def _received(descriptor: int) -> int:
    """Bytes that a TCP connection has brought so far; 0 for another kind of socket."""
    # With its family said, nothing is asked of the kernel but what is wanted.
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=descriptor)
    try:
        info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
    except OSError:  # EOPNOTSUPP: a Unix socket
        return 0
    finally:
        one.detach()  # it is libpq's
    number: int = struct.unpack_from("Q", info, _BYTES_RECEIVED)[0]
    return number
