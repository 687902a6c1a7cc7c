"""Recordings: a namespace's calls as JSON lines, written by a thread, and read again for a replay.

Each line is a call by itself, so that a file whose end is missing, or that two processes have
written to in a rolling restart, is read all the same. ``values: redact`` keeps the shape of params
and results, since what is of use without the values is how large they are: texts are as long, and
lists too, numbers are 0. Keys of objects are kept where the operation's schemas declare them as
properties, and else are numbers.

The event loop hands records over and goes on. What finds no room, because the disk is slow or
full, is dropped and counted.
"""

import hashlib
import logging
import os
import secrets
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from prism.calls.comparison import Names, declared_names
from prism.calls.policies.record import Recorded
from prism.config.fields import Name, OperationName
from prism.config.types import RecordConfig
from prism.contract.messages import OperationAccess, OperationDeclaration
from prism.contract.status import StatusCode
from prism.observability.rotating_file import RotatingFile, why

MAX_WAITING = 10_000
"""Records that may wait to be written."""
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Bytes of params and results that may."""
MAX_RECORD = 2 * 1024 * 1024
"""Bytes of params and result of a call that is recorded; to redact more would hold others up."""
BATCH = 50
"""Records that are encoded at a time."""
COLLECT = 0.05
"""Seconds in which records are collected before they are written."""
RETRY = 0.5
"""Seconds until a write that failed is tried again."""
LAST_WRITE = 2.0
"""Seconds that the last records may take once the recording ends."""
OVERHEAD = 512
"""Bytes that are counted for a record beside its params and its result."""

log = logging.getLogger("prism.recording")

_encode = msgspec.json.Encoder().encode


class RecordedCall(msgspec.Struct, omit_defaults=True):
    """A line. ``time`` is when the call began, as Unix time; ``seconds`` what the plugin took.

    ``params`` and ``result`` are JSON; MessagePack is in ``params_raw`` and ``result_raw``, in
    base64. Of a call that failed there is a ``status`` and no result; ``reason`` is the proxy's,
    where the plugin has not answered. ``writes``: it may have changed something. ``principal`` is
    not the name, and the same for the calls of one principal until the recording begins anew, as
    with a restart or another ``record``. ``redacted``: values are not those that there were.
    """

    v: int
    time: float
    namespace: Name
    operation: OperationName
    id: str
    seconds: float
    status: str = "OK"
    writes: bool = False
    redacted: bool = False
    params: msgspec.Raw = msgspec.Raw(b"{}")
    params_raw: bytes = b""
    result: msgspec.Raw = msgspec.Raw(b"null")
    result_raw: bytes = b""
    error: str = ""
    reason: str = ""
    principal: str = ""
    instance: str = ""
    metadata: dict[str, str] = {}


VERSION = 1


def changes_something(declared: OperationDeclaration | None) -> bool:
    """May a call of the operation leave something behind? What is not declared may."""
    return declared is None or declared.access is not OperationAccess.READ


# -- writing ----------------------------------------------------------------------------


class Recordings:
    """The recordings of one proxy's namespaces."""

    def __init__(self) -> None:
        self._open: list[RecordLog] = []

    def open(self, namespace: str, config: RecordConfig) -> "RecordLog":
        """Begin a recording."""
        self._open = [each for each in self._open if each.is_alive]
        recording = RecordLog(namespace, config)
        self._open.append(recording)
        return recording

    def close(self) -> None:
        """End them all; waits for ``LAST_WRITE`` seconds, and one, at most. Blocks."""
        until = time.monotonic() + LAST_WRITE + 1
        for each in self._open:
            each.close()
        for each in self._open:
            each.wait_closed(until - time.monotonic())


class RecordLog:
    """Writes the records of a namespace, from now until ``close``."""

    def __init__(self, namespace: str, config: RecordConfig, capacity: int = MAX_WAITING) -> None:
        self.written = 0
        self.dropped = 0
        self.trouble = ""
        self._namespace = namespace
        self._redacts = config.values == "redact"
        self._capacity = capacity
        self._waiting: list[Recorded] = []
        self._unwritten = 0  # waiting, or in the thread's hands
        self._bytes = 0
        self._has_told = False
        self._closing: float | None = None  # when the thread must have ended
        self._changed = threading.Condition()
        self._hurry = threading.Event()
        self._key = secrets.token_bytes(16)
        self._names: dict[str, tuple[OperationDeclaration | None, Names]] = {}
        self._file = RotatingFile(
            Path(config.file), config.max_bytes, config.keep_files, private=True
        )
        self._thread = threading.Thread(target=self._run, name="prism-record", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Records that are not written yet."""
        return self._unwritten

    @property
    def is_alive(self) -> bool:
        """Does its thread run?"""
        return self._thread.is_alive()

    def add(self, record: Recorded) -> None:
        """Take a record, or drop it where there is no room. Never waits."""
        size = _size(record)
        with self._changed:
            if (
                self._closing is not None
                or self._unwritten >= self._capacity
                or self._bytes + size > MAX_WAITING_BYTES
                or size > MAX_RECORD
            ):
                self.dropped += 1
                return
            self._unwritten += 1
            self._bytes += size
            self._waiting.append(record)
            if len(self._waiting) == 1:
                self._changed.notify()

    def close(self) -> None:
        """No more come: write what waits. Does not wait for that."""
        with self._changed:
            if self._closing is None:
                self._closing = time.monotonic() + LAST_WRITE
            self._changed.notify()
        self._hurry.set()

    def wait_closed(self, seconds: float = LAST_WRITE + 1) -> None:
        """Wait until all is written, or the time for that is over."""
        self._thread.join(max(seconds, 0))

    # -- the thread -----------------------------------------------------------------

    def _run(self) -> None:
        while batch := self._take():
            encoded = [line for record in batch if (line := self._encoded(record))]
            self._file.add(b"".join(encoded))
            written = len(encoded) if self._write() else 0
            with self._changed:
                self._unwritten -= len(batch)
                self._bytes -= sum(map(_size, batch))
                self.written += written
                self.dropped += len(batch) - written
            self._file.rotate()
        self._file.close()

    def _take(self) -> list[Recorded]:
        """The next records; none at the end."""
        with self._changed:
            while not self._waiting and self._closing is None:
                self._changed.wait()
            few = len(self._waiting) < BATCH
        if few:
            self._hurry.wait(COLLECT)
        with self._changed:
            taken = self._waiting[:BATCH]
            del self._waiting[:BATCH]
            return taken

    def _write(self) -> bool:
        """Write what was added, however often that has to be tried; not beyond the end."""
        while True:
            try:
                self._file.write()
            except OSError as error:
                if not self.trouble:
                    log.error(
                        "%s: %s; the calls of namespace %s that find no room until it can be "
                        "written are not recorded", self._file.path, why(error), self._namespace,
                    )  # fmt: skip
                self.trouble = f"{self._file.path} cannot be written: {why(error)}"
            else:
                if self.trouble:
                    log.warning("%s can be written again", self._file.path)
                self.trouble = ""
                return True
            self._hurry.wait(RETRY)
            if self._closing is not None:
                if time.monotonic() >= self._closing:
                    return False
                time.sleep(RETRY / 10)

    def _encoded(self, record: Recorded) -> bytes:
        """Its line; empty, and told once, if there can be none."""
        try:
            return _encode(self._line(record)) + b"\n"
        except Exception as error:  # no call, whatever is in it, may end the recording
            if not self._has_told:
                self._has_told = True
                log.error(  # without its words, which may have values in them
                    "a call of namespace %s cannot be recorded (%s); such calls are left out of %s",
                    self._namespace, type(error).__name__, self._file.path,
                )  # fmt: skip
            return b""

    def _line(self, record: Recorded) -> RecordedCall:
        response, error = record.response, record.error
        line = RecordedCall(
            v=VERSION,
            time=record.began,
            namespace=record.namespace,
            operation=record.operation,
            id=record.request_id,
            seconds=record.seconds,
            writes=changes_something(record.declared),
            redacted=self._redacts,
            principal=self._pseudonym(record.principal),
            instance=record.instance,
        )
        if response is None:
            line.status = error.status.name if error is not None else StatusCode.UNKNOWN.name
            line.reason = error.reason if error is not None else ""
        elif not response.success:
            status = StatusCode.from_wire(response.error_code) or StatusCode.UNKNOWN
            line.status = status.name
            line.error = "" if self._redacts else _encodable(response.error)
        names = self._names_of(record.operation, record.declared)
        shape = Shape(names) if self._redacts else None
        line.metadata = _metadata(record.metadata, hide=self._redacts)
        line.params, line.params_raw = _both(bytes(record.params), record.raw, shape)
        if response is not None and response.success:
            text = response.result_json.encode(errors="replace")
            line.result, line.result_raw = _both(text, response.result_raw, shape)
        return line

    def _pseudonym(self, principal: str) -> str:
        return hashlib.blake2b(
            principal.encode(errors="replace"), digest_size=6, key=self._key
        ).hexdigest()

    def _names_of(self, operation: str, declared: OperationDeclaration | None) -> Names:
        """The names that are kept, found once for each declaration."""
        found = self._names.get(operation)
        if found is None or found[0] is not declared:
            found = self._names[operation] = (declared, declared_names(declared))
        return found[1]


def _size(record: Recorded) -> int:
    size = len(record.params) + len(record.raw) + OVERHEAD
    response = record.response
    return size if response is None else size + len(response.result_json) + len(response.result_raw)


def _metadata(metadata: dict[str, str] | None, *, hide: bool) -> dict[str, str]:
    if not metadata:
        return {}
    if hide:  # their names, too: a client chooses them, and nothing declares them
        return {f"*{number}": "x" * len(text) for number, text in enumerate(metadata.values(), 1)}
    return {_encodable(name): _encodable(text) for name, text in metadata.items()}


def _encodable(text: str) -> str:
    """``text`` as UTF-8 can say it: half a surrogate pair, as in names of files, is a ``?``."""
    return text.encode(errors="replace").decode()


def _both(text: bytes, raw: bytes, shape: "Shape | None") -> tuple[msgspec.Raw, bytes]:
    """Params or a result as JSON on one line, or as MessagePack."""
    try:
        if raw:
            if shape is not None:
                raw = msgspec.msgpack.encode(shape.of(msgspec.msgpack.decode(raw)))
            return msgspec.Raw(b"null"), raw
        text = text or b"{}"
        if shape is None:
            return msgspec.Raw(msgspec.json.format(text, indent=-1)), b""
        return msgspec.Raw(_encode(shape.of(msgspec.json.decode(text)))), b""
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
        return msgspec.Raw(b"null"), b""  # no JSON, or too deep: there is no shape to keep


class Shape:
    """Takes the values out of data: what is left has the same types and lengths."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def of(self, value: Any) -> Any:
        """The shape of ``value``. Raises RecursionError: it is too deep."""
        match value:
            case None:
                return None
            case bool():
                return False
            case int():
                return 0
            case float():
                return 0.0
            case str():
                return "x" * len(value)
            case bytes():
                return bytes(len(value))
            case list():
                return [self.of(each) for each in value]
            case dict():
                return {
                    self._names.shown(str(key), number): self.of(each)
                    for number, (key, each) in enumerate(value.items(), 1)
                }
            case _:
                return None


# -- reading ----------------------------------------------------------------------------


class Reader:
    """Reads a recording; ``skipped`` counts lines that are no calls, as one that was torn."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decode = msgspec.json.Decoder(RecordedCall).decode
        self.skipped = 0

    def calls(self) -> Iterator[RecordedCall]:
        """The calls, in the file's order: those that are there now, for a replay against the
        namespace that is recorded adds others. Raises OSError: it cannot be read."""
        with self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            left = status.st_size if stat.S_ISREG(status.st_mode) else sys.maxsize  # a pipe
            while left > 0 and (line := file.readline(left)):
                left -= len(line)
                try:
                    call = self._decode(line.decode())  # what is raw in it, too, is UTF-8 then
                except (msgspec.MsgspecError, UnicodeError, RecursionError):
                    self.skipped += 1
                    continue
                if call.v == VERSION:
                    yield call
                else:
                    self.skipped += 1
