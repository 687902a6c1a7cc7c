"""How log lines look: for people on a terminal, as JSON lines everywhere else."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from textwrap import indent
from types import TracebackType
from typing import Any, TextIO

import msgspec

from prism.observability.log_writer import LogWriter
from prism.supervision.events import attribute

_encode = msgspec.json.Encoder(enc_hook=str).encode
_RESET = "\x1b[0m"
_DIM = "\x1b[2m"
_COLOURS = {
    logging.DEBUG: _DIM,
    logging.INFO: "\x1b[32m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[1;31m",
}
# A control character in a message could rewrite the terminal or fake a line.
_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_ESCAPED_BUT_NEWLINE = {code: text for code, text in _ESCAPED.items() if code != ord("\n")}


def time_text(milliseconds: int) -> str:
    """A Unix time as log lines have it."""
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


def _time(record: logging.LogRecord) -> str:
    return time_text(int(record.created) * 1000 + int(record.msecs))


@lru_cache(maxsize=1)
def _second(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class JSONFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, pid, and the record's ``fields``.

    The pid tells the lines of a process from its successor's. Records of plugins have a pid of
    their own among their fields, which counts.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": os.getpid(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        try:
            return _encode(entry).decode()
        except UnicodeEncodeError:  # text with half of a surrogate pair
            return json.dumps(entry, default=str)


class ConsoleFormatter(logging.Formatter):
    """One line for people: time, level, logger, message, ``name=value`` for each field.

    What a message or an exception has beyond its first line follows, indented: so no text
    of a plugin's or a client's can look like a line of ours.
    """

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The line and what belongs to it, without the last line's end."""
        level = f"{record.levelname:<8}"
        time = _time(record)
        if self._colour:
            level = f"{_COLOURS.get(record.levelno, '')}{level}{_RESET}"
            time = f"{_DIM}{time}{_RESET}"
        fields = "".join(
            f" {name}={value}"
            for name, value in getattr(record, "fields", {}).items()
            if value not in {"", None}
        )
        first, _, more = record.getMessage().partition("\n")
        line = f"{time} {level} {record.name}: {(first + fields).translate(_ESCAPED)}"
        if record.exc_info:
            more += ("\n" if more else "") + self.formatException(record.exc_info)
        if more:
            line += "\n" + indent(more.translate(_ESCAPED_BUT_NEWLINE), "    ", lambda _: True)
        return line


INDISCREET = ("hpack", "h2", "httpcore", "httpx", "trio-websocket", "wsproto")
"""Libraries that tell, at DEBUG, what passes through them: the credentials of clients in header
fields, values in messages. Nobody hears less than a warning from them."""


def setup_logging(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send log lines, of libraries too but for ``INDISCREET``, to ``stream`` (standard error).

    No reader of a real file or pipe can hold up who logs; see ``LogWriter``.
    ``level`` and ``form`` are the values of ``LogConfig``: ``auto`` is
    ``console`` on a terminal and ``json`` elsewhere. Uncaught exceptions and
    warnings are logged as well. Calling it again replaces the earlier set-up.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream is not None and stream.isatty()
    handler = _handler(stream)
    handler.addFilter(attribute)
    if form == "json" or (form == "auto" and not terminal):
        handler.setFormatter(JSONFormatter())
    else:
        handler.setFormatter(ConsoleFormatter(colour=terminal and _wants_colour(os.environ)))
    # No format shows them, and looking them up is a good part of a line's cost.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    earlier = [present for present in root.handlers if isinstance(present, LogWriter)]
    root.handlers[:] = [handler]
    for writer in earlier:
        writer.flush()
        writer.close()
    root.setLevel(level.upper())
    for name in INDISCREET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught


def _wants_colour(environment: Mapping[str, str]) -> bool:
    """Not with NO_COLOR (https://no-color.org), nor on a terminal that knows no colours."""
    return "NO_COLOR" not in environment and environment.get("TERM") != "dumb"


def _handler(stream: TextIO | None) -> logging.Handler:
    if stream is None:  # the process was started without a standard error
        return logging.NullHandler()
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # in memory, as tests have it
        return logging.StreamHandler(stream)
    stream.flush()
    return LogWriter(descriptor)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    logging.getLogger("prism").critical(
        "ended by an uncaught exception", exc_info=(kind, error, traceback)
    )
