"""One client's stream through each front door, behind one interface.

Every client blocks, and none waits longer than ``TIMEOUT`` for anything.
"""

import json
import queue
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote

import httpx
from http2_client import Http2Client, Response
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Event, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

import grpc

TIMEOUT = 60.0
"""Seconds."""
SERVICE_RESTART = 1012
SCHEMAS = Path(__file__).parents[3] / "schemas"


class Message(NamedTuple):
    """``position`` is empty where the door does not show it."""

    value: Any
    position: str = ""


class StreamFailed(Exception):
    """The stream ended with an error: its gRPC status by name, and Prism's reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def failed(problem: dict[str, Any]) -> StreamFailed:
    """What a problem document says."""
    return StreamFailed(problem["code"], problem["reason"])


class Stream(ABC):
    """One stream. The parameters have been said when it is made."""

    sends: ClassVar[bool] = True
    """The client may send messages, too."""
    in_turn: ClassVar[bool] = True
    """Both directions run at the same time."""
    positions: ClassVar[bool] = False

    def __init__(
        self,
        port: int,
        target: str,
        params: Any,
        *,
        timeout: str = "",
        resume_after: str = "",
    ) -> None:
        self.port = port
        self.target = target
        self.headers: dict[str, str] = {}
        if timeout:
            self.headers["prism-timeout"] = timeout
        if resume_after:
            self.headers["last-event-id"] = resume_after
        self.open(json.dumps(params))

    @abstractmethod
    def open(self, params: str) -> None:
        """Begin the stream."""

    @abstractmethod
    def send_text(self, text: str) -> None:
        """Send one message, which may be no JSON at all."""

    def send(self, value: Any) -> None:
        """Send one message."""
        self.send_text(json.dumps(value))

    @abstractmethod
    def end(self) -> None:
        """Say that the client has no more messages."""

    @abstractmethod
    def receive(self) -> Message | None:
        """The next message; ``None`` where the stream ended well.

        Raises:
            StreamFailed: it ended otherwise.
        """

    @abstractmethod
    def leave(self) -> None:
        """Go away without a word; safe to call again, and from another thread."""

    def values(self) -> list[Any]:
        """The value of every message that is still to come."""
        return [message.value for message in iter(self.receive, None)]


class Events(Stream):
    """Server-sent events, as httpx reads them."""

    sends = in_turn = False
    positions = True
    http2 = False

    def open(self, params: str) -> None:
        self._client = httpx.Client(http1=not self.http2, http2=self.http2, timeout=TIMEOUT)
        url = f"http://127.0.0.1:{self.port}{self.target}?params={quote(params)}"
        accept = {"accept": "text/event-stream"}
        request = self._client.build_request("GET", url, headers=self.headers | accept)
        self._answer = self._client.send(request, stream=True)
        self._lines = self._answer.iter_lines()

    def receive(self) -> Message | None:
        if self._answer.status_code != 200:
            raise failed(json.loads(self._answer.read()))
        fields: dict[str, str] = {}
        for line in self._lines:
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                break
        value = json.loads(fields["data"])
        match fields.get("event"):
            case "end":
                return None
            case "error":
                raise failed(value)
        return Message(value, fields["id"])

    def leave(self) -> None:
        self._client.close()

    def send_text(self, text: str) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """It has ended already."""


class EventsOverHTTP2(Events):
    """The same, over HTTP/2."""

    http2 = True


class Lines(Stream):
    """Lines of JSON over HTTP/1.1, as httpx sends and reads them: all of its own first."""

    in_turn = False

    def open(self, params: str) -> None:
        self._client = httpx.Client(timeout=TIMEOUT)
        self._mine = [params]
        self._answer: httpx.Response | None = None
        self._lines: Iterator[str] = iter(())

    def send_text(self, text: str) -> None:
        self._mine.append(text)

    def end(self) -> None:
        url = f"http://127.0.0.1:{self.port}{self.target}"
        kind = "application/x-ndjson"
        headers = self.headers | {"accept": kind, "content-type": kind}
        body = "".join(line + "\n" for line in self._mine)
        request = self._client.build_request("POST", url, headers=headers, content=body)
        self._answer = self._client.send(request, stream=True)
        self._lines = self._answer.iter_lines()

    def receive(self) -> Message | None:
        if self._answer is None:
            self.end()
        assert self._answer is not None
        if self._answer.status_code != 200:
            raise failed(json.loads(self._answer.read()))
        line = next(self._lines, None)
        return None if line is None else message_of(json.loads(line))

    def leave(self) -> None:
        self._client.close()


class LinesOverHTTP2(Stream):
    """Lines of JSON over HTTP/2, both directions at the same time."""

    def open(self, params: str) -> None:
        kind = "application/x-ndjson"
        headers = self.headers | {"accept": kind, "content-type": kind}
        self._client = Http2Client(self.port)
        self._stream = self._client.open(self.target, headers=tuple(headers.items()))
        self._taken = 0
        self.send_text(params)

    @property
    def _response(self) -> Response:
        return self._client.responses[self._stream]

    def send_text(self, text: str) -> None:
        self._client.data(self._stream, text.encode() + b"\n")

    def end(self) -> None:
        self._client.data(self._stream, b"", end=True)

    def receive(self) -> Message | None:
        response = self._response
        while (end := response.body.find(b"\n", self._taken)) < 0:
            if response.over or self._client.closed:
                assert response.ended, f"reset with {response.reset}"
                if response.status != 200:
                    raise failed(json.loads(response.body))
                return None
            self._client.receive()
        line, self._taken = response.body[self._taken : end], end + 1
        if self._taken > 100_000:
            response.body, self._taken = response.body[self._taken :], 0
        return message_of(json.loads(line))

    def leave(self) -> None:
        hang_up(self._client.socket)


def message_of(value: Any) -> Message:
    """The message on a line, or in a WebSocket's message."""
    if isinstance(value, dict) and "$error" in value:
        raise failed(value["$error"])
    return Message(value)


def hang_up(sock: socket.socket) -> None:
    """Close a socket, also under a thread that waits for it."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


class WebSocket(Stream):
    """A WebSocket over HTTP/1.1."""

    def open(self, params: str) -> None:
        self._events: list[Event] = []
        self._failure: StreamFailed | None = None
        self.connect()
        self.send_text(params)

    def connect(self) -> None:
        """The handshake."""
        self._socket = socket.create_connection(("127.0.0.1", self.port), TIMEOUT)
        self._frames = Connection(ConnectionType.CLIENT)
        lines = [
            f"GET {self.target} HTTP/1.1",
            f"host: 127.0.0.1:{self.port}",
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._socket.recv(65536)
        head, _, rest = head.partition(b"\r\n\r\n")
        if head.split()[1] != b"101":
            self._failure = failed(json.loads(rest))
        self._frames.receive_data(rest)
        self._events += self._frames.events()  # what came with the head

    def write(self, data: bytes) -> None:
        """Send bytes of the WebSocket."""
        self._socket.sendall(data)

    def read(self) -> bytes:
        """What comes next of it."""
        return self._socket.recv(65536)

    def leave(self) -> None:
        hang_up(self._socket)

    def send_text(self, text: str) -> None:
        if self._failure is None:
            # The server may have closed while this was on its way.
            with suppress(LocalProtocolError, ConnectionError):
                self.write(self._frames.send(TextMessage(data=text)))

    def end(self) -> None:
        self.send_text("")

    def receive(self) -> Message | None:
        if self._failure is not None:
            raise self._failure
        said = self._next()
        if isinstance(said, int):
            assert said == 1000, f"closed with {said}"
            return None
        try:
            return message_of(json.loads(said))
        except StreamFailed as failure:
            status = getattr(grpc.StatusCode, failure.code).value[0]
            code = SERVICE_RESTART if failure.reason == "draining" else 4000 + status
            self._expect_close(code)
            raise

    def _expect_close(self, code: int) -> None:
        assert self._next() == code

    def _next(self) -> str | int:
        """The next message, or the code that the server closes with."""
        text = ""
        while True:
            while self._events:
                event = self._events.pop(0)
                if isinstance(event, TextMessage):
                    text += event.data
                    if event.message_finished:
                        return text
                if isinstance(event, CloseConnection):
                    with suppress(RemoteProtocolError, LocalProtocolError, ConnectionError):
                        self.write(self._frames.send(event.response()))
                    return int(event.code)
            data = self.read()
            assert data, "the connection was closed without a close frame"
            self._frames.receive_data(data)
            self._events += self._frames.events()


class WebSocketOverHTTP2(WebSocket):
    """RFC 8441: a WebSocket on one stream of HTTP/2."""

    def connect(self) -> None:
        self._client = Http2Client(self.port)
        self._frames = Connection(ConnectionType.CLIENT)
        while not self._client.h2.remote_settings.enable_connect_protocol:
            self._client.receive()
        headers = {":protocol": "websocket", "sec-websocket-version": "13", **self.headers}
        self._stream = self._client.open(
            self.target, method="CONNECT", headers=tuple(headers.items())
        )
        response = self._client.responses[self._stream]
        while not response.status:
            self._client.receive()
        if response.status != 200:
            self._failure = failed(json.loads(self._client.wait(self._stream).body))

    def write(self, data: bytes) -> None:
        self._client.data(self._stream, data)

    def read(self) -> bytes:
        response = self._client.responses[self._stream]
        while not response.body and not response.over and not self._client.closed:
            self._client.receive()
        data, response.body = response.body, b""
        return data

    def leave(self) -> None:
        hang_up(self._client.socket)


class GRPC(Stream):
    """ExecuteStream of a stock grpcio client."""

    positions = True

    def open(self, params: str) -> None:
        messages, services = grpc_stubs()
        self._message = messages.StreamRequest
        self._mine: queue.Queue[Any] = queue.Queue(1)  # grpcio takes from it as the window allows
        _, _, namespace, operation = self.target.split("/")
        self._mine.put(self._message(operation=operation, params_json=params))
        metadata = [("prism-namespace", namespace)]
        if resume_after := self.headers.get("last-event-id"):
            metadata.append(("prism-last-event-id", resume_after))
        timeout = TIMEOUT
        if given := self.headers.get("prism-timeout"):
            timeout = float(given.removesuffix("ms")) / 1000
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        stub = services.BackendPluginStub(self._channel)
        requests = iter(self._mine.get, None)
        self._call = stub.ExecuteStream(requests, metadata=metadata, timeout=timeout)

    def send_text(self, text: str) -> None:
        message = self._message(params_json=text)
        while self._call.is_active():
            with suppress(queue.Full):
                self._mine.put(message, timeout=0.1)
                return

    def end(self) -> None:
        self._mine.put(None, timeout=TIMEOUT)

    def receive(self) -> Message | None:
        try:
            message = next(self._call, None)
        except grpc.RpcError as error:
            trailers = dict(error.trailing_metadata() or ())
            raise StreamFailed(error.code().name, trailers.get("prism-reason", "")) from None
        if message is None:
            return None
        return Message(json.loads(message.result_json), message.position)

    def leave(self) -> None:
        self._call.cancel()
        with suppress(queue.Full):
            self._mine.put_nowait(None)  # for grpcio's thread that takes from it
        self._channel.close()


@cache
def grpc_stubs() -> tuple[Any, Any]:
    """The messages and the stubs that protoc makes of the schemas."""
    sys.path.insert(0, str(SCHEMAS))
    try:
        return grpc.protos_and_services("prism/plugin.proto")  # type: ignore[attr-defined,no-any-return]
    finally:
        sys.path.remove(str(SCHEMAS))


STREAM_DOORS: dict[str, type[Stream]] = {
    "events": Events,
    "events, h2": EventsOverHTTP2,
    "lines": Lines,
    "lines, h2": LinesOverHTTP2,
    "websocket": WebSocket,
    "websocket, h2": WebSocketOverHTTP2,
    "grpc": GRPC,
}
