"""Many calls in flight on one connection to a backend that answers in order.

Theory of operation. A caller appends its request to a queue and waits. One task writes what is
queued, one reads; what is read belongs to the oldest request that was written. So each request
that was written keeps its place until its answer is there, whether or not its caller still
waits: a place given up early would hand every later answer to the wrong caller. A request that
was cancelled before it was written is never sent.

What the protocol is, only a :class:`Transport` knows. One :class:`Multiplexed` uses one after
the other: when one breaks, what was not written yet goes to the next; what was, may have run,
and is repeated only where its caller says that this does no harm.

::

    CONNECTING ──► CONNECTED ──► CONNECTING ...        a connection was lost: calls wait
        │  ▲           │
        ▼  │           │
    UNREACHABLE ───────┴──────► CLOSED                 an attempt failed: calls fail at once
"""

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.lowlevel

from prism.contract.errors import PluginError
from prism.contract.status import StatusCode
from prism.sdk.background import BackgroundTask
from prism.sdk.later import Later
from prism.sdk.turns import Turns, turns
from prism.sdk.waiter import Waiter

Divert = Callable[[Later[Any], Any, "BaseException | None"], bool]

log = logging.getLogger("prism.sdk")

Request = TypeVar("Request")
Reply = TypeVar("Reply")
Request_contra = TypeVar("Request_contra", contravariant=True)
T = TypeVar("T")
Reply_co = TypeVar("Reply_co", covariant=True)

GATHER_ROUNDS = 16
"""Passes of the event loop that the writer waits while each brings more: what leaves together
costs one system call, and so do its answers."""
WRITE_SIZE = 256 * 1024
"""Bytes of requests handed to the transport before it sends them."""
CLOSE_TIMEOUT = 1.0
"""Seconds to close a transport."""


class TransportBroken(Exception):
    """The connection is of no more use; the text says why, to operators and callers."""


class Transport(Protocol[Request_contra, Reply_co]):
    """One open connection. Each method raises ``TransportBroken`` or ``OSError`` once it is not.

    ``send`` and ``read`` are called by two tasks; being cancelled ends the transport.
    """

    def write(self, request: Request_contra) -> None:
        """Add a request to what is to be sent."""

    def flush_nowait(self) -> bool:
        """Send of what was written what can leave at once; False if ``flush`` is to do the rest,
        or to say what is wrong. It is not called while ``flush`` runs, and does not raise."""

    async def flush(self) -> None:
        """Send what was written."""

    async def read(self) -> Sequence[Reply_co]:
        """The next answers, in the order of the requests."""
        ...

    async def aclose(self) -> None:
        """Close it; does not wait for the peer."""


@dataclass(frozen=True)
class Limits:
    """Bounds of a connection, in calls, bytes and seconds.

    ``calls``: written or queued; a cancelled one counts until its answer is there.
    ``silence``: a connection that owes answers and brings none for so long is given up (after
    twice as long, at most).
    """

    calls: int = 4096
    queued_bytes: int = 64 * 1024 * 1024
    connect: float = 5.0
    silence: float = 10.0
    first_backoff: float = 0.05
    last_backoff: float = 2.0


class State(Enum):
    """Of a multiplexed connection."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    UNREACHABLE = "unreachable"
    CLOSED = "closed"


class NotSent(PluginError):
    """The call never ran: there is no connection."""

    def __init__(self, detail: str) -> None:
        super().__init__(StatusCode.UNAVAILABLE, f"{detail}; the call was not sent")


class AnswerLost(PluginError):
    """The connection broke between the call and its answer."""

    def __init__(self, detail: str) -> None:
        super().__init__(StatusCode.UNAVAILABLE, f"{detail}; the call may have run")


class QueueFull(PluginError):
    """More calls, or bytes of them, than may wait."""

    def __init__(self, detail: str) -> None:
        super().__init__(StatusCode.RESOURCE_EXHAUSTED, detail)


class _Call(Later[list[Reply]], Generic[Request, Reply]):
    """A request and its place: until ``wanted`` answers have come."""

    __slots__ = ("check", "divert", "repeatable", "replies", "request", "size", "wanted")

    def __init__(
        self,
        request: Request,
        size: int,
        wanted: int,
        make: Callable[[Any], Any],
        *,
        repeatable: bool,
    ) -> None:
        super().__init__(make)
        self.check: Callable[[Reply], Any] | None = None
        self.request = request
        self.size = size
        self.wanted = wanted
        self.repeatable = repeatable
        self.replies: list[Reply] = []
        self.divert: Divert | None = None

    def settle(self, answer: Any, error: BaseException | None = None) -> None:
        divert, self.divert = self.divert, None
        if divert is None or not divert(self, answer, error):
            super().settle(answer, error)

    def result(self) -> Any:
        if self.check is None or self._error is not None:
            return super().result()
        return self._make(self.check(self._answer[0]))

    def fail(self, error: PluginError) -> None:
        self.settle(None, error)


def _first(replies: list[Reply]) -> Reply:
    return replies[0]


def _itself(reply: Reply) -> Reply:
    return reply


def _all(replies: list[Reply]) -> list[Reply]:
    return replies


class Multiplexed(Generic[Request, Reply]):
    """Calls to one backend over one connection at a time, which it keeps open.

    ``connect`` opens a transport that can take requests: authenticated and all. ``name`` is what
    errors call the backend; it holds no secrets.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Transport[Request, Reply]]],
        name: str,
        limits: Limits = Limits(),
    ) -> None:
        self.limits = limits
        self.state = State.CONNECTING
        self.problem = ""
        """Why there is no connection, where there is none."""
        self.connects = 0
        """Connections so far."""
        self.calls = 0
        """Those that were begun."""
        self._connect = connect
        self.name = name
        self._transport: Transport[Request, Reply] | None = None
        """The one that is used."""
        self._idle = False  # the task that writes: it waits for something to write
        self._unsent = False
        self._queued: deque[_Call[Request, Reply]] = deque()
        self._written: deque[_Call[Request, Reply]] = deque()
        self._queued_bytes = 0
        self._reads = 0
        self._backoff = limits.first_backoff
        self._writer = Waiter()
        self._task: BackgroundTask | None = None

    @property
    def in_flight(self) -> int:
        """Calls that are queued, or written and not answered, cancelled ones too."""
        return len(self._queued) + len(self._written)

    @property
    def queued_bytes(self) -> int:
        """Bytes of requests that are not written yet."""
        return self._queued_bytes

    async def start(self) -> None:
        """Connect, and keep connected until ``aclose``.

        Raises whatever ``connect`` does, or TransportBroken after ``limits.connect`` seconds: a
        first connection that fails is rather a mistake in the configuration than an outage.
        """
        transport = await self._open()
        self._task = BackgroundTask(lambda: self._run(transport), f"connection to {self.name}")

    def begin(self) -> None:
        """Like ``start``, without waiting for the first attempt: calls do."""
        self._task = BackgroundTask(lambda: self._run(None), f"connection to {self.name}")

    async def aclose(self) -> None:
        """Close; calls that wait fail, as do later ones."""
        if self._task is not None:
            await self._task.aclose()
        self.state = State.CLOSED
        self.problem = f"the connection to {self.name} is closed"
        self._fail_all()

    async def call(self, request: Request, size: int = 0, *, repeatable: bool = False) -> Reply:
        """The answer to ``request``, of ``size`` bytes.

        ``repeatable``: running it twice does no harm, so it may be sent again, once, where its
        answer is lost. A cancelled call that was not written yet never is; one that was, runs.

        Raises:
            NotSent, AnswerLost, QueueFull
        """
        one: Reply = await self._ask(request, size, 1, _first, repeatable=repeatable)
        return one

    async def call_many(
        self, request: Request, wanted: int, size: int = 0, *, repeatable: bool = False
    ) -> list[Reply]:
        """The ``wanted`` answers that one request has, such as several commands sent together."""
        found: list[Reply] = await self._ask(request, size, wanted, _all, repeatable=repeatable)
        return found

    def later(
        self,
        request: Request,
        make: Callable[[Any], T],
        size: int = 0,
        *,
        repeatable: bool = False,
        check: Callable[[Reply], Any] = _itself,
        divert: Divert | None = None,
    ) -> Later[T]:
        """Like ``call``, for an operation to return: ``make`` turns the answer into its result.

        ``check`` is given the answer first, and ``make`` what it returns; it may raise.

        ``divert`` is shown, once, what the call is about to be settled with: a list of one
        answer, or an error. Where it returns True, it settles the call itself, in its own time.

        Raises:
            NotSent, QueueFull
        """
        call: Any = self._ask(request, size, 1, make, repeatable=repeatable)
        call.check = check
        call.divert = divert
        return call  # type: ignore[no-any-return]  # a Later of what ``make`` returns

    def replace(self, why: str) -> None:
        """Drop this connection and make another: the backend said that it is of no use."""
        if self.state is State.CONNECTED:
            self._why_replaced = why
            self._replaced.set()

    # -- calls ----------------------------------------------------------------

    def _ask(
        self,
        request: Request,
        size: int,
        wanted: int,
        make: Callable[[Any], Any],
        *,
        repeatable: bool,
    ) -> Any:
        """Queue a call."""
        if self.problem:
            raise NotSent(self.problem)
        limits = self.limits
        if len(self._queued) + len(self._written) >= limits.calls:
            raise QueueFull(f"{limits.calls} calls to {self.name} are waiting; the limit is that")
        if self._queued_bytes + size > limits.queued_bytes:
            raise QueueFull(
                f"{self._queued_bytes} bytes of calls to {self.name} are waiting; "
                f"the limit is {limits.queued_bytes}"
            )
        self.calls += 1
        call: _Call[Request, Reply] = _Call(request, size, wanted, make, repeatable=repeatable)
        if not self._queued:
            turn = turns.get()
            if turn is not None and turn.run:
                turn.at_end(self._write_now)
            else:
                self._writer.wake()
        self._queued.append(call)
        self._queued_bytes += size
        return call

    def _fail_all(self) -> None:
        """Nobody waits for nothing: what is queued was not sent."""
        queued, self._queued = self._queued, deque()
        self._queued_bytes = 0
        for call in queued:
            call.fail(NotSent(self.problem))

    # -- the life of connections ----------------------------------------------

    async def _open(self) -> Transport[Request, Reply]:
        try:
            with anyio.fail_after(self.limits.connect):
                transport = await self._connect()
        except TimeoutError:
            raise TransportBroken(
                f"{self.name} did not answer within {self.limits.connect:g} seconds"
            ) from None
        self.connects += 1
        self.state = State.CONNECTED
        self.problem = ""
        return transport

    async def _run(self, transport: Transport[Request, Reply] | None) -> None:
        try:
            if transport is None:
                transport = await self._reopen()
            while True:
                reads = self._reads
                why = await self._use(transport)
                log.warning("lost the connection to %s: %s", self.name, why)
                self.state = State.CONNECTING
                self._lost(f"the connection to {self.name} was lost: {why}")
                if reads == self._reads:  # a server that takes connections only to close them
                    await self._pause()
                transport = await self._reopen()
        finally:
            self.state = State.CLOSED
            self.problem = f"the connection to {self.name} is closed"
            self._lost(self.problem)
            self._fail_all()

    async def _reopen(self) -> Transport[Request, Reply]:
        """Connect, however long it takes: at once, and then after longer and longer pauses."""
        while True:
            try:
                transport = await self._open()
            except OSError as error:  # knows neither whom it is about, nor what was tried
                why = (error.strerror or str(error) or type(error).__name__).lower()
                problem = f"{self.name} cannot be reached: {why}"
            except (TransportBroken, PluginError) as error:
                problem = str(error) or type(error).__name__
            except Exception:
                log.exception("connecting to %s failed", self.name)
                problem = f"connecting to {self.name} failed"
            else:
                log.info("connected to %s", self.name)
                return transport
            if problem != self.problem:
                log.warning("no connection to %s: %s", self.name, problem)
            self.state = State.UNREACHABLE
            self.problem = problem
            self._fail_all()
            await self._pause()

    async def _pause(self) -> None:
        # Instances that lost their server together should not all come back together.
        await anyio.sleep(self._backoff * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
        self._backoff = min(2 * self._backoff, self.limits.last_backoff)

    async def _use(self, transport: Transport[Request, Reply]) -> str:
        """Write and read until the transport breaks; says why it did."""
        why = ""
        self._transport = transport
        self._replaced = anyio.Event()

        async def run(part: Callable[[Transport[Request, Reply]], Awaitable[str]]) -> None:
            nonlocal why
            try:
                said = await part(transport)
            except (TransportBroken, OSError) as error:
                said = str(error) or type(error).__name__
            except (anyio.EndOfStream, anyio.ClosedResourceError):
                said = "the server closed it"
            except anyio.BrokenResourceError as error:
                said = str(error.__cause__ or "it broke")
            except Exception:
                log.exception("the connection to %s failed", self.name)
                said = "it failed; the log has the cause"
            why = why or said
            tasks.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as tasks:
                for part in (self._write, self._read, self._watch, self._wait_replaced):
                    tasks.start_soon(run, part)
        finally:
            self._transport = None
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await transport.aclose()
        return why

    def _lost(self, why: str) -> None:
        """The connection is gone: what it owes is repeated, or fails."""
        again: list[_Call[Request, Reply]] = []
        written, self._written = self._written, deque()
        for call in written:
            if call.repeatable and not call.abandoned:
                call.repeatable = False
                call.replies.clear()
                again.append(call)
            else:
                call.fail(AnswerLost(why))
        self._queued.extendleft(reversed(again))
        self._queued_bytes += sum(call.size for call in again)

    async def _write(self, transport: Transport[Request, Reply]) -> str:
        queued = self._queued
        self._unsent = False
        while True:
            while not queued and not self._unsent:
                self._idle = True
                try:
                    await self._writer.wait()
                finally:
                    self._idle = False
            seen = 0
            for _ in range(GATHER_ROUNDS):
                if len(queued) == seen:
                    break
                seen = len(queued)
                await anyio.lowlevel.checkpoint()
            self._hand_over(transport)
            await transport.flush()
            self._unsent = False

    def _hand_over(self, transport: Transport[Request, Reply]) -> None:
        """Give the transport what is queued, as far as it is sent together."""
        queued = self._queued
        size = 0
        while queued and size < WRITE_SIZE:
            call = queued.popleft()
            size += call.size
            self._queued_bytes -= call.size
            if not call.abandoned:
                self._written.append(call)
                transport.write(call.request)

    def _write_now(self) -> None:
        """Send what is queued without the task that writes, unless that is about to, or has to."""
        transport = self._transport
        if not self._idle or transport is None:
            return
        self._hand_over(transport)
        self._unsent = not transport.flush_nowait()
        if self._queued or self._unsent:
            self._idle = False
            self._writer.wake()

    async def _read(self, transport: Transport[Request, Reply]) -> str:
        turn = turns.get() or Turns()
        while True:
            replies = await transport.read()
            turn.begin()
            try:
                if not self._take_in(replies):
                    return "it brought an answer that nobody asked for"
            finally:
                turn.end()
            self._reads += 1
            self._backoff = self.limits.first_backoff

    def _take_in(self, replies: Sequence[Reply]) -> bool:
        """Settle the calls whose replies these are; False for one of none."""
        written = self._written
        for reply in replies:
            if not written:
                return False
            call = written[0]
            call.replies.append(reply)
            if len(call.replies) == call.wanted:
                written.popleft()
                call.settle(call.replies)
        return True

    async def _watch(self, transport: Transport[Request, Reply]) -> str:
        """Give up a connection that owes answers and is silent: no error tells of a server that
        hangs, or of a path that swallows everything."""
        silence = self.limits.silence
        while True:
            reads = self._reads
            owed = bool(self._written)
            await anyio.sleep(silence)
            if owed and self._written and reads == self._reads:
                return f"no answer came for {silence:g} seconds"

    async def _wait_replaced(self, transport: Transport[Request, Reply]) -> str:
        await self._replaced.wait()
        return self._why_replaced
