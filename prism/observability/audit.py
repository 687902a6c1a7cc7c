"""One record for every call, on disk, in lines that vouch for one another.

Theory of operation. The event loop hands its records to a thread, and never waits for it: a disk
that is full or stuck holds up nobody here. What becomes of calls then is ``fail_closed``'s: refused
before they reach the plugin, or let pass. Records that find no room are counted; that of a call
which was let pass while the log was well is never dropped.

The file is made of *chains* (``observability.audit_lines``), one for each process that writes to
it: in a rolling restart two do so side by side.

What a record costs is mostly what is the same in the next one, so that is encoded once: of whom a
line speaks, which its identity keeps, and of what, by operation, rule and outcome. The thread
encodes the rest of a batch in one go and hashes it in another, of which the interpreter's lock is
held for the first alone.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from prism.calls.call import Call
from prism.config.types import AuditConfig
from prism.contract.errors import PrismError
from prism.observability.audit_lines import (
    MAX_KEPT,
    AuditRecord,
    Chain,
    client_text,
    decision_of,
    denied_connection,
    what_text,
    who_text,
)
from prism.observability.audit_reading import last_line
from prism.observability.logs import time_text
from prism.observability.rotating_file import RotatingFile, why
from prism.streams.outlet import at_turn_end

MAX_WAITING = 50_000
"""Records that may wait to be written: some seconds of a busy proxy."""
BATCH = 500
"""Records that are encoded at a time: the loop can have to wait for as long as that takes."""
COLLECT = 0.005
"""Seconds in which records are collected before they are written."""
STUCK = 5.0
"""Seconds in which nothing could be written, after which the log has failed."""
RETRY = 0.5
"""Seconds until a write that failed is tried again."""
LAST_WRITE = 5.0
"""Seconds that the end of the proxy waits for the last records."""

log = logging.getLogger("prism.audit")


class AuditFileError(PrismError):
    """The file cannot be opened when the proxy starts."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"audit.file {path}: {why}; name a file that this user can write, or remove audit"
        )


class AuditLog:
    """Writes records to ``path``, from ``start`` until ``close``; both may block.

    ``sync_seconds`` after a record was written at the latest it is sealed, and on disk for good.
    From ``rotate_bytes`` on a file gets another name, with the time in it; of those ``keep_files``
    are kept, or all. A file that somebody else moves or deletes is opened anew. A device or a pipe
    (``/dev/stdout``) is written to as it is.

    ``written`` and ``lost`` count records; ``trouble`` says why none can be written, empty while
    they can.
    """

    def __init__(
        self,
        path: Path,
        *,
        fail_closed: bool = True,
        sync_seconds: float = 1.0,
        rotate_bytes: int = 256 * 1024 * 1024,
        keep_files: int | None = None,
        capacity: int = MAX_WAITING,
    ) -> None:
        self.path = path
        self.written = 0
        self.lost = 0
        self.trouble = ""
        self._fail_closed = fail_closed
        self._capacity = capacity
        self._turn: list[AuditRecord] = []  # of this turn of the loop
        self._waiting: list[AuditRecord] = []
        self._unwritten = 0  # waiting, or in the thread's hands
        self._busy_since: float | None = None  # when the oldest of these came, or the last write
        self._unreported = 0  # lost, and nothing in the log says so yet
        self._moment = 0
        self._text = ""
        self._outcomes: dict[tuple[str, str, int, str, bool, str], msgspec.Raw] = {}
        self._closing: float | None = None  # when the thread must have ended
        self._idle = False
        self._changed = threading.Condition()
        self._hurry = threading.Event()
        self._file = RotatingFile(path, rotate_bytes, keep_files)
        self._chain = Chain(sync_seconds)
        self._name = self._chain.name
        self._writing = threading.Thread(target=self._run, name="prism-audit", daemon=True)

    @classmethod
    def from_config(cls, config: AuditConfig) -> "AuditLog":
        """The log that ``config`` describes."""
        return cls(
            Path(config.file),
            fail_closed=config.when_it_fails == "fail_closed",
            sync_seconds=config.sync_seconds,
            rotate_bytes=config.rotate_bytes,
            keep_files=config.keep_files,
        )

    def start(self) -> None:
        """Open the file, and write from now on.

        Raises:
            AuditFileError: it cannot be opened.
        """
        try:
            previous = last_line(self.path)
            self._file.open()
            self._file.add(self._chain.opened(previous))
            self._file.write()
        except OSError as error:
            self._file.close()
            raise AuditFileError(self.path, why(error)) from error
        self._writing.start()

    # -- the event loop's side --------------------------------------------------

    def refusal(self) -> str:
        """Why no call may begin now; empty if it may."""
        if not self._fail_closed:
            return ""
        return self.trouble or self._stall()

    @property
    def is_failing(self) -> bool:
        """Whether records cannot be written now."""
        return bool(self.trouble or self._stall())

    def _stall(self) -> str:
        if self._unwritten >= self._capacity:
            return f"{self._unwritten} records wait to be written"
        since = self._busy_since
        if since is not None and time.monotonic() - since > STUCK:
            return f"nothing could be written for {STUCK:g} s"
        return ""

    def add(self, call: Call, seconds: float) -> None:
        """Record ``call``, which ended after ``seconds``."""
        if self._unwritten >= self._capacity and self._fail_closed and call.plugin_seconds is None:
            # It has not run, and such calls go on coming for as long as the log takes none.
            with self._changed:
                self.lost += 1
                self._unreported += 1
            return
        turn = self._turn
        if not turn:  # one time for all of a turn
            milliseconds = int(time.time() * 1000)
            if milliseconds != self._moment:
                self._moment = milliseconds
                self._text = time_text(milliseconds)
        exchange = getattr(call, "exchange", None)
        who = call.identity.audited
        turn.append(
            AuditRecord(
                0,
                self._name,
                self._text,
                call.request_id,
                int(seconds * 1e6) / 1000,
                who_text(call.identity) if who is None else who,
                self._outcome(call),
                msgspec.UNSET if exchange is None else client_text(exchange.peer.client),
            )
        )
        if len(turn) == 1:
            at_turn_end(self)

    def deny_connection(self, namespace: str, instance: str, what: str) -> None:
        """Record that the process of a plugin's ``instance`` was denied a connection."""
        who, said = denied_connection(namespace, instance, what)
        text = time_text(int(time.time() * 1000))
        self._turn.append(AuditRecord(0, self._name, text, "", 0.0, who, said, msgspec.UNSET))
        if len(self._turn) == 1:
            at_turn_end(self)

    def _outcome(self, call: Call) -> msgspec.Raw:
        """What was decided and done about ``call``: the same for most calls of an operation."""
        decision, target = call.decision, call.target
        if call.reason or call.plugin_seconds is None or target is None:
            return what_text(call, *decision_of(call))
        if (call.retries or call.hedge is not None) and call.attempts > 1:
            return what_text(call, *decision_of(call))
        if decision is not None:
            row = decision.grants.get(call.needs)
            rule = "dry_run" if row is None else row.place
        elif target.access is None:
            rule = "open"
        else:
            return what_text(call, *decision_of(call))
        key = (
            call.operation,
            rule,
            call.http_status,
            call.instance_id,
            call.stream is None,
            call.namespace,
        )
        found = self._outcomes.get(key)
        if found is None:
            if len(self._outcomes) >= MAX_KEPT:
                self._outcomes.clear()
            found = self._outcomes[key] = what_text(call, "allow", rule)
        return found

    def flush(self) -> None:
        """Hand over the records of this turn; those that find no room are lost, if calls are let
        pass without."""
        records, self._turn = self._turn, []
        with self._changed:
            if not self._fail_closed:
                room = max(self._capacity - self._unwritten, 0)
                missed = len(records) - len(records[:room])
                self.lost += missed
                self._unreported += missed
                records = records[:room]
            if not records:
                return
            if self._busy_since is None:
                self._busy_since = time.monotonic()
            self._unwritten += len(records)
            self._waiting += records
            if self._idle:
                self._changed.notify()

    @property
    def chain(self) -> str:
        """The name of the chain that is written."""
        return self._chain.name

    @property
    def waiting(self) -> int:
        """Records that are not written yet."""
        return self._unwritten

    def close(self) -> None:
        """Write what waits, and end; waits for ``LAST_WRITE`` seconds at most."""
        if self._turn:
            self.flush()
        with self._changed:
            self._closing = time.monotonic() + LAST_WRITE
            self._changed.notify()
        self._hurry.set()
        self._writing.join(LAST_WRITE + 1)
        if self._unwritten:
            log.error("%s: %d records could not be written", self.path, self._unwritten)

    # -- the thread ---------------------------------------------------------------

    def _run(self) -> None:
        is_over = False
        while not is_over:
            records, lost = self._take()
            if lost:
                self._file.add(self._chain.lost(lost))
            if records:
                self._file.add(self._chain.lines(records))
                self._attempt(self._file.write)
            if self._chain.seal_in() == 0:
                self._seal()
            with self._changed:
                self._unwritten -= len(records)
                self._unreported -= lost
                self._busy_since = time.monotonic() if self._unwritten else None
                self.written += len(records)
                is_over = self._closing is not None and not self._waiting
        self._file.add(self._chain.closed())
        self._seal()
        self._file.close()

    def _seal(self) -> None:
        self._file.add(self._chain.seal())
        self._attempt(self._file.write)
        self._attempt(self._file.sync)
        if self._file.rotate():
            log.info("%s begins anew; before is %s", self.path, self._chain)

    def _take(self) -> tuple[list[AuditRecord], int]:
        """The next records, and how many were lost before them; empty when it is time for a seal,
        or the end."""
        with self._changed:
            self._idle = True
            while not self._waiting and self._closing is None:
                if not self._changed.wait(self._chain.seal_in()):
                    break
            self._idle = False
            few = 0 < len(self._waiting) < BATCH
        if few:
            self._hurry.wait(COLLECT)
        with self._changed:
            taken = self._waiting[:BATCH]
            del self._waiting[:BATCH]
            return taken, self._unreported

    def _attempt(self, step: Callable[[], None]) -> None:
        """Do ``step``, again and again until the disk lets it; it goes on where it was."""
        while True:
            try:
                step()
            except OSError as error:
                if not self.trouble:
                    then = "calls are refused" if self._fail_closed else "calls go on without"
                    log.error("%s: %s; until it can be written, %s", self.path, why(error), then)
                self.trouble = f"{self.path.name} cannot be written: {why(error)}"
            else:
                if self.trouble:
                    log.warning("%s can be written again", self.path)
                self.trouble = ""
                return
            self._hurry.wait(RETRY)
            if self._closing is not None:
                if time.monotonic() >= self._closing:
                    return
                time.sleep(RETRY / 10)
