"""Log lines are written by a thread of their own, so that no reader can hold up the proxy.

Standard error is often a pipe, and ``write`` to a pipe waits for as long as its
reader is slow, stopped or stuck; so does a terminal after Ctrl-S, or a failing
disk. Lines therefore wait in memory, up to a bound. Beyond it they are dropped
and counted, and the count is logged as soon as lines can be written again.

Lines leave some milliseconds late: a busy proxy then pays for one write, and one
change of threads, per many lines. The standard library's QueueListener writes each by
itself, at 1.8 times the CPU, and its queue counts records, not bytes.
"""

import logging
import os
import select
import threading
from collections import deque

MAX_WAITING = 4 * 1024 * 1024
"""Bytes of lines that wait to be written: some ten thousand requests."""
MAX_WRITE = 64 * 1024
"""Bytes handed to the kernel at a time: what a pipe holds."""
WRITE_INTERVAL = 0.005
"""Seconds in which lines are collected before they are written."""
FLUSH_TIMEOUT = 1.0
"""Seconds that the end of the process waits for the last lines to leave."""


class LogWriter(logging.Handler):
    """Writes lines to ``descriptor``, never blocking who logs. ``dropped`` counts lost lines."""

    def __init__(self, descriptor: int, capacity: int = MAX_WAITING) -> None:
        super().__init__()
        self.dropped = 0
        self._descriptor = descriptor
        self._capacity = capacity
        self._lines: deque[bytes] = deque()  # each entry is one line or more
        self._waiting = 0
        self._missed = 0  # dropped, and nothing in the log says so yet
        self._idle = False
        self._closed = False
        self._changed = threading.Condition()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prism-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line, or drop it where there is no room; never blocks."""
        try:
            line = self._line(record)
        except Exception:
            self.handleError(record)
            return
        self.write(line, warns=record.levelno >= logging.WARNING)

    def write(self, lines: bytes, *, count: int = 1, warns: bool = False) -> None:
        """Queue ``count`` whole lines, or drop them where there is no room; never blocks.

        Lines that do not warn leave half of the room to those that may say what is wrong.
        """
        room = self._capacity if warns else self._capacity // 2
        with self._changed:
            if self._waiting + len(lines) > room:
                self._missed += count
                self.dropped += count
                return
            if self._missed:
                self._add(self._notice())
            self._add(lines)
            if self._idle:
                self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything is written, at most ``FLUSH_TIMEOUT`` seconds."""
        self._hurry.set()
        with self._changed:
            self._changed.wait_for(lambda: self._idle and not self._lines, FLUSH_TIMEOUT)
        self._hurry.clear()

    def close(self) -> None:
        """End the thread once everything is written; ``logging`` flushes before it closes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        super().close()

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _notice(self) -> bytes:
        text = f"{self._missed} log lines were dropped: nobody read them in time"
        self._missed = 0
        return self._line(logging.makeLogRecord({
            "name": "prism.log", "levelname": "WARNING", "levelno": logging.WARNING, "msg": text,
        }))  # fmt: skip

    def _add(self, line: bytes) -> None:
        self._lines.append(line)
        self._waiting += len(line)

    def _run(self) -> None:
        while self._wait_for_lines():
            if self._waiting < MAX_WRITE:
                self._hurry.wait(WRITE_INTERVAL)
            self._write(self._take())

    def _wait_for_lines(self) -> bool:
        """Wait for something to write; False once there is nothing more to come."""
        with self._changed:
            if self._missed and not self._lines:
                self._add(self._notice())
            while not self._lines:
                self._idle = True
                self._changed.notify_all()  # those who flush
                if self._closed:
                    return False
                self._changed.wait()
            self._idle = False
        return True

    def _take(self) -> bytes:
        with self._changed:
            taken = [self._lines.popleft()]
            size = len(taken[0])
            while self._lines and size + len(self._lines[0]) <= MAX_WRITE:
                taken.append(self._lines.popleft())
                size += len(taken[-1])
            self._waiting -= size
        return b"".join(taken)

    def _write(self, text: bytes) -> None:
        rest = memoryview(text)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process that shares the descriptor made it so
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:  # the reader is gone or the disk full; later lines may fare better
                self.dropped += bytes(rest).count(b"\n")
                return


def dropped_lines() -> int:
    """Log lines lost since the start of the process."""
    handlers = logging.getLogger().handlers
    return sum(handler.dropped for handler in handlers if isinstance(handler, LogWriter))
