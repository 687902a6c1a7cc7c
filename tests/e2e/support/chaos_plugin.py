"""A plugin that does, on demand, everything that a plugin must not do.

It speaks raw frames, so that nothing keeps it from breaking the protocol. The
parameters of its one operation, ``do``, say what to do:

    {"fault": "crash", ...}     see the methods of ``Faults``

and faults at the start are the first argument of the program. It dials nothing:
the proxy starts it.
"""

import base64
import json
import os
import select
import socket
import sys
import time
import urllib.parse
from typing import Any, NoReturn

from prism.wire.frames import (
    END,
    HEADER_SIZE,
    NOT_STARTED,
    Codec,
    Frame,
    FrameReader,
    FrameType,
    pack,
)

MAX_FRAME = 64 * 1024 * 1024
OPERATIONS = ["do", "do_again", "echo", "metadata", "pid"]
"""``do_again`` is ``do``, declared idempotent."""


class Gone(Exception):
    """The proxy closed the connection."""


class Chaos:
    """One connection to the proxy, as blocking code with a list of things to do later."""

    def __init__(self, sock: socket.socket, fault: str) -> None:
        self.sock = sock
        self.fault = fault
        self.credentials: dict[str, str] = {}
        self.later: list[tuple[float, int, dict[str, Any]]] = []
        self.deaf: set[int] = set()
        self.unhealthy = False

    def receive(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        data = b""
        while len(data) < size:
            chunk = self.sock.recv(size - len(data))
            if not chunk:
                raise Gone
            data += chunk
        return data

    def frame(self) -> tuple[Frame, Any]:
        """The next frame and what its payload says."""
        reader = FrameReader()
        header = self.receive(HEADER_SIZE)
        reader.feed(header + self.receive(int.from_bytes(header[:4])))
        frame = reader.next_frame(MAX_FRAME)
        assert frame is not None
        return frame, json.loads(frame.payload) if frame.payload else None

    def send(self, data: bytes) -> None:
        """Write raw bytes."""
        self.sock.sendall(data)

    def close(self, stream: int, message: dict[str, Any], status: int = 0, flags: int = 0) -> None:
        """End a call."""
        payload = json.dumps(message).encode()
        self.send(pack(FrameType.CLOSE, stream, payload, codec=Codec.JSON, aux=status, flags=flags))

    def result(self, stream: int, result: Any) -> None:
        """End a call well."""
        self.close(stream, {"success": True, "result_json": json.dumps(result)})

    def note(self, *messages: str) -> None:
        """Send log records."""
        logs = [{"message": message, "level": "WARNING"} for message in messages]
        self.send(pack(FrameType.NOTE, 0, json.dumps({"logs": logs}).encode(), codec=Codec.JSON))

    def hello(self, version: int = 1) -> None:
        """Say HELLO, and await the answer."""
        hello = {"name": "chaos", "version": "1", "codecs": ["json"], "max_streams": 100}
        self.send(
            pack(
                FrameType.HELLO,
                payload=json.dumps(hello | {"protocol_min": version}).encode(),
                codec=Codec.JSON,
                aux=version,
            )
        )
        self.frame()

    def run(self) -> None:
        """Serve until the proxy goes."""
        self.hello()
        while True:
            wait = max(0.0, self.later[0][0] - time.monotonic()) if self.later else None
            if select.select([self.sock], [], [], wait)[0]:
                self.take(*self.frame())
            while self.later and self.later[0][0] <= time.monotonic():
                _, stream, message = self.later.pop(0)
                self.result(stream, message)

    def take(self, frame: Frame, message: Any) -> None:
        """Act on one frame."""
        match frame.kind:
            case FrameType.PING if not frame.flags:
                self.send(pack(FrameType.PING, aux=frame.aux, flags=4))
            case FrameType.CANCEL if frame.stream not in self.deaf:
                self.later = [entry for entry in self.later if entry[1] != frame.stream]
                self.close(frame.stream, {}, status=1)
            case FrameType.OPEN:
                self.open(frame.stream, frame.method, message or {})

    def open(self, stream: int, method: int, message: dict[str, Any]) -> None:
        """Begin a call."""
        match method:
            case 1:
                self.initialize(stream, message)
            case 2:
                status: dict[str, Any] = {"status": 0}
                if self.unhealthy:
                    status = {"status": 2, "message": "sick"}
                elif self.fault == "talkative":
                    said = self.confession()
                    status = {"status": 1, "message": said, "details": {said: said}}
                names = dict.fromkeys(self.credentials.values(), 1)
                metrics = {"requests_total": 7, "custom_metrics_json": json.dumps(names)}
                self.close(stream, status | {"metrics": metrics})
            case 3:
                self.execute(stream, message)
            case 5:
                self.close(stream, {"success": True})

    def initialize(self, stream: int, message: dict[str, Any]) -> None:
        """Accept the configuration, or not."""
        self.credentials = message.get("credentials", {})
        if self.fault == "refuse":
            self.close(stream, {"error": "the backend is not there"}, status=14)
        elif self.fault != "no-answer":
            version = self.confession() if self.fault == "talkative" else "1"
            answer = {
                "success": True,
                "plugin_version": version,
                "supported_operations": OPERATIONS,
                "operations": [{"name": "do_again", "idempotent": True}],
            }
            self.close(stream, answer)

    def confession(self) -> str:
        """All credentials, in every way in which they might be written."""
        said = []
        for secret in self.credentials.values():
            said += [secret, repr(secret), json.dumps(secret), json.dumps(json.dumps(secret))]
            said += [urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret)]
            said += [base64.b64encode(text.encode()).decode() for text in (secret, f"me:{secret}")]
        return " ".join(said)

    def execute(self, stream: int, message: dict[str, Any]) -> None:
        """Run one operation."""
        params = json.loads(message.get("params_json") or "{}")
        match message["operation"]:
            case "echo":
                self.result(stream, params)
            case "metadata":
                self.result(stream, message.get("metadata", {}))
            case "pid":
                self.result(stream, {"pid": os.getpid()})
            case _:
                getattr(Faults, params["fault"])(self, stream, params)


class Faults:
    """What ``do`` can do, by name."""

    def answer_later(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        """A good answer after ``seconds``."""
        self.later.append((time.monotonic() + params["seconds"], stream, {"waited": True}))
        self.later.sort(key=lambda entry: entry[0])

    def crash(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        print("about to crash", file=sys.stderr)
        os._exit(params.get("status", 3))

    def kill(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        os.kill(os.getpid(), 9)

    def hang(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        """No answer until the call is cancelled."""

    def ignore_cancel(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        """No answer, ever."""
        self.deaf.add(stream)

    def block(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        """Read nothing more."""
        time.sleep(params.get("seconds", 60))
        self.result(stream, {})

    def answer_twice(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        self.result(stream, {"answer": 1})
        self.result(stream, {"answer": 2})

    def answer_unknown(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        """Answers to a call long over and then the right one."""
        self.result(1, {"answer": "wrong"})
        self.result(stream, {"answer": "right"})

    def answer_unopened(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        """An answer to a call that the proxy has not made yet."""
        self.result(stream + 1000, {})

    def open_a_call(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        self.send(pack(FrameType.OPEN, 2, b"{}", codec=Codec.JSON, method=3, flags=END))
        self.result(stream, {})

    def refuse(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        self.close(stream, {"error": "not now"}, status=14, flags=NOT_STARTED)

    def status(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        self.close(stream, {"error": params.get("error", "")}, status=params["status"])

    def contradict(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        """Success by the message and failure by the frame."""
        self.close(stream, {"success": True, "result_json": "{}"}, status=13)

    def empty_close(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        self.send(pack(FrameType.CLOSE, stream))

    def garbage(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        self.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    def oversized(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        self.send(b"\xff\xff\xff\xff" + pack(FrameType.CLOSE, stream)[4:])

    def truncated(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        self.send(pack(FrameType.CLOSE, stream, b'{"success":true}', codec=Codec.JSON)[:-3])
        self.sock.close()
        sys.exit(0)

    def dribble(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        """A frame that comes byte by byte and takes for ever."""
        for byte in pack(FrameType.CLOSE, stream, b" " * 1000, codec=Codec.JSON):
            self.send(bytes([byte]))
            time.sleep(0.1)

    def bad_payload(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        payload = params.get("payload", "{").encode()
        codec = params.get("codec", Codec.JSON)
        self.send(pack(FrameType.CLOSE, stream, payload, codec=codec))

    def deep_payload(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        self.send(pack(FrameType.CLOSE, stream, b'{"x":' + b"[" * 100_000, codec=Codec.JSON))

    def half_surrogate(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        self.close(stream, {"success": True, "result_json": '"\ud800"'})

    def flood_output(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        for number in range(params["lines"]):
            print(f"line {number} " + "x" * 100)
        sys.stdout.write("y" * 1_000_000 + "\n")
        sys.stdout.flush()
        self.result(stream, {"written": params["lines"]})

    def flood_notes(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        for number in range(params["notes"]):
            self.note(*[f"note {number}"] * 10)
        self.result(stream, {"sent": params["notes"]})

    def log(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        self.note(params["message"])
        self.result(stream, {})

    def confess(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        """Say all credentials in each way in which a plugin says something to operators."""
        said = self.confession()
        for descriptor in (1, 2):
            for part in (said[:9], said[9:] + "\n", "." * 8180 + said + "\n"):
                os.write(descriptor, part.encode())
                time.sleep(0.05)
            for secret in self.credentials.values():
                os.write(descriptor, f"cut off: {secret[:-3]}\n".encode())
        logs = [{"message": said, "level": said, "logger": said}]
        health = {"status": 1, "message": said, "details": {"why": said}}
        names = json.dumps(dict.fromkeys(self.credentials.values(), 1))
        note = {"logs": logs, "health": health, "metrics": {"custom_metrics_json": names}}
        self.send(pack(FrameType.NOTE, 0, json.dumps(note).encode(), codec=Codec.JSON))
        self.close(stream, {"error": said, "error_code": 3}, status=3)

    def confess_and_go(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        reason = json.dumps({"reason": self.confession()}).encode()
        self.send(pack(FrameType.GOAWAY, 0, reason, codec=Codec.JSON))
        self.close(stream, {"error": self.confession()}, status=14, flags=NOT_STARTED)

    def leave_unanswered(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        """Say GOAWAY, and no more about the call; the next process answers it."""
        try:
            os.close(os.open(params["left"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            self.result(stream, {"answered": "by the next"})
        else:
            self.send(pack(FrameType.GOAWAY, 0, b'{"reason":"enough"}', codec=Codec.JSON))

    def big_result(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        self.result(stream, "x" * params["size"])

    def sicken(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        """Health checks fail from here on."""
        self.unhealthy = True
        self.result(stream, {})

    def close_output(self: Chaos, stream: int, params: dict[str, Any]) -> None:
        """Leave a grandchild behind that holds nothing but its life."""
        pid = os.spawnvp(os.P_NOWAIT, "sleep", ["sleep", "300"])
        self.result(stream, {"pid": pid})


def serve(fault: str) -> NoReturn:
    """Run with ``fault``, ``well`` for none."""
    if fault == "exit":
        print("no backend configured", file=sys.stderr)
        sys.exit(7)
    sock = socket.socket(fileno=int(os.environ["PRISM_PLUGIN_FD"]))
    chaos = Chaos(sock, fault)
    try:
        match fault:
            case "silent":
                sock.recv(1)
            case "newer":
                chaos.hello(version=9)
            case "garbage":
                chaos.send(b"SSH-2.0-OpenSSH_9.6\r\n")
                sock.recv(1000)
            case _:
                chaos.run()
    except (Gone, ConnectionError):
        sys.exit(0)
    sys.exit(1)


if __name__ == "__main__":
    serve(sys.argv[1] if len(sys.argv) > 1 else "well")
