"""The calls on their way through guests, and the threads that guests run in.

Theory of operation. A guest runs in a thread, for as long as it likes: wasmtime does not give
way. So each of up to ``instances`` threads owns one guest and takes the next job from a queue
that all share. A job is a :class:`Later`: the session keeps its deadline and hears its CANCEL, and
abandons it; that interrupts the guest, which traps at its next loop or call, and is thrown away.
A guest costs a new instance then, and its thread goes on with the next job.

Answers come back to the event loop in bundles: one wake-up serves all that ended meanwhile. To
wake the loop costs more than most calls do, so one call that is alone is waited for, as long as a
handler that computes may take anyway (``WAIT``); the loop does nothing meanwhile, and calls that
are not so quick are soon known and no longer waited for.
"""

import logging
import math
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from functools import partial
from time import monotonic
from typing import Any

import anyio
import msgspec

from prism.contract.errors import PluginError
from prism.contract.status import StatusCode
from prism.hosts.wasm.guest import Entry, Guest, checked, in_one_line
from prism.hosts.wasm.services import Services, seconds_left
from prism.sdk.background import loop_caller, run_beside
from prism.sdk.call import Call
from prism.sdk.later import Later

MAX_LOG_LINES = 100
"""Of one call; more are counted."""
MAX_LOG_BYTES = 8 * 1024
"""Of one line."""
MAX_WAITING = 16
"""Messages of a stream that have yet to leave, at which its guest waits."""
WAIT = 0.0005
"""Seconds that the event loop waits for a call that is alone; see ``TURN`` in ``sdk.workers``."""
PATIENCE = 8
"""Quick calls that make up for two slow ones."""
RETRY = 64
"""Calls after which one is waited for again, when they were slow."""
OUT_OF_FUEL = "all fuel consumed"
"""What wasmtime says then."""
LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)


Outcome = tuple[bytes | None, BaseException | None]
"""An answer, or an error."""


class Job(Later[Any]):
    """One call of a guest; ``make`` makes the result of its answer. ``deadline`` is on the
    monotonic clock."""

    def __init__(
        self,
        entry: Entry,
        make: Callable[[Any], Any],
        operation: str = "",
        params: str = "",
        call: Call | None = None,
    ) -> None:
        super().__init__(make)
        self.entry = entry
        self.operation = operation
        self.params = params
        self.deadline = math.inf if call is None else monotonic() + call.time_left()
        self._call = call
        self._lock = threading.Lock()
        self._guest: Guest | None = None
        self._stops: list[Callable[[], None]] = []
        self._lines = 0
        self._outcome: Outcome | None = None
        self._waiter: threading.Lock | None = None
        self.unwanted = False

    def abandon(self) -> None:
        """Nobody wants it: not begun, it never is; running, its guest is interrupted."""
        super().abandon()
        self.stop()

    def stop(self) -> None:
        """End it, from any thread."""
        with self._lock:
            self.unwanted = True
            if self._guest is not None:
                self._guest.interrupt()
            stops, self._stops = self._stops, []
        for stop in stops:
            stop()

    def begin(self, guest: Guest) -> bool:
        """It runs in ``guest`` now; False where nobody wants it any more."""
        with self._lock:
            if self.unwanted:
                return False
            self._guest = guest
            return True

    def end(self) -> None:
        """It runs no more: from here on nothing interrupts the guest because of it."""
        with self._lock:
            self._guest = None

    def wait_briefly(self, begin: Callable[[], None]) -> bool:
        """``begin`` it and wait a moment, in the event loop: True if it is settled then."""
        self._waiter = waiter = threading.Lock()
        waiter.acquire()
        begin()
        waiter.acquire(timeout=WAIT)
        with self._lock:
            self._waiter = None
            outcome = self._outcome
        if outcome is None:
            return False
        self.settle(*outcome)
        return True

    def has_come(self, outcome: "Outcome") -> bool:
        """It has ended, in its thread: True if that is told to the one who waits."""
        with self._lock:
            self._outcome, waiter = outcome, self._waiter
        if waiter is None:
            return False
        waiter.release()  # who has stopped waiting just now sees the outcome all the same
        return True

    def on_stop(self, stop: Callable[[], None]) -> None:
        """Have ``stop`` called when it is to end, if it is at once."""
        with self._lock:
            self._stops.append(stop)
            if not self.unwanted:
                return
        stop()

    # -- what a guest asks while it runs ------------------------------------------------

    def context(self) -> bytes:
        """What is known of the call, as JSON."""
        call = self._call
        left = seconds_left(self.deadline) * 1000 if self.deadline < math.inf else -1
        known: dict[str, object] = {"operation": self.operation, "milliseconds_left": int(left)}
        if call is not None:
            known |= {
                "namespace": call.namespace,
                "principal": call.principal,
                "request_id": call.request_id,
                "traceparent": call.traceparent,
                "metadata": dict(call.metadata),
            }
        return msgspec.json.encode(known)

    def log(self, services: Services, level: int, message: str) -> None:
        """A line of the guest's for the proxy's log."""
        self._lines += 1
        if self._lines <= MAX_LOG_LINES:
            number = LEVELS[level] if 0 <= level < len(LEVELS) else logging.INFO
            services.logger.log(number, "%s", message[:MAX_LOG_BYTES])

    def log_rest(self, services: Services) -> None:
        """Say how many lines were too many."""
        if self._lines > MAX_LOG_LINES:
            more = self._lines - MAX_LOG_LINES
            services.logger.warning("%d more lines of one call were dropped", more)
            self._lines = 0

    def send(self, _message: bytes) -> bool:
        """A message of a stream, which this is not."""
        return False

    def receive(self) -> bytes | None:
        """The client's next message; None where there is none."""
        return None


class StreamJob(Job):
    """A call whose guest sends messages, and reads those of the client."""

    def __init__(self, params: str, call: Call, pool: "Pool") -> None:
        super().__init__("stream", bytes, call.operation, params, call)
        self._pool = pool
        self._messages: deque[bytes] = deque()
        self._room = threading.Semaphore(MAX_WAITING)
        self._asked: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._changed = anyio.Event()
        self._reading: anyio.CancelScope | None = None
        self._stream = call
        self._client_ended = False
        self.when_settled(self._wake)

    # in the guest's thread

    def send(self, message: bytes) -> bool:
        """Hand on a message; waits while the client takes none. False: return soon."""
        if not self.unwanted:
            self._room.acquire()
        if self.unwanted:  # before, or it was let go for this
            return False
        self._messages.append(message)
        self._pool.tell(self._wake)
        return True

    def receive(self) -> bytes | None:
        """The client's next message, JSON; None at its end, and when nobody wants more."""
        if self.unwanted or self._client_ended:
            return None
        self._pool.tell(self._read)
        message = self._asked.get()
        self._client_ended = message is None
        return message

    def stop(self) -> None:
        """End it, from any thread: it waits for nothing any more."""
        super().stop()
        self._room.release()
        self._asked.put(None)

    # in the event loop

    def _wake(self) -> None:
        self._changed.set()

    def _read(self) -> None:
        self._reading = run_beside(self._read_one)

    async def _read_one(self) -> None:
        message: bytes | None = None
        try:
            is_json = not self._stream.binary
            async for value in self._stream.messages(msgspec.Raw if is_json else object):
                message = bytes(value) if isinstance(value, msgspec.Raw) else json_bytes(value)
                break
        finally:
            self._asked.put(message)

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """What the guest sends, to its end. Raises what it fails with."""
        while True:
            self._changed = anyio.Event()
            while self._messages:
                message = self._messages.popleft()
                yield message
                self._room.release()
            if self._settled:
                self.result()
                return
            await self._changed.wait()

    def leave(self) -> None:
        """The stream has ended, however."""
        if self._reading is not None:
            self._reading.cancel()
        self.abandon()


class Pool:
    """Threads with a guest each. Made in the event loop, which gets the answers."""

    def __init__(
        self, size: int, make: Callable[[], Guest], settings: bytes, services: Services
    ) -> None:
        self.size = size
        self.busy = 0
        self.traps = 0
        self._make = make
        self._settings = settings
        self._services = services
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._waiting = 0
        self._patience = PATIENCE
        self._impatient = 0
        self._lock = threading.Lock()
        self._told: list[Callable[[], None]] = []
        self._call_soon = loop_caller()

    @property
    def is_full(self) -> bool:
        """Would a job have to wait for others to end?"""
        with self._lock:
            return self.busy + self._waiting >= self.size

    @property
    def instances(self) -> int:
        """How many guests there are."""
        return len(self._threads)

    def execute(self, job: Job) -> bool:
        """``submit`` it, and wait a moment if it is alone and may be quick: True if it is
        settled."""
        if self._impatient:  # they are slow; after some it is tried again
            self._impatient -= 1
        elif not (self.busy or self._waiting):
            settled = job.wait_briefly(partial(self.submit, job))
            self._patience = min(PATIENCE, self._patience + 1) if settled else self._patience - 4
            if self._patience < 0:
                self._patience, self._impatient = 0, RETRY
            return settled
        self.submit(job)
        return False

    def submit(self, job: Job) -> None:
        """Have it run by the thread that is free next; one is started where none is."""
        with self._lock:
            self._waiting += 1
            wanted = self._waiting + self.busy
        if wanted > len(self._threads) < self.size:
            name = f"wasm-{len(self._threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put(job)

    def close(self) -> None:
        """Have the threads end once their jobs have; they are not waited for."""
        for _ in self._threads:
            self._jobs.put(None)

    def tell(self, function: Callable[[], None]) -> None:
        """Have ``function`` called in the event loop soon; from any thread."""
        with self._lock:
            self._told.append(function)
            first = len(self._told) == 1
        if first:
            self._call_soon(self._hear)

    def _hear(self) -> None:
        with self._lock:
            told, self._told = self._told, []
        for function in told:
            function()

    # -- in the threads -----------------------------------------------------------------

    def _work(self) -> None:
        guest: Guest | None = None
        while (job := self._jobs.get()) is not None:
            with self._lock:
                self._waiting -= 1
                self.busy += 1
            outcome: Outcome
            try:
                if guest is None:
                    guest = self._made()
                outcome = self._run(guest, job)
            except PluginError as error:  # the next call tries again
                outcome = None, error
            finally:
                with self._lock:
                    self.busy -= 1
            if not job.has_come(outcome):
                self.tell(partial(job.settle, *outcome))
            del job, outcome
        if guest is not None:
            guest.discard()

    def _made(self) -> Guest:
        """A guest of this thread's own.

        Raises:
            PluginError: there is no memory for it, or the like.
        """
        try:
            return self._make()
        except Exception as error:
            self._services.logger.error("an instance cannot be made: %s", in_one_line(error))
            said = "the plugin could not make an instance; its log says why"
            raise PluginError(StatusCode.UNAVAILABLE, said) from None

    def _run(self, guest: Guest, job: Job) -> Outcome:
        """What becomes of the job: its answer, or an error for it."""
        if not job.begin(guest):
            return None, _cancelled()
        guest.job = job
        try:
            if job.entry == "introduce":
                return guest.start(self._settings), None
            if not guest.is_there:
                self._start(guest)
            answer = guest.call(job.entry, job.operation, job.params)
            return (checked(answer) if job.entry == "execute" else answer), None
        except PluginError as error:
            return None, error
        except Exception as error:
            guest.discard()
            if job.unwanted:
                return None, _cancelled()
            self.traps += 1
            if OUT_OF_FUEL in str(error):
                said = "the call used up its fuel (plugin.wasm.fuel)"
                return None, PluginError(StatusCode.RESOURCE_EXHAUSTED, said)
            return None, error
        finally:
            job.end()
            job.log_rest(self._services)

    def _start(self, guest: Guest) -> None:
        try:
            guest.start(self._settings)
        except PluginError as error:  # what it says is for operators, not for a caller
            self._services.logger.error("a new instance would not start: %s", error.detail)
            said = "the plugin could not start an instance; its log says why"
            raise PluginError(StatusCode.UNAVAILABLE, said) from None


def json_bytes(value: object) -> bytes:
    """What came as MessagePack, as JSON.

    Raises:
        PluginError: INVALID_ARGUMENT, JSON cannot say it.
    """
    try:
        return msgspec.json.encode(value)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, TypeError) as error:
        raise PluginError(
            StatusCode.INVALID_ARGUMENT, f"the params cannot be had as JSON: {error}"
        ) from None


def _cancelled() -> PluginError:
    return PluginError(StatusCode.CANCELLED, "the call was cancelled")
