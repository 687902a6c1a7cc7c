"""The host's end of one connection: raw frames out, frames in, and everything held to the rules.

It can send what no correct host sends, and takes a plugin's bytes as they come. What is read is
given to a ``Watch``, which knows the calls that were opened; what crosses is kept, to be shown
beside what is found wrong.

Plain blocking sockets: a case is a short program that sends, and waits for what must come.
"""

import contextlib
import json
import select
import socket
import struct
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from prism.contract.errors import RemoteProtocolError
from prism.contract.redaction import Redaction
from prism.contract.service import Method
from prism.sdk.conformance.rules import Violation
from prism.sdk.conformance.watch import Watch, kind_name
from prism.wire.frames import ACK, END, HEADER_SIZE, Codec, Frame, FrameReader, FrameType

_HEADER = struct.Struct("!IIBBBBI")
CODECS = {"json": Codec.JSON, "msgpack": Codec.MSGPACK}
SHOWN_FRAMES = 40
"""Frames that are kept of a connection: the first ten, and the newest."""
FIRST_FRAMES = 10
SHOWN_PAYLOAD = 160
"""Characters of a payload that are shown."""
READ_SIZE = 256 * 1024
FRAME_READ_LIMIT = 64 * 1024 * 1024
"""A payload that claims more than this is not waited for."""


class Silent(Violation):
    """Nothing came in time."""


def frame_bytes(
    kind: int,
    stream: int = 0,
    payload: bytes = b"",
    *,
    flags: int = 0,
    codec: int | None = None,
    method: int = 0,
    aux: int = 0,
    length: int | None = None,
) -> bytes:
    """One frame, right or wrong: ``length`` may claim what it likes."""
    if codec is None:
        codec = Codec.JSON if payload else Codec.NONE
    size = len(payload) if length is None else length
    return _HEADER.pack(size, stream, kind, flags, codec, method, aux) + payload


def encode(codec: int, message: Mapping[str, Any]) -> bytes:
    """A message as the payload of a frame; ``bytes`` become base64 in JSON."""
    if codec == Codec.MSGPACK:
        return msgspec.msgpack.encode(message)
    return json.dumps(message, default=lambda raw: b64encode(raw).decode()).encode()


class Limits(msgspec.Struct, frozen=True):
    """What the host says of itself in its HELLO."""

    max_frame: int = 16 * 1024 * 1024
    window: int = 256 * 1024
    max_streams: int = 100


class Seen(msgspec.Struct, frozen=True):
    """A frame that crossed: seconds since the connection began, who sent it, what it was."""

    at: float
    sender: str
    what: str

    def __str__(self) -> str:
        arrow = "<-" if self.sender == "plugin" else "->"
        return f"{self.at:8.3f} {arrow} {self.what}"


class Link:
    """One connection to a plugin. ``timeout`` bounds every wait, in seconds.

    ``chunk``: write so many bytes at a time, to see whether the plugin reads in portions.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        timeout: float,
        redaction: Redaction,
        limits: Limits | None = None,
        chunk: int = 0,
    ) -> None:
        self.sock = sock
        self.timeout = timeout
        self.limits = limits or Limits()
        self.offer: dict[str, Any] = {}
        self.offer_frame = Frame(FrameType.HELLO, 0, 0, 0, 0, 0, b"")
        self.codec = Codec.NONE
        self.ended = False
        self.watch = Watch(redaction, self.limits.max_frame, self.limits.window)
        self._redaction = redaction
        self._reader = FrameReader()
        self._inbox: deque[Frame] = deque()
        self._chunk = chunk
        self._begun = time.monotonic()
        self._seen: list[Seen] = []
        self._left_out = 0
        self._next = 1
        self._token = 1000
        sock.setblocking(False)

    # -- what crossed ---------------------------------------------------------

    def _note(self, sender: str, what: str) -> None:
        if len(self._seen) >= SHOWN_FRAMES:
            del self._seen[FIRST_FRAMES]
            self._left_out += 1
        self._seen.append(Seen(round(time.monotonic() - self._begun, 3), sender, what))

    def remark(self, what: str) -> None:
        """Put something that is no frame among them."""
        self._note("host", f"({what})")

    def seen(self) -> list[str]:
        """The frames that crossed, as a report shows them."""
        lines = [str(each) for each in self._seen]
        if self._left_out:
            lines.insert(FIRST_FRAMES, f"         .. {self._left_out} more")
        return lines

    def _describe(self, raw: bytes) -> str:
        length, stream, kind, flags, codec, method, aux = _HEADER.unpack_from(raw)
        return describe(
            self._redaction, length, stream, kind, flags, codec, method, aux, raw[HEADER_SIZE:]
        )

    # -- sending --------------------------------------------------------------

    def send_bytes(self, data: bytes, what: str = "") -> None:
        """Write raw bytes; what comes meanwhile is read. An end of the stream is not an error
        here: the next read tells it."""
        if what:
            self.remark(what)
        view = memoryview(data)
        until = time.monotonic() + self.timeout
        while view and not self.ended:
            part = view[: self._chunk] if self._chunk else view
            readable, writable, _ = select.select(
                [self.sock], [self.sock], [], max(0, until - time.monotonic())
            )
            if readable:
                self._read()
            if writable:
                try:
                    view = view[self.sock.send(part) :]
                except BlockingIOError:
                    pass
                except OSError:
                    self._drain()
                    return
            if not readable and not writable:
                raise Silent(
                    f"the plugin did not read what it was sent for {self.timeout:g} s; "
                    "go on reading while calls run"
                )

    def send(self, *frames: bytes) -> None:
        """Write whole frames, in one go."""
        for raw in frames:
            self._note("host", self._describe(raw))
        self.send_bytes(b"".join(frames))

    def open(
        self,
        method: int,
        message: Mapping[str, Any] | bytes | None = None,
        *,
        stream: int | None = None,
        flags: int = END,
        aux: int | None = None,
        codec: int | None = None,
    ) -> tuple[int, bytes]:
        """A call's id, and its OPEN, which is yet to be sent."""
        if stream is None:
            stream = self._next
        self._next = max(self._next, stream + 2)
        if message is None:
            payload = b""
        elif isinstance(message, bytes):
            payload = message
        else:
            payload = encode(self.codec, message)
        if codec is None:
            codec = self.codec if payload else Codec.NONE
        deadline = int(self.timeout * 1000) if aux is None else aux
        self.watch.opened(stream, method)
        raw = frame_bytes(
            FrameType.OPEN,
            stream,
            payload,
            flags=flags,
            codec=codec,
            method=method,
            aux=deadline,
        )
        return stream, raw

    def begin(
        self, method: int, message: Mapping[str, Any] | bytes | None = None, **options: Any
    ) -> int:
        """Open a call; returns its id."""
        stream, raw = self.open(method, message, **options)
        self.send(raw)
        return stream

    def data(
        self, stream: int, message: Mapping[str, Any] | bytes | None, *, end: bool = False
    ) -> bytes:
        """A DATA of the host's."""
        payload = message if isinstance(message, bytes) else b""
        if message is not None and not isinstance(message, bytes):
            payload = encode(self.codec, message)
        codec = self.codec if payload else Codec.NONE
        return frame_bytes(FrameType.DATA, stream, payload, flags=END * end, codec=codec)

    def cancel(self, stream: int, status: int = 1) -> bytes:
        """A CANCEL; the plugin may answer with whatever the call came to."""
        self.watch.cancelled(stream)
        return frame_bytes(FrameType.CANCEL, stream, aux=status)

    def credit(self, stream: int, size: int) -> bytes:
        """Give credit to the plugin's side of a stream."""
        self.watch.gave_credit(stream, size)
        return frame_bytes(FrameType.CREDIT, stream, aux=size)

    # -- reading --------------------------------------------------------------

    def _read(self) -> None:
        try:
            data = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.ended = True
            self.remark("the plugin ended the stream")
        self._reader.feed(data)
        self._take_frames()

    def _drain(self) -> None:
        """Read what is there, after a write has failed."""
        while not self.ended:
            self._read()

    def _take_frames(self) -> None:
        try:
            while (frame := self._reader.next_frame(FRAME_READ_LIMIT)) is not None:
                payload = bytes(frame.payload)
                what = describe(
                    self._redaction, len(payload), frame.stream, frame.kind, frame.flags,
                    frame.codec, frame.method, frame.aux, payload,
                )  # fmt: skip
                self._note("plugin", what)
                self.watch.received(frame)
                if frame.kind == FrameType.PING and not frame.flags & ACK:
                    self._pong(frame)
                self._inbox.append(frame)
        except RemoteProtocolError as error:
            self.watch.broken(str(error))
            self.ended = True

    def _pong(self, frame: Frame) -> None:
        """Answer the plugin's PING, at once if the socket takes it, as it does but in a flood."""
        raw = frame_bytes(FrameType.PING, flags=ACK, aux=frame.aux)
        self._note("host", self._describe(raw))
        with contextlib.suppress(OSError):
            self.sock.send(raw)

    def receive(self, timeout: float | None = None, waiting_for: str = "a frame") -> Frame | None:
        """The next frame of the plugin; ``None`` where the stream has ended.

        Raises:
            Silent: nothing came in time.
        """
        limit = self.timeout if timeout is None else timeout
        until = time.monotonic() + limit
        while not self._inbox:
            if self.ended:
                return None
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise Silent(f"{waiting_for} did not come within {limit:g} s")
            self._read()
        return self._inbox.popleft()

    def wait(
        self, matches: Callable[[Frame], bool], what: str, timeout: float | None = None
    ) -> Frame:
        """The next frame that ``matches``; others before it stay to be looked for.

        Raises:
            Violation: the stream ended, or it did not come in time; says ``what`` was awaited.
        """
        until = time.monotonic() + (self.timeout if timeout is None else timeout)
        passed: list[Frame] = []
        try:
            while True:
                frame = self.receive(max(0.0, until - time.monotonic()), what)
                if frame is None:
                    raise Violation(f"the plugin ended the connection; {what} was awaited")
                if matches(frame):
                    return frame
                passed.append(frame)
        except Silent:
            raise Silent(f"{what} did not come within {timeout or self.timeout:g} s") from None
        finally:
            self._inbox.extendleft(reversed(passed))

    def take_here(self, stream: int) -> list[Frame]:
        """The frames of a call that have come, and were not taken yet."""
        found = [frame for frame in self._inbox if frame.stream == stream]
        self._inbox = deque(frame for frame in self._inbox if frame.stream != stream)
        return found

    def close_of(self, stream: int, timeout: float | None = None) -> "Answer":
        """The CLOSE of a call.

        Raises:
            Violation: none came.
        """
        frame = self.wait(
            lambda each: each.kind == FrameType.CLOSE and each.stream == stream,
            f"the CLOSE of call {stream}",
            timeout,
        )
        return Answer(frame)

    def call(
        self, method: int, message: Mapping[str, Any] | bytes | None = None, **options: Any
    ) -> "Answer":
        """Make a call, and wait for its CLOSE."""
        return self.close_of(self.begin(method, message, **options))

    def ping(self) -> None:
        """Ask, and wait for the answer: what the plugin did before has come by then, but for
        messages that were queued."""
        self._token += 1
        token = self._token
        self.watch.pinged(token)
        self.send(frame_bytes(FrameType.PING, aux=token))
        self.pong(token)

    def pong(self, token: int) -> Frame:
        """The answer to a PING that was sent.

        Raises:
            Violation: none came.
        """
        return self.wait(
            lambda each: each.kind == FrameType.PING and each.aux == token,
            f"the answer to PING {token}",
        )

    def quiet(self, seconds: float) -> Frame | None:
        """A frame that comes within ``seconds``, or none."""
        with contextlib.suppress(Silent):
            return self.receive(seconds)
        return None

    def expect_end(self, what: str) -> list[Frame]:
        """Read until the plugin ends the stream; returns what came before.

        Raises:
            Violation: it did not; ``what`` says when it has to.
        """
        frames: list[Frame] = []
        until = time.monotonic() + self.timeout
        try:
            while (frame := self.receive(max(0.0, until - time.monotonic()))) is not None:
                frames.append(frame)
        except Silent:
            raise Silent(
                f"the plugin did not end the connection within {self.timeout:g} s {what}"
            ) from None
        return frames

    # -- the handshake --------------------------------------------------------

    def take_offer(self) -> dict[str, Any]:
        """Read the plugin's HELLO.

        Raises:
            Violation: something else came, or nothing, or it is no HELLO.
        """
        frame = self.receive(waiting_for="the plugin's HELLO")
        if frame is None:
            raise Violation("the plugin ended the connection before it said HELLO")
        if frame.kind != FrameType.HELLO:
            raise Violation(f"the first frame is {kind_name(frame.kind)}, not HELLO")
        try:
            offer = msgspec.json.decode(frame.payload or b"{}")
        except (msgspec.MsgspecError, ValueError) as error:
            raise Violation(f"the HELLO's payload is not JSON: {error}") from None
        if not isinstance(offer, dict):
            raise Violation("the HELLO's payload is no JSON object")
        self.offer, self.offer_frame = offer, frame
        return offer

    def hello(self, codec: str = "json", *, aux: int = 1, **fields: Any) -> bytes:
        """The host's HELLO, which chooses ``codec``."""
        self.codec = CODECS.get(codec, Codec.JSON)
        self.watch.settled(self.codec, self.offer)
        message = {"codec": codec, **msgspec.structs.asdict(self.limits), **fields}
        return frame_bytes(FrameType.HELLO, payload=json.dumps(message).encode(), aux=aux)

    def handshake(self, codec: str | None = None) -> dict[str, Any]:
        """Both HELLOs; JSON where it is offered, so that frames can be read."""
        offer = self.take_offer()
        codecs = offer.get("codecs") or ["json"]
        self.send(self.hello(codec or ("json" if "json" in codecs else "msgpack")))
        return offer

    def close(self) -> None:
        """Close the host's end. What the plugin sent till then was read by now, or is not."""
        if not self.ended:
            with contextlib.suppress(OSError):
                self._read()
        self.ended = True
        self.sock.close()


class Answer:
    """A CLOSE. ``message`` is its payload as a map, empty where it is none."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.status = frame.aux
        self.size = len(frame.payload)
        self.message = decoded(frame)

    @property
    def ok(self) -> bool:
        """Did the call succeed, as far as the status tells?"""
        return self.status == 0


def decoded(frame: Frame) -> dict[str, Any]:
    """A payload as a map; empty where it is none, which the watch has told by then."""
    if not frame.payload:
        return {}
    reader = msgspec.msgpack if frame.codec == Codec.MSGPACK else msgspec.json
    try:
        found = reader.decode(frame.payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


FLAG_NAMES = {1: "END", 2: "NOT_STARTED", 4: "ACK", 8: "TOO_LARGE"}
_TIMED: dict[int, str] = {FrameType.OPEN: "ms", FrameType.CREDIT: "bytes"}


def describe(
    redaction: Redaction,
    length: int,
    stream: int,
    kind: int,
    flags: int,
    codec: int,
    method: int,
    aux: int,
    payload: bytes,
) -> str:
    """A frame in a line: its header in words, and the beginning of its payload."""
    words = [kind_name(kind)]
    if stream:
        words.append(str(stream))
    if kind == FrameType.OPEN:
        words.append(method_name(method))
    if kind in (FrameType.CLOSE, FrameType.CANCEL):
        words.append(f"status {aux}")
    elif aux:
        words.append(f"{aux} {_TIMED[kind]}" if kind in _TIMED else f"aux {aux}")
    words += [FLAG_NAMES.get(1 << bit, f"0x{1 << bit:02x}") for bit in range(8) if flags >> bit & 1]
    if length:
        words.append(f"{length} bytes")
    if payload:
        words.append(shown(redaction, payload, codec))
    return " ".join(words)


def shown(redaction: Redaction, payload: bytes, codec: int) -> str:
    """The beginning of a payload, credentials blanked."""
    if codec == Codec.MSGPACK:
        try:
            text = repr(msgspec.msgpack.decode(payload))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            text = payload[: 4 * SHOWN_PAYLOAD].hex(" ")
    else:
        text = payload[: 64 * 1024].decode(errors="backslashreplace")
    text = redaction.text(text)
    return text if len(text) <= SHOWN_PAYLOAD else text[:SHOWN_PAYLOAD] + "..."


def method_name(method: int) -> str:
    """A method's name as the page has it."""
    names = {
        Method.INITIALIZE: "Initialize",
        Method.HEALTH_CHECK: "HealthCheck",
        Method.EXECUTE: "Execute",
        Method.EXECUTE_STREAM: "ExecuteStream",
        Method.SHUTDOWN: "Shutdown",
    }
    return names.get(method, f"method {method}")  # type: ignore[call-overload,no-any-return]
