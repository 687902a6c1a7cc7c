"""Holds every frame of a plugin to the rules that hold in each case."""

import json
import math
from typing import Any

import msgspec

from prism.contract.errors import RemoteProtocolError
from prism.contract.messages import Message
from prism.contract.redaction import Redaction
from prism.contract.service import RESPONSE_TYPE, Method
from prism.sdk.conformance.rules import watched
from prism.wire import codecs
from prism.wire.events import MAX_LOG_RECORDS, GoAwayReason, LongNote
from prism.wire.frames import ACK, END, HEADER_SIZE, Codec, Frame, FrameType

HEADER = watched(
    "frame-header",
    "3",
    "the headers of its frames are right",
    "`stream` is the call's id, 0 for frames about the connection itself.",
    "Send only the types 1 to 9; HELLO, PING, GOAWAY and NOTE on stream 0, the others on the "
    "call's id; CANCEL, CREDIT and PING without a payload.",
)
LENGTH = watched(
    "frame-length",
    "12",
    "no payload is longer than the host takes",
    "the reader's `max_frame`",
    "Compare the payload's length with max_frame of the host's HELLO before you send; a response "
    "that does not fit is replaced by CLOSE with RESOURCE_EXHAUSTED and the flag TOO_LARGE.",
)
CODEC = watched(
    "payload-codec",
    "3",
    "payloads are in the codec that was settled",
    "Every payload but those of HELLO and GOAWAY must be in the codec that the handshake settled.",
    "Write 1 (JSON) or 2 (MessagePack) into byte 10, as `codec` of the host's HELLO says.",
)
MESSAGE = watched(
    "payload-message",
    "3",
    "payloads are messages",
    "A message is one JSON object (UTF-8) or one MessagePack map with string keys; nothing "
    "follows it.",
    "Send one object with the fields of section 7, each of its type, and nothing after it.",
)
ONE_CLOSE = watched(
    "one-close",
    "5",
    "nothing follows the CLOSE of a call",
    "**There is exactly one CLOSE for every OPEN**",
    "Mark a call as closed when its CLOSE is written, and send nothing more of it.",
)
NEVER_OPENED = watched(
    "never-opened",
    "5",
    "it sends frames only for calls that were opened",
    "A frame for a call that was *never opened* breaks the protocol.",
    "Use the id of the OPEN that you answer.",
)
ERROR_CODE = watched(
    "error-code",
    "5",
    "the status of a CLOSE is the response's error_code",
    "`aux` is the [status](#11-errors), and the same as the response's `error_code` where it has "
    "one.",
    "Write the same number into aux of the CLOSE and into error_code.",
)
STATUS = watched(
    "status-known",
    "11",
    "statuses are of the table",
    "Numbers above 16 are read as UNKNOWN.",
    "Use a number of the table, 0 to 16.",
    "should",
)
SENTENCE = watched(
    "error-sentence",
    "11",
    "a call that failed says why",
    "and a sentence in `error` that clients may see",
    "Write a sentence into `error` for every status but OK; after a CANCEL, or with TOO_LARGE, it "
    "may be missing.",
    "should",
)
SUCCESS = watched(
    "success-and-status",
    "7",
    "success and status say the same",
    'A success needs `"success": true` *and* status OK in CLOSE.',
    'Close with status 0 and "success": true, or with another status and neither.',
)
RESULT_JSON = watched(
    "result-json",
    "7",
    "results are JSON",
    "`params_json` and `result_json` are *strings that contain JSON*",
    "Write result_json with a JSON encoder: one value, no NaN or Infinity, valid escapes.",
)
NO_DATA = watched(
    "no-data-for-unary",
    "6",
    "calls without a stream have no DATA",
    "All other methods have no DATA",
    "Put the whole answer into the CLOSE of any method but ExecuteStream.",
)
AFTER_END = watched(
    "no-data-after-end",
    "6",
    "nothing but the CLOSE follows END",
    "`END` on OPEN or DATA: the sender sends no more messages on this call (half-close).",
    "Set END on the last DATA only, or leave it out: CLOSE ends the stream.",
)
CREDIT = watched(
    "credit-obeyed",
    "6",
    "it sends DATA only while it has credit",
    "A sender may send while its credit is above 0 (so the last one may take it below), and must "
    "wait otherwise.",
    "Begin each call with `window` of the host's HELLO; take 16 + length for each DATA; wait while "
    "it is 0 or below, and add what CREDIT brings.",
)
PONG = watched(
    "ping-token",
    "8",
    "a PING is answered once, with its token",
    "Answer at once with the same token in `aux` and\nthe flag `ACK`.",
    "Send one PING with the flag ACK (4) and the aux of the PING; never answer one with ACK.",
)
NOTE = watched(
    "note-fields",
    "8",
    "what its NOTEs tell can be read",
    "`level` is DEBUG, INFO, WARNING or ERROR; `time` is Unix seconds; at most 1,000 records in "
    "one NOTE",
    "Use these levels, seconds since 1970 as a number, and several NOTEs for many records.",
)
HELLO_ONCE = watched(
    "hello-once",
    "10",
    "HELLO comes once",
    "A frame that has no entry in the state's row\nbreaks the protocol; sending one is a bug.",
    "Say HELLO when the connection begins, and never again on it.",
)
ITS_CALLS = watched(
    "ids-even",
    "5",
    "calls of the plugin's own have even ids",
    "a plugin would\nuse even numbers",
    "The host offers no methods: open no calls.",
)
SECRETS = watched(
    "no-secrets",
    "13",
    "no credential is in what it says",
    "Do not log them, or write them into errors or details.",
    "Take credentials out of the messages of drivers before you pass them on, and do not log "
    "Initialize.",
)

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
MAX_FOUND = 20
"""Violations that are kept of one connection."""


def kind_name(kind: int) -> str:
    """A frame type's name."""
    try:
        return FrameType(kind).name
    except ValueError:
        return f"type {kind}"


class Found(msgspec.Struct, frozen=True):
    """A frame that broke a rule that is watched."""

    rule: str
    what: str


class _Call:
    def __init__(self, method: int, window: int) -> None:
        self.method = method
        self.credit = window
        self.closed = False
        self.ended = False
        self.cancelled = False


class Watch:
    """What the host knows of a connection. ``found`` are the violations; ``applied`` the rules to
    which at least one frame was held."""

    def __init__(self, redaction: Redaction, max_frame: int, window: int) -> None:
        self.found: list[Found] = []
        self.applied: set[str] = set()
        self._redaction = redaction
        self._max_frame = max_frame
        self._window = window
        self._codec = Codec.NONE
        self._calls: dict[int, _Call] = {}
        self._tokens: dict[int, int] = {}
        self._hellos = 0

    def _find(self, rule: str, what: str) -> None:
        if len(self.found) < MAX_FOUND:
            self.found.append(Found(rule, self._redaction.text(what)))

    def _hold(self, rule: str, holds: object, what: str) -> bool:
        """Hold a frame to ``rule``; whether it does."""
        self.applied.add(rule)
        if not holds:
            self._find(rule, what)
        return bool(holds)

    # -- what the host did ----------------------------------------------------

    def settled(self, codec: Codec, _offer: dict[str, Any]) -> None:
        """The host has chosen a codec."""
        self._codec = codec

    def opened(self, stream: int, method: int) -> None:
        """The host opens a call."""
        self._calls.setdefault(stream, _Call(method, self._window))

    def cancelled(self, stream: int) -> None:
        """The host cancels a call."""
        if stream in self._calls:
            self._calls[stream].cancelled = True

    def gave_credit(self, stream: int, size: int) -> None:
        """The host gives credit."""
        self._calls[stream].credit += size

    def pinged(self, token: int) -> None:
        """The host sends a PING, whose answer is awaited."""
        self._tokens[token] = self._tokens.get(token, 0) + 1

    def credit_of(self, stream: int) -> int:
        """What the plugin may send on a stream, in bytes."""
        return self._calls[stream].credit

    def has_found(self, rule: str) -> bool:
        """Was ``rule`` broken on this connection?"""
        return any(each.rule == rule for each in self.found)

    @property
    def has_closed(self) -> bool:
        """Has a call got its CLOSE?"""
        return any(call.closed for call in self._calls.values())

    @property
    def opened_calls(self) -> list[int]:
        """The ids of all calls."""
        return list(self._calls)

    @property
    def open_calls(self) -> list[int]:
        """The calls without their CLOSE."""
        return [stream for stream, call in self._calls.items() if not call.closed]

    # -- what the plugin sent -------------------------------------------------

    def broken(self, what: str) -> None:
        """The plugin's bytes are no frames."""
        self._hold(HEADER, False, what)

    def received(self, frame: Frame) -> None:
        """Hold a frame to the rules."""
        self.applied.add(HEADER)
        name = kind_name(frame.kind)
        if frame.kind != FrameType.HELLO:  # of which both sides take 64 KiB
            what = f"{name} of {len(frame.payload)} bytes; the host takes {self._max_frame}"
            self._hold(LENGTH, len(frame.payload) <= self._max_frame, what)
        if frame.kind == FrameType.HELLO:
            self._hellos += 1
            self._hold(HELLO_ONCE, self._hellos == 1, "a second HELLO")
        elif frame.kind == FrameType.GOAWAY:
            self._parse(frame, GoAwayReason, Codec.JSON)
        elif frame.kind == FrameType.PING:
            self._ping(frame)
        elif frame.kind == FrameType.NOTE:
            self._note(frame)
        elif frame.kind == FrameType.OPEN:
            even = frame.stream % 2 == 0
            self._hold(ITS_CALLS, even, f"OPEN {frame.stream} of the plugin: its ids are even")
        else:
            self._of_call(frame, name)

    def _ping(self, frame: Frame) -> None:
        if frame.flags & ACK:
            left = self._tokens.get(frame.aux, 0)
            what = f"PING with ACK and token {frame.aux}, for which there was no PING"
            if self._hold(PONG, left > 0, what):
                self._tokens[frame.aux] = left - 1

    def _parse(self, frame: Frame, kind: type[msgspec.Struct], codec: Codec) -> Any:
        name = kind_name(frame.kind)
        if not frame.payload:
            return None
        if frame.kind != FrameType.GOAWAY:
            what = f"{name} whose payload says codec {frame.codec}; settled was {int(codec)}"
            if not self._hold(CODEC, frame.codec == codec, what):
                return None
        try:
            message = codecs.decode(codec, kind, frame.payload)
        except RemoteProtocolError as error:
            self._hold(MESSAGE, False, f"{name}: {error}")
            return None
        self.applied.add(MESSAGE)
        said = {**msgspec.to_builtins(message), "result_json": "", "result_raw": b""}
        text = repr(said)
        what = f"{name} {frame.stream}: {text}"  # which is redacted
        self._hold(SECRETS, self._redaction.text(text) == text, what)
        return message

    def _note(self, frame: Frame) -> None:
        note = self._parse(frame, LongNote, self._codec)
        if note is None:
            return
        records = len(note.logs)
        what = f"a NOTE with {records} log records; the most is {MAX_LOG_RECORDS}"
        self._hold(NOTE, records <= MAX_LOG_RECORDS, what)
        for record in note.logs[:MAX_LOG_RECORDS]:
            what = f"a log record of level {record.level!r}; there are {', '.join(LEVELS)}"
            self._hold(NOTE, record.level in LEVELS, what)
            sound = math.isfinite(record.time) and record.time >= 0
            # Seconds of the year 5138: milliseconds are above it.
            what = f"a log record's time is {record.time:g}; it is in seconds since 1970"
            self._hold(NOTE, sound and record.time < 1e11, what)

    def _of_call(self, frame: Frame, name: str) -> None:
        call = self._calls.get(frame.stream)
        what = f"{name} for call {frame.stream}, which was never opened"
        if not self._hold(NEVER_OPENED, call is not None, what) or call is None:
            return
        what = f"{name} for call {frame.stream} after its CLOSE"
        if not self._hold(ONE_CLOSE, not call.closed, what):
            return
        if frame.kind == FrameType.DATA:
            self._data(frame, call)
        elif frame.kind == FrameType.CLOSE:
            call.closed = True
            self._close(frame, call)

    def _data(self, frame: Frame, call: _Call) -> None:
        what = f"DATA for call {frame.stream}, which is no ExecuteStream"
        if not self._hold(NO_DATA, call.method == Method.EXECUTE_STREAM, what):
            return
        what = f"DATA for call {frame.stream} after one with END"
        self._hold(AFTER_END, not call.ended, what)
        call.ended = call.ended or bool(frame.flags & END)
        what = f"DATA for call {frame.stream} while its credit is {call.credit}"
        self._hold(CREDIT, call.credit > 0, what)
        call.credit -= HEADER_SIZE + len(frame.payload)
        message = self._parse(frame, RESPONSE_TYPE[Method.EXECUTE_STREAM], self._codec)
        if message is not None:
            self._result(frame, message)

    def _close(self, frame: Frame, call: _Call) -> None:
        try:
            method = Method(call.method)
        except ValueError:
            return  # a method that there is not; any answer will do
        self.applied.add(NO_DATA)
        self._hold(STATUS, frame.aux <= 16, f"CLOSE {frame.stream} has status {frame.aux}")
        message = self._parse(frame, RESPONSE_TYPE[method], self._codec)
        code = getattr(message, "error_code", 0)
        if code:
            what = f"CLOSE {frame.stream} has status {frame.aux}, and error_code {code}"
            self._hold(ERROR_CODE, code == frame.aux, what)
        success = getattr(message, "success", None)
        if method in (Method.EXECUTE, Method.INITIALIZE):
            if frame.aux == 0:
                what = f'CLOSE {frame.stream} has status OK, and no "success": true'
                self._hold(SUCCESS, success or code, what)
            else:
                what = f'CLOSE {frame.stream} has status {frame.aux}, and "success": true'
                self._hold(SUCCESS, not success, what)
        if frame.aux not in (0, 1) and not frame.flags & 8 and hasattr(message, "error"):
            what = f"CLOSE {frame.stream} has status {frame.aux}, and no `error`"
            self._hold(SENTENCE, message.error, what)
        if message is not None:
            self._result(frame, message)

    def _result(self, frame: Frame, message: Message) -> None:
        text = getattr(message, "result_json", "")
        if not text:
            return
        self.applied.add(RESULT_JSON)
        try:
            json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            where = f"{kind_name(frame.kind)} {frame.stream}"
            self._find(RESULT_JSON, f"result_json of {where} is not JSON: {error}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
