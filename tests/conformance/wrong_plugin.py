"""A plugin that keeps the frame protocol, and one for each of its rules that breaks it.

``python wrong_plugin.py FAULT``; without a fault it is right. On raw sockets, and with nothing of
the SDK, so that what is wrong is wrong on the wire.

Its operations: ``echo`` gives back its parameters, ``sleep`` runs until it is cancelled, ``count``
is a stream that says ``to`` messages, ``sum`` one that reads until the half-close.
"""

import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from typing import Any

HELLO, OPEN, DATA, CLOSE, CANCEL, CREDIT, PING, GOAWAY, NOTE = range(1, 10)
INITIALIZE, HEALTH, EXECUTE, STREAM, SHUTDOWN = range(1, 6)
END, NOT_STARTED, ACK, TOO_LARGE = 1, 2, 4, 8
CANCELLED, INVALID, EXHAUSTED, PRECONDITION, UNIMPLEMENTED, UNAVAILABLE = 1, 3, 8, 9, 12, 14
HEADER = struct.Struct("!IIBBBBI")
MAX_FRAME = 1 << 20
WINDOW = 4096
MAX_CALLS = 100

FAULT = sys.argv[1] if len(sys.argv) > 1 else ""


def has(*faults: str) -> bool:
    return FAULT in faults


class Broken(Exception):
    """The host broke a rule."""


class Refused(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Call:
    """A call that runs, or has a stream."""

    def __init__(self, stream: int, credit: int, ended: bool) -> None:
        self.stream = stream
        self.credit = credit
        self.ended = ended
        self.cancelled = False
        self.closed = False
        self.inbox: list[dict[str, Any]] = []
        self.received = 0
        self.back = 0
        self.changed = threading.Condition()


class Session:
    """One connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.lock = threading.RLock()
        self.calls: dict[int, Call] = {}
        self.last = 0
        self.greeted = False
        self.initialized = False
        self.max_answer = MAX_FRAME
        self.window = 256 * 1024
        self.stopping = False
        self.replaced = False
        self.status = 0
        self.buffer = b""
        self.pings = 0

    # -- out ------------------------------------------------------------------

    def send(self, kind: int, stream: int = 0, message: Any = None, **header: int) -> None:
        payload = b"" if message is None else json.dumps(message).encode()
        if isinstance(message, bytes):
            payload = message
        self.raw(kind, stream, payload, **header)

    def raw(
        self,
        kind: int,
        stream: int = 0,
        payload: bytes = b"",
        *,
        flags: int = 0,
        aux: int = 0,
        codec: int | None = None,
    ) -> None:
        if codec is None:
            codec = 1 if payload else 0
        data = HEADER.pack(len(payload), stream, kind, flags, codec, 0, aux) + payload
        try:
            with self.lock:
                self.sock.sendall(data)
        except OSError:
            pass  # the reader tells

    def close(self, stream: int, status: int, message: Any = None, flags: int = 0) -> None:
        with self.lock:
            if stream in self.calls:
                call = self.calls.pop(stream)
                with call.changed:
                    call.closed = True
                    call.changed.notify_all()
            payload = b"" if message is None else json.dumps(message).encode()
            if len(payload) > self.max_answer and not has("too-long"):
                status, payload = EXHAUSTED, b""
                flags |= 0 if has("too-large-unflagged") else TOO_LARGE
            if has("codec-wrong") and payload:
                self.raw(CLOSE, stream, payload, flags=flags, aux=status, codec=2)
                return
            if has("payload-twice") and payload:
                payload += b"{}"
            self.raw(CLOSE, stream, payload, flags=flags, aux=status)
            if has("close-twice"):
                self.raw(CLOSE, stream, payload, flags=flags, aux=status)
            if has("close-never-opened"):
                self.raw(CLOSE, stream + 100_000, payload, flags=flags, aux=status)

    def fail(self, stream: int, status: int, why: str, flags: int = 0) -> None:
        code = 13 if has("error-code-other") else status
        error = {} if has("no-sentence") else {"error": why}
        self.close(
            stream, 99 if has("status-unknown") else status, {**error, "error_code": code}, flags
        )

    # -- in -------------------------------------------------------------------

    def exactly(self, count: int) -> bytes:
        if has("needs-whole-frames"):  # takes what one read brings for a frame
            if not self.buffer:
                self.buffer = self.sock.recv(1 << 20)
            found, self.buffer = self.buffer[:count], self.buffer[count:]
            if len(found) < count:
                raise EOFError
            return found
        if has("rest-dropped"):  # takes what one read brings for one frame
            if count == HEADER.size:
                self.buffer = self.sock.recv(1 << 20)
                if not self.buffer:
                    raise EOFError
            found, self.buffer = self.buffer[:count], self.buffer[count:]
            return found
        found = b""
        while len(found) < count:
            data = self.sock.recv(count - len(found))
            if not data:
                raise EOFError
            found += data
        return found

    def serve(self) -> None:
        """Until the connection ends."""
        hello = {"name": "wrong", "version": "1", "window": WINDOW, "max_streams": MAX_CALLS}
        if has("hello-waits"):
            self.sock.recv(1, socket.MSG_PEEK)
        if has("hello-limit"):
            hello["window"] = 0
        if has("hello-nameless"):
            hello = {"window": WINDOW}
        if has("speaks-first-with-ping"):
            self.send(PING, aux=1)
        offers = ["json"]
        if has("msgpack-in-name-only"):
            offers.append("msgpack")
        self.send(HELLO, message={**hello, "codecs": offers}, aux=2 if has("version-taken") else 1)
        if has("talks-before-host"):
            self.send(NOTE, message={"logs": [{"message": "early"}]})
        try:
            while True:
                self.frame()
        except (EOFError, OSError):
            pass
        except Broken as error:
            print(f"the host broke the protocol: {error}", file=sys.stderr, flush=True)
            if not has("breaks-off-in-silence"):
                self.send(GOAWAY, message={"reason": str(error)}, aux=self.last)
            self.status = 1
        with self.lock:
            for call in list(self.calls.values()):
                with call.changed:
                    call.cancelled = call.closed = True
                    call.changed.notify_all()
        if has("hangs-at-end"):
            time.sleep(60)
        self.sock.close()

    def frame(self) -> None:
        head = self.exactly(16)
        length, stream, kind, flags, codec, method, aux = HEADER.unpack(head)
        late = has("header-late")
        if late:
            payload = self.exactly(length)
        if not HELLO <= kind <= NOTE:
            if has("type-ignored"):
                self.exactly(length)
                return
            raise Broken(f"type {kind}")
        if length > MAX_FRAME and not late and not has("any-length"):
            raise Broken(f"{length} bytes")
        if not late:
            payload = self.exactly(length)
        on_connection = kind in (HELLO, PING, GOAWAY, NOTE)
        if on_connection != (stream == 0):
            if not has("stream-unchecked"):
                raise Broken(f"type {kind} on stream {stream}")
            if kind == OPEN:
                return
        if length and kind in (CANCEL, CREDIT, PING) and not has("cancel-payload-taken"):
            raise Broken(f"type {kind} has a payload")
        message = self.decode(payload, codec, kind)
        if has("flags-strict") and flags & 0xF0:
            raise Broken("unknown flags")
        if kind == HELLO:
            self.hello(aux, message)
        elif not self.greeted:
            if kind == GOAWAY:
                if not has("refusal-unread"):
                    if not has("refusal-unsaid"):
                        print("refused:", message.get("reason"), file=sys.stderr, flush=True)
                    raise EOFError
                return
            raise Broken("no HELLO")
        elif kind == OPEN:
            self.open(stream, method, flags, aux, message)
        elif kind == PING:
            self.ping(flags, aux)
        elif kind == GOAWAY:
            if has("goaway-ends"):
                raise EOFError
            if has("goaway-needs-reason"):
                message["reason"]
            if not has("goaway-unsaid"):
                print("the host goes:", message.get("reason"), file=sys.stderr, flush=True)
        elif kind == NOTE:
            pass
        else:
            self.of_call(kind, stream, flags, aux, message, length)

    def decode(self, payload: bytes, codec: int, kind: int) -> dict[str, Any]:
        if not payload:
            if has("empty-refused") and kind == OPEN:
                raise Broken("no payload")
            return {}
        if codec != 1 and not has("codec-unchecked"):
            raise Broken(f"codec {codec}")
        if codec != 1:
            return {}
        try:
            if has("utf8-unchecked"):
                text = payload.decode(errors="replace")
            else:
                text = payload.decode()
            if has("deep-refused") and text.count("[") > 50:
                raise ValueError("nested too deeply")
            if has("first-key"):
                pairs = lambda found: {k: v for k, v in reversed(found)}  # noqa: E731, C416
                message = json.loads(text, object_pairs_hook=pairs)
            elif has("rest-ignored"):
                message = json.JSONDecoder().raw_decode(text)[0]
            else:
                message = json.loads(text)
            if not isinstance(message, dict):
                if has("array-taken"):
                    return {}
                raise ValueError("no object")
        except ValueError as error:
            if has("json-unchecked"):
                return {}
            raise Broken(str(error)) from None
        if has("unknown-refused") and set(message) & {"future", "features"}:
            raise Broken("unknown field")
        return message

    def hello(self, version: int, message: dict[str, Any]) -> None:
        if self.greeted and not has("hello-again-taken"):
            raise Broken("a second HELLO")
        if version != 1 and not has("version-unchecked", "version-taken"):
            raise Broken("version")
        if message.get("codec", "json") != "json" and not has("codec-taken"):
            raise Broken("codec")
        self.greeted = True
        self.max_answer = message.get("max_frame", MAX_FRAME)
        self.window = message.get("window", 256 * 1024)
        if has("hello-twice"):
            self.send(HELLO, message={"name": "again"}, aux=1)
        if has("note-level"):
            self.send(NOTE, message={"logs": [{"message": "x", "level": "warn"}]})
        if has("note-milliseconds"):
            self.send(NOTE, message={"logs": [{"message": "x", "time": time.time() * 1000}]})
        if has("note-long"):
            self.send(NOTE, message={"logs": [{"message": "x"}] * 1001})
        if has("frame-unknown"):
            self.raw(77, 0)
        if has("ping-with-stream"):
            self.raw(PING, 5)
        if has("opens-odd"):
            self.raw(OPEN, 1, b"{}", flags=END)

    def ping(self, flags: int, token: int) -> None:
        if has("ping-unanswered") or (flags & ACK and not has("ping-ack-answered")):
            return
        if has("ping-while-idle") and self.calls:
            return
        self.pings += 1
        if has("pings-counted") and self.pings > 100:
            raise Broken("too many PINGs")
        self.send(PING, flags=ACK, aux=0 if has("ping-token-lost") else token)

    def of_call(
        self, kind: int, stream: int, flags: int, aux: int, message: dict[str, Any], length: int
    ) -> None:
        if stream > self.last and not has("never-opened-taken"):
            raise Broken(f"call {stream} was never opened")
        call = self.calls.get(stream)
        if call is None:
            if has("late-frames-break"):
                raise Broken("it is over")
            if has("late-data-breaks") and kind == DATA:
                raise Broken("it is over")
            return
        with call.changed:
            if kind == CANCEL and not has("cancel-unheard"):
                call.cancelled = True
            elif kind == CREDIT:
                if has("credit-refused"):
                    raise Broken("credit")
                call.credit += 0 if has("credit-unheard") else aux
            elif kind == DATA:
                call.received += 16 + length
                if call.received - call.back > WINDOW + 16 + length and not call.cancelled:
                    if has("overrun-ends-connection"):
                        raise Broken("beyond the window")
                    call.cancelled = True
                if message or not flags & END or has("half-close-taken"):
                    call.inbox.append(message)
                call.ended = call.ended or bool(flags & END)
            call.changed.notify_all()

    # -- calls ----------------------------------------------------------------

    def open(
        self, stream: int, method: int, flags: int, deadline: int, request: dict[str, Any]
    ) -> None:
        if stream % 2 == 0 and not has("ids-unchecked"):
            raise Broken("even id")
        if stream <= self.last and not has("ids-unchecked", "ids-again"):
            raise Broken("id again")
        if has("ids-without-gaps") and stream > self.last + 2:
            raise Broken("a gap")
        if not INITIALIZE <= method <= SHUTDOWN:
            if has("method-answered"):
                self.fail(stream, UNIMPLEMENTED, "no such method")
                return
            raise Broken(f"method {method}")
        self.last = max(self.last, stream)
        if has("answers-every-other") and stream % 4 == 3 and method == EXECUTE:
            return
        if has("dies-in-calls") and method == HEALTH:
            os._exit(3)
        if has("deadline-signed") and deadline >= 1 << 31:
            self.fail(stream, 4, "the time was up before it came")
            return
        call = Call(stream, self.window, bool(flags & END) or method != STREAM)
        self.calls[stream] = call
        if self.stopping:
            if has("begins-after-shutdown"):
                self.close(stream, 0, {"success": True, "result_json": "{}"})
            else:
                self.fail(stream, UNAVAILABLE, "it stops", NOT_STARTED)
            return
        if has("full-for-health") and method == HEALTH and len(self.calls) > MAX_CALLS:
            self.fail(stream, EXHAUSTED, "full", NOT_STARTED)
            return
        if method in (EXECUTE, STREAM) and not has("one-at-a-time"):
            threading.Thread(target=self.run, args=(call, method, request), daemon=True).start()
        else:
            self.run(call, method, request)

    def run(self, call: Call, method: int, request: dict[str, Any]) -> None:
        stream = call.stream
        try:
            answer = {
                INITIALIZE: self.initialize,
                HEALTH: self.health,
                EXECUTE: self.execute,
                STREAM: self.stream,
                SHUTDOWN: self.shutdown,
            }[method](call, request)
        except Refused as error:
            self.fail(stream, error.status, str(error))
            return
        if answer is not None:
            status = 0
            if has("success-with-status") and method == EXECUTE:
                status = 13
            self.close(stream, status, answer)

    def initialize(self, call: Call, request: dict[str, Any]) -> dict[str, Any] | None:
        if self.initialized and not has("initialized-again"):
            raise Refused(PRECONDITION, "Initialize comes once")
        if has("tells-credentials"):
            raise Refused(INVALID, f"wrong: {request.get('credentials')}")
        if has("prints-credentials"):
            print(request.get("credentials"), flush=True)
        try:
            config = json.loads(request.get("config_json") or "{}")
        except ValueError:
            config = None
        if not isinstance(config, dict):
            if has("config-exits"):
                os._exit(1)
            if has("config-refused-in-silence"):
                self.close(call.stream, INVALID, {"error_code": INVALID})
                return None
            raise Refused(INVALID, "config is no JSON object")
        if request.get("cache") and not has("cache-taken"):
            raise Refused(INVALID, "results are not kept")
        self.initialized = True
        if has("initialize-huge"):
            self.raw(CLOSE, call.stream, json.dumps({"success": True, "error": ""}).encode())
            return None
        operations = [
            {"name": "echo", "idempotent": True, "access": 1},
            {"name": "sleep", "access": 1},
            {"name": "count", "streaming": True, "access": 1},
            {"name": "sum", "streaming": True, "access": 1},
        ]
        if has("name-with-hyphen"):
            operations.append({"name": "say-it"})
        if has("schema-no-object"):
            operations[0]["params_schema"] = "[1]"
        if has("says-nothing-to-call"):
            return {"success": True}
        if has("success-unsaid"):
            return {"operations": operations}
        return {"success": True, "operations": operations}

    def health(self, call: Call, request: dict[str, Any]) -> dict[str, Any]:
        if has("health-without-status"):
            return {"message": "well"}
        if has("health-optimistic"):
            return {"status": 0}
        return {"status": 0 if self.initialized else 2}

    def execute(self, call: Call, request: dict[str, Any]) -> dict[str, Any] | None:
        if not self.initialized and not has("serves-early"):
            raise Refused(PRECONDITION, "Initialize comes first")
        name = request.get("operation", "")
        if has("metadata-strict") and "prism-future" in request.get("metadata", {}):
            raise Refused(INVALID, "unknown metadata")
        if has("unknown-is-internal") and name not in ("echo", "sleep", "count", "sum"):
            raise Refused(13, "KeyError")
        if has("stream-executed") and name == "count":
            return {"success": True, "result_json": "{}"}
        if name not in ("echo", "sleep"):
            raise Refused(UNIMPLEMENTED, "no such operation")
        if "params_raw" in request and not has("raw-unread"):
            raise Refused(INVALID, "MessagePack is not read")
        params = self.params(request)
        if name == "echo":
            if has("data-for-unary"):
                self.send(DATA, call.stream, {"result_json": "{}"})
            if has("credit-refused", "cancel-drops-answer"):
                time.sleep(0.2)
                if call.cancelled:
                    return None
            if has("result-no-json"):
                return {"success": True, "result_json": "{'a': 1}"}
            if has("success-missing"):
                return {"result_json": "{}"}
            return {"success": True, "result_json": json.dumps(params)}
        with call.changed:
            while not call.cancelled and not call.closed:
                call.changed.wait(60)
        if call.closed or has("cancel-unclosed"):
            return None
        raise Refused(CANCELLED, "cancelled")

    def params(self, request: dict[str, Any]) -> Any:
        if has("params-needed") and not request.get("params_json"):
            raise Refused(INVALID, "params are missing")
        try:
            params = json.loads(request.get("params_json") or "{}")
        except ValueError as error:
            if has("params-crash"):
                raise Refused(13, f"ValueError: {error}") from None
            raise Refused(INVALID, str(error)) from None
        if not isinstance(params, dict) and not has("params-any"):
            raise Refused(INVALID, "params are no object")
        return params

    def stream(self, call: Call, request: dict[str, Any]) -> None:
        name = request.get("operation", "")
        if not self.initialized and not has("streams-early"):
            raise Refused(PRECONDITION, "Initialize comes first")
        if has("unary-streamed") and name == "echo":
            self.close(call.stream, 0)
            return
        if has("stream-unknown-taken") and name not in ("echo", "sleep", "count", "sum"):
            self.close(call.stream, 0)
            return
        if name not in ("count", "sum"):
            raise Refused(UNIMPLEMENTED, "no stream of that name")
        params = self.params(request)
        if name == "count":
            for n in range(params.get("to", 3)):
                if not self.say(call, {"result_json": json.dumps({"n": n})}):
                    break
        else:
            self.read_all(call, params)
        if call.closed:
            return
        if has("cancel-unclosed-stream") and call.cancelled:
            return
        if call.cancelled:
            raise Refused(CANCELLED, "cancelled")
        self.close(call.stream, 0)

    def read_all(self, call: Call, params: dict[str, Any]) -> None:
        total = params.get("n", 0)
        while True:
            with call.changed:
                while not call.inbox and not call.ended and not call.cancelled:
                    call.changed.wait(60)
                if call.cancelled or not call.inbox:
                    break
                message = call.inbox.pop(0)
                dealt_with = call.received - call.back if not call.inbox else 0
                # What is given back as fast as it comes is never too much.
                keeps = has("credit-kept", "overrun-ends-connection")
                if dealt_with >= WINDOW // 2 and not keeps:
                    call.back += dealt_with
                    self.send(CREDIT, call.stream, aux=dealt_with)
            if not message.get("params_json") and has("half-close-taken"):
                raise Refused(INVALID, "a message without params")
            total += json.loads(message.get("params_json") or "{}").get("n", 0)
        if not call.cancelled:
            self.say(call, {"result_json": json.dumps({"sum": total})})

    def say(self, call: Call, message: dict[str, Any]) -> bool:
        with call.changed:
            while call.credit <= 0 and not call.cancelled and not has("credit-ignored"):
                call.changed.wait(60)
            if call.cancelled or call.closed:
                return False
            call.credit -= 16 + len(json.dumps(message))
        self.send(DATA, call.stream, message, flags=END if has("data-after-end") else 0)
        return True

    def shutdown(self, call: Call, request: dict[str, Any]) -> dict[str, Any] | None:
        if has("shutdown-in-silence"):
            raise EOFError
        if has("shutdown-needs-initialize") and not self.initialized:
            raise Refused(PRECONDITION, "Initialize comes first")
        self.stopping = True
        self.replaced = request.get("reason") == "replaced"
        if has("shutdown-stays"):
            return {"success": True}
        if not has("shutdown-first-itself"):
            for stream in [each for each in self.calls if each != call.stream]:
                self.fail(stream, UNAVAILABLE, "it stopped")
        answer = {"success": not has("shutdown-unsuccessful")}
        self.close(call.stream, 0, answer)
        if has("talks-after-shutdown"):
            self.send(PING, aux=1)
        # What was sent together with it is answered, too: it was opened before the end was read.
        self.sock.settimeout(0.05)
        if not has("begins-after-shutdown"):
            raise EOFError
        try:
            while True:
                self.frame()
        except OSError:
            raise EOFError from None

    def stop(self) -> None:
        """SIGTERM."""
        if not has("sigterm-in-silence"):
            self.send(GOAWAY, message={"reason": "SIGTERM"}, aux=self.last)
        if not has("sigterm-breaks-calls"):
            until = time.monotonic() + 5
            while self.calls and time.monotonic() < until:
                time.sleep(0.01)


session: Session | None = None
terminated = threading.Event()


def stop_all() -> None:
    terminated.wait()
    if session is not None:
        session.stop()
    os._exit(0)


def connect() -> socket.socket:
    pause = 0.05
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(os.environ["PLUGIN_SOCKET"])
            return sock
        except OSError:
            sock.close()
            if has("dials-once"):
                sys.exit(1)
            time.sleep(pause)
            pause = min(2 * pause, 1)


def listen(path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    while True:
        accepted = Session(listener.accept()[0])
        if has("one-connection"):
            accepted.serve()
        else:
            threading.Thread(target=accepted.serve, daemon=True).start()


def main() -> None:
    global session
    if has("sigterm-ignored"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    threading.Thread(target=stop_all, daemon=True).start()
    if "LISTEN_AT" in os.environ:
        listen(os.environ["LISTEN_AT"])
    if "PRISM_PLUGIN_FD" in os.environ:
        session = Session(socket.socket(fileno=int(os.environ["PRISM_PLUGIN_FD"])))
        session.serve()
        if has("exit-status"):
            session.status = 1
        if has("stays-behind"):
            time.sleep(60)
        os._exit(session.status)
    if has("descriptor-only"):
        sys.exit(2)
    initialized = False
    while True:
        session = Session(connect())
        session.initialized = initialized and has("keeps-state")
        session.serve()
        initialized = initialized or session.initialized
        if has("leaves-after-one") or (session.replaced and not has("replaced-dials")):
            os._exit(0)
        if session.status:
            time.sleep(0.2)


if __name__ == "__main__":
    main()
