"""All doors of the proxy, and a plugin that is played by hand: for tests of how calls end.

A *door* is a client of one kind over one transport. The connections are the real ones, on a pair
of sockets; behind them are the whole data port and a real channel, over a stream in memory.
"""

import json
import socket
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import h2.config
import h2.connection
import h2.events
import h11
import trio
import trio.testing
from h2.errors import ErrorCodes
from wsproto.connection import Connection as Frames
from wsproto.connection import ConnectionType
from wsproto.events import CloseConnection, TextMessage

from prism.calls.namespace import Namespace
from prism.calls.relay import FIRST_MESSAGE_WAIT
from prism.calls.router import Router
from prism.channels.frames.channel import FramedChannel
from prism.config.types import NamespaceConfig, NamespaceLimits
from prism.contract.messages import (
    ExecuteRequest,
    OperationDeclaration,
    StreamRequest,
)
from prism.contract.status import StatusCode
from prism.frontends.answering import Observer
from prism.frontends.asgi import asgi
from prism.frontends.data_port import DataPort
from prism.grpc.framing import pack
from prism.grpc.protobuf import encode
from prism.observability.access_log import AccessLog
from prism.observability.metrics import Metrics
from prism.server.exchange import FrontEnd, Peer
from prism.server.http1.connection import HTTP1Connection
from prism.server.http2.connection import HTTP2Connection
from prism.server.settings import ServerSettings
from prism.streams.tasks import TaskPool
from prism.streams.unix import socket_pair
from prism.supervision.instance import Instance
from prism.supervision.slot import Slot
from prism.wire import ConnectionState, Role
from prism.wire.connection import Connection
from prism.wire.events import Cancel, Close, Event, Hello, Open, Ping

PEER = Peer("http", ("192.0.2.1", 5))


# -- behind the doors -----------------------------------------------------------


class PluginEnd:
    """The plugin's end of a channel. It says HELLO, and closes what is cancelled; all else the
    test says. ``opened`` and ``cancelled`` are what the host has sent so far."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.opened: list[Open] = []
        self.cancelled: list[Cancel] = []
        self._connection = Connection(Role.PLUGIN, Hello(name="it", codecs=("msgpack",)))
        self._called = trio.Event()

    async def run(self) -> None:
        await self.send(self._connection.local_hello)
        while self._connection.state is not ConnectionState.CLOSED:
            try:
                self._connection.receive_data(await self.stream.receive_some(65536))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            while (event := self._connection.next_event()) is not None:
                await self._on(event)

    async def _on(self, event: Event) -> None:
        match event:
            case Open():
                self.opened.append(event)
                self._called.set()
            case Cancel():
                self.cancelled.append(event)
                if self._connection.is_open(event.stream):
                    await self.send(Close(event.stream, StatusCode.CANCELLED))
            case Ping(ack=False):
                await self.send(Ping(event.token, ack=True))

    async def called(self) -> Open:
        """The next call."""
        await self._called.wait()
        self._called = trio.Event()
        return self.opened[-1]

    def cancels(self) -> list[str]:
        """The statuses with which calls were cancelled."""
        return [cancel.status.name for cancel in self.cancelled]

    async def send(self, event: Event) -> None:
        self._connection.send(event)
        await self.stream.send_all(self._connection.data_to_send())


class Served:
    """A front end, and what serves it in a test."""

    def __init__(self, nursery: trio.Nursery, front: FrontEnd) -> None:
        self.nursery = nursery
        self.front = front
        self.tasks = TaskPool(nursery)
        self.sockets: list[socket.socket] = []

    def close(self) -> None:
        """Close what clients have left open."""
        for sock in self.sockets:
            sock.close()


class House(Served):
    """The data port over one namespace, ``kv``, with its plugin; ``observed`` are the calls that
    the log and the metrics were told of."""

    def __init__(self, nursery: trio.Nursery, limits: NamespaceLimits) -> None:
        self.slot = Slot("kv")
        self._generation = 0
        self.namespace = Namespace(NamespaceConfig("kv", "memory", limits=limits), self.slot)
        self.router = Router([self.namespace])
        self.metrics = Metrics(self.router)
        self.observer = Observer(self.metrics, AccessLog())
        super().__init__(nursery, DataPort(self.router, self.observer))
        nursery.start_soon(self.router.deadlines.run)

    async def start_plugin(self) -> None:
        """Have an instance serve: ``plugin``, ``channel``, ``instance`` are its parts."""
        ours, theirs = trio.testing.memory_stream_pair()
        self.plugin = PluginEnd(theirs)
        self.channel = FramedChannel(ours, name="it")
        self.nursery.start_soon(self.plugin.run)
        await self.channel.handshake()
        self.nursery.start_soon(self.channel.run)
        declared = [
            OperationDeclaration(name="get", idempotent=True),
            OperationDeclaration(name="set"),
            OperationDeclaration(name="watch", streaming=True),
        ]
        operations = {operation.name: operation for operation in declared}
        self._generation += 1
        self.instance = Instance("kv", self._generation, "it", "1", self.channel, operations)
        self.slot.fill(self.instance)

    def counted(self) -> dict[str, float]:
        """How many calls the metrics have counted, by status."""
        found: Counter[str] = Counter()
        for family in self.metrics.collect():
            if family.name == "prism_requests":
                for sample in family.samples:
                    found[sample.labels["status"]] += sample.value
        return dict(found)

    def leases(self) -> dict[str, int]:
        """How the instance has counted its calls."""
        kinds = ("finished", "refused", "cancelled", "failed")
        counts = {kind: getattr(self.instance, kind) for kind in kinds}
        return {kind: count for kind, count in counts.items() if count}

    def left_over(self) -> dict[str, Any]:
        """What calls still hold; empty if nothing."""
        namespace, instance = self.namespace, self.instance
        held = {
            "in flight": namespace.in_flight,
            "streams": namespace.streams_by_client.total(),
            "open streams": len(namespace.open_streams),
            "deadlines": len(self.router.deadlines._calls),
            "waiting": self.slot.waiting,
            "leases": instance.leases,
            "lost": instance.lost,
            "open calls": instance.channel.open_calls,
        }
        return {name: count for name, count in held.items() if count}


# -- transports -----------------------------------------------------------------


class Response:
    """What a client has got so far. ``whole``: it is complete, and not broken off."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[bytes, bytes] = {}
        self.trailers: dict[bytes, bytes] = {}
        self.body = bytearray()
        self.whole = False
        self.over = False


class Transport(ABC):
    """A client's connection with one request on it."""

    def __init__(self) -> None:
        self.response = Response()

    @abstractmethod
    async def ask(
        self,
        house: Served,
        path: str,
        headers: dict[str, str],
        body: bytes,
        *,
        whole: bool = True,
        method: str = "POST",
    ) -> None:
        """Send a request; unless ``whole``, its body goes on."""

    @abstractmethod
    async def read(self) -> None:
        """Take in more of the response, or find it over."""

    @abstractmethod
    async def leave(self) -> None:
        """The client goes away."""

    @abstractmethod
    def stop(self) -> None:
        """The proxy stops, and can wait for the response no longer."""


class OwnConnection(Transport):
    """Over one of Prism's own connections, served by ``kind``."""

    kind: type[HTTP1Connection] | type[HTTP2Connection]

    def connect(self, house: Served) -> None:
        ours, theirs = socket_pair()
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        self.connection = self.kind(house.front, ours, PEER, ServerSettings(), house.tasks)

        async def serve() -> None:
            try:
                await self.connection.run()
            finally:
                await trio.aclose_forcefully(ours)

        house.nursery.start_soon(serve)
        house.sockets.append(theirs)

    async def receive(self) -> bytes:
        """What comes next; empty at the end."""
        try:
            return bytes(await self.stream.receive_some(65536))
        except trio.BrokenResourceError:
            return b""

    async def leave(self) -> None:
        await self.stream.aclose()

    def stop(self) -> None:
        self.connection.drain(trio.current_time() + FIRST_MESSAGE_WAIT / 2)


class OverHTTP1(OwnConnection):
    kind = HTTP1Connection

    async def ask(
        self,
        house: Served,
        path: str,
        headers: dict[str, str],
        body: bytes,
        *,
        whole: bool = True,
        method: str = "POST",
    ) -> None:
        self.connect(house)
        length = len(body) if whole else len(body) + 1
        fields = {"host": "localhost", "content-length": str(length), **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._parser = h11.Connection(h11.CLIENT)
        self._parser.send(h11.Request(method="POST", target="/", headers=[("host", "a")]))
        self._parser.send(h11.EndOfMessage())
        await self.stream.send_all(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)

    async def read(self) -> None:
        response = self.response
        try:
            while (event := self._parser.next_event()) is h11.NEED_DATA:
                self._parser.receive_data(await self.receive())
        except h11.RemoteProtocolError:  # it ends within the response
            response.over = True
            return
        match event:
            case h11.Response():
                response.status = event.status_code
                response.headers = dict(event.headers)
            case h11.Data():
                response.body += event.data
            case h11.EndOfMessage():
                response.whole = response.over = True
            case h11.ConnectionClosed():
                response.over = True


class PatientConnection(h2.connection.H2Connection):
    """h2 takes nothing more after GOAWAY; real clients read their responses."""

    def _receive_goaway_frame(self, frame: Any) -> tuple[list[Any], list[Any]]:
        return [], []


class HTTP2Client(OwnConnection):
    """A connection with one stream; ``received`` is told each part of its DATA."""

    kind = HTTP2Connection

    async def begin(self, house: Served) -> None:
        self.connect(house)
        self.h2 = PatientConnection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        if data := self.h2.data_to_send():
            await self.stream.send_all(data)

    async def read(self) -> None:
        response = self.response
        data = await self.receive()
        if not data:
            response.over = True
            return
        for event in self.h2.receive_data(data):
            match event:
                case h2.events.ResponseReceived():
                    response.headers = dict(event.headers)
                    response.status = int(response.headers[b":status"])
                case h2.events.DataReceived():
                    self.received(event.data)
                case h2.events.TrailersReceived():
                    response.trailers = dict(event.headers)
                case h2.events.StreamEnded():
                    response.whole = response.over = True
                case h2.events.StreamReset():
                    response.over = True
        await self.flush()

    def received(self, data: bytes) -> None:
        self.response.body += data


class OverHTTP2(HTTP2Client):
    async def ask(
        self,
        house: Served,
        path: str,
        headers: dict[str, str],
        body: bytes,
        *,
        whole: bool = True,
        method: str = "POST",
    ) -> None:
        await self.begin(house)
        pseudo = [
            (":method", method),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", path),
        ]
        self.h2.send_headers(1, [*pseudo, *headers.items()])
        self.h2.send_data(1, body, end_stream=whole)
        await self.flush()


class OverHTTP2ByReset(OverHTTP2):
    """One whose client cancels its requests, and stays."""

    async def leave(self) -> None:
        self.h2.reset_stream(1, ErrorCodes.CANCEL)
        await self.flush()


class OverASGI(Transport):
    """Through the adapter for other servers, one of which the test plays."""

    async def ask(
        self,
        house: Served,
        path: str,
        headers: dict[str, str],
        body: bytes,
        *,
        whole: bool = True,
        method: str = "POST",
    ) -> None:
        scope = {
            "type": "http",
            "http_version": "2",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("192.0.2.1", 5),
            "extensions": {"http.response.trailers": {}},
        }
        self._tell, self._told = trio.open_memory_channel[dict[str, Any]](10)
        self._say, self._said = trio.open_memory_channel[dict[str, Any]](1000)
        self._serving = trio.CancelScope()
        self._tell.send_nowait({"type": "http.request", "body": body, "more_body": not whole})

        async def serve() -> None:
            with self._serving, self._say:
                await asgi(house.front)(scope, self._told.receive, self._say.send)

        house.nursery.start_soon(serve)

    async def read(self) -> None:
        response = self.response
        try:
            message = await self._said.receive()
        except trio.EndOfChannel:
            response.over = True
            return
        match message["type"]:
            case "http.response.start":
                response.status = message["status"]
                response.headers = dict(message["headers"])
                self._trailers = message.get("trailers", False)
            case "http.response.body":
                response.body += message["body"]
                response.whole = not message["more_body"] and not self._trailers
            case "http.response.trailers":
                response.trailers = dict(message["headers"])
                response.whole = True

    async def leave(self) -> None:
        self._tell.send_nowait({"type": "http.disconnect"})

    def stop(self) -> None:
        self._serving.cancel()


# -- doors ----------------------------------------------------------------------


class Told(NamedTuple):
    """What a client was told of its call's end. ``http`` is None if it got no response;
    ``whole`` says whether it can know that it got all of it."""

    http: int | None
    code: str = ""
    reason: str = ""
    whole: bool = True


NOTHING = Told(None, whole=False)


class Request(NamedTuple):
    """What is asked for. ``whole``: the request is complete."""

    namespace: str = "kv"
    operation: str = ""
    params: bytes = b"{}"
    whole: bool = True
    seconds: int = 0


class Door(ABC):
    """A client of one kind."""

    operation = "set"
    streams = False

    @property
    def waits_for_stop(self) -> bool:
        """Does the server give a call its last moment, when it stops? Others cut it off."""
        return not isinstance(self.transport, OverASGI)

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    @abstractmethod
    async def ask(self, house: House, request: Request) -> None:
        """Begin the call."""

    async def first_message(self) -> None:
        """Wait for the stream's first message."""
        while not self.has_message():
            await self.transport.read()

    def has_message(self) -> bool:
        return bool(self.transport.response.body.replace(b": still here\n\n", b""))

    async def told(self) -> Told:
        """Wait for the end, and say what it was."""
        while not self.transport.response.over:
            await self.transport.read()
        response = self.transport.response
        return NOTHING if response.status is None else self.interpret(response)

    @abstractmethod
    def interpret(self, response: Response) -> Told:
        """What a response says."""

    async def leave(self) -> None:
        await self.transport.leave()

    def stop(self) -> None:
        self.transport.stop()

    def early(self, code: str, http: int, reason: str) -> Told:
        """What a client must be told of an ending before anything else went out."""
        return Told(http, code, reason)

    def late(self, code: str, http: int, reason: str) -> Told:
        """The same, within a stream."""
        return Told(200, code, reason)

    def broken_off(self) -> Told:
        """What it is told of a stream that the proxy cannot wait for."""
        return Told(200, whole=False)

    def http_status(self, http: int, *, begun: bool) -> int:
        """What the log says of that ending."""
        return 200 if begun and http != 499 else http


class Rest(Door):
    headers: dict[str, str] = {}

    async def ask(self, house: House, request: Request) -> None:
        headers = dict(self.headers)
        if request.seconds:
            headers["prism-timeout"] = f"{request.seconds}s"
        path = f"/v1/{request.namespace}/{request.operation or self.operation}"
        await self.transport.ask(house, path, headers, request.params, whole=request.whole)

    def interpret(self, response: Response) -> Told:
        status = response.status
        if response.headers.get(b"content-type") == b"application/problem+json":
            problem = json.loads(response.body)
            assert problem["status"] == status
            return Told(status, problem["code"], problem["reason"], response.whole)
        return self.interpret_good(response)

    def interpret_good(self, response: Response) -> Told:
        return Told(response.status, "OK", "", response.whole)


class Lines(Rest):
    operation = "watch"
    streams = True
    headers = {"accept": "application/x-ndjson"}

    def interpret_good(self, response: Response) -> Told:
        lines = [json.loads(line) for line in response.body.splitlines()]
        error = lines[-1].get("$error") if lines and isinstance(lines[-1], dict) else None
        return _within(response, error, ended=response.whole)


class LinesBothWays(Lines):
    """Its request goes on for as long as the stream does."""

    headers = {**Lines.headers, "content-type": "application/x-ndjson"}

    async def ask(self, house: House, request: Request) -> None:
        line = request.params + b"\n" * request.whole
        await super().ask(house, request._replace(params=line, whole=False))


class Events(Rest):
    operation = "watch"
    streams = True
    headers = {"accept": "text/event-stream"}

    def interpret_good(self, response: Response) -> Told:
        last = bytes(response.body).strip().split(b"\n\n")[-1]
        kind, _, data = last.partition(b"\ndata: ")
        error = json.loads(data) if kind == b"event: error" else None
        return _within(response, error, ended=kind.endswith(b"event: end"))


def _within(response: Response, error: dict[str, Any] | None, *, ended: bool) -> Told:
    """What a stream's own end says."""
    if error is not None:
        return Told(response.status, error["code"], error["reason"], response.whole)
    return Told(response.status, "OK" if ended else "", "", response.whole)


class Grpc(Door):
    """gRPC, unary."""

    method = "Execute"
    kind: type[ExecuteRequest | StreamRequest] = ExecuteRequest

    async def ask(self, house: House, request: Request) -> None:
        headers = {
            "content-type": "application/grpc",
            "te": "trailers",
            "prism-namespace": request.namespace,
        }
        if request.seconds:
            headers["grpc-timeout"] = f"{request.seconds}S"
        message = self.kind(
            operation=request.operation or self.operation, params_json=request.params.decode()
        )
        body = pack(encode(message))
        if not request.whole:
            body = body[:-1]
        path = f"/prism.plugin.BackendPlugin/{self.method}"
        await self.transport.ask(house, path, headers, body, whole=request.whole)

    def interpret(self, response: Response) -> Told:
        if not response.trailers:
            return Told(response.status, whole=False)
        code = StatusCode(int(response.trailers[b"grpc-status"])).name
        reason = response.trailers.get(b"prism-reason", b"").decode()
        return Told(response.status, code, reason, response.whole)

    def early(self, code: str, http: int, reason: str) -> Told:
        return Told(200, code, reason)

    def http_status(self, http: int, *, begun: bool) -> int:
        return http if http == 499 else 200


class GrpcStream(Grpc):
    method = "ExecuteStream"
    kind = StreamRequest
    operation = "watch"
    streams = True


class WebSocketTransport(ABC):
    """A client's WebSocket, on a connection of either kind."""

    response: Response

    def prepare(self) -> None:
        self.frames = Frames(ConnectionType.CLIENT)
        self.texts: list[str] = []
        self.code: int | None = None

    def take(self, data: bytes) -> None:
        """Bytes of the WebSocket have come; those of an answer that refuses it are its body."""
        if self.response.status not in {101, 200}:
            self.response.body += data
            return
        if self.code is None:
            self.frames.receive_data(data)
        for event in self.frames.events():
            if isinstance(event, TextMessage):
                self.texts.append(event.data)
            elif isinstance(event, CloseConnection):
                self.code = event.code
                self.response.over = True

    @abstractmethod
    async def open(self, house: House, path: str, headers: dict[str, str]) -> None:
        """Ask for a WebSocket; returns once it is there, or refused."""

    @abstractmethod
    async def say(self, data: bytes) -> None:
        """Send bytes of the WebSocket."""


class WebSocketOverHTTP1(WebSocketTransport, OverHTTP1):
    async def open(self, house: House, path: str, headers: dict[str, str]) -> None:
        self.prepare()
        self.connect(house)
        self._parser = h11.Connection(h11.CLIENT)
        fields = [
            ("host", "localhost"),
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            *headers.items(),
        ]
        request = self._parser.send(h11.Request(method="GET", target=path, headers=fields))
        await self.stream.send_all(
            (request or b"") + (self._parser.send(h11.EndOfMessage()) or b"")
        )
        while self.response.status is None:
            while (event := self._parser.next_event()) is h11.NEED_DATA:
                self._parser.receive_data(await self.receive())
            assert isinstance(event, (h11.Response, h11.InformationalResponse))
            self.response.status = event.status_code
            self.response.headers = dict(event.headers)
        if self.response.status == 101:
            self.take(self._parser.trailing_data[0])

    async def read(self) -> None:
        if self.response.status != 101:
            await super().read()
        elif data := await self.receive():
            self.take(data)
        else:
            self.response.over = True

    async def say(self, data: bytes) -> None:
        await self.stream.send_all(data)


class WebSocketOverHTTP2(WebSocketTransport, HTTP2Client):
    async def ask(
        self,
        house: Served,
        path: str,
        headers: dict[str, str],
        body: bytes,
        *,
        whole: bool = True,
        method: str = "POST",
    ) -> None:
        raise NotImplementedError

    async def open(self, house: House, path: str, headers: dict[str, str]) -> None:
        self.prepare()
        await self.begin(house)
        fields = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", path),
            ("sec-websocket-version", "13"),
            *headers.items(),
        ]
        self.h2.send_headers(1, fields)
        await self.flush()
        while self.response.status is None:
            await self.read()

    def received(self, data: bytes) -> None:
        self.take(data)

    async def say(self, data: bytes) -> None:
        self.h2.send_data(1, data)
        await self.flush()


class Socket(Door):
    operation = "watch"
    streams = True
    transport: WebSocketOverHTTP1 | WebSocketOverHTTP2

    async def ask(self, house: House, request: Request) -> None:
        headers = {"prism-timeout": f"{request.seconds}s"} if request.seconds else {}
        path = f"/v1/{request.namespace}/{request.operation or self.operation}"
        await self.transport.open(house, path, headers)
        if request.whole and self.accepted:
            await self.say(request.params.decode())

    async def say(self, text: str) -> None:
        await self.transport.say(self.transport.frames.send(TextMessage(data=text)))

    async def close(self, code: int) -> None:
        """The client closes its WebSocket."""
        await self.transport.say(self.transport.frames.send(CloseConnection(code=code)))

    @property
    def accepted(self) -> bool:
        return self.transport.response.status in {101, 200}

    def has_message(self) -> bool:
        return bool(self.transport.texts)

    def interpret(self, response: Response) -> Told:
        if not self.accepted:
            problem = json.loads(response.body)
            return Told(response.status, problem["code"], problem["reason"], response.whole)
        if self.transport.code is None:
            return Told(101, whole=False)
        if self.transport.code == 1000:
            return Told(101, "OK")
        error = json.loads(self.transport.texts[-1])["$error"]
        restart = error["reason"] == "draining"
        assert self.transport.code == (1012 if restart else 4000 + StatusCode[error["code"]])
        return Told(101, error["code"], error["reason"])

    def early(self, code: str, http: int, reason: str) -> Told:
        return Told(101, code, reason)

    late = early

    def broken_off(self) -> Told:
        return Told(101, "UNAVAILABLE", "draining")

    def http_status(self, http: int, *, begun: bool) -> int:
        return http if http == 499 else 101


DOORS: dict[str, Callable[[], Door]] = {
    "REST, HTTP/1.1": lambda: Rest(OverHTTP1()),
    "REST, HTTP/2": lambda: Rest(OverHTTP2()),
    "REST, HTTP/2 that resets": lambda: Rest(OverHTTP2ByReset()),
    "REST, ASGI": lambda: Rest(OverASGI()),
    "lines, HTTP/1.1": lambda: Lines(OverHTTP1()),
    "lines, HTTP/2": lambda: Lines(OverHTTP2ByReset()),
    "lines, ASGI": lambda: Lines(OverASGI()),
    "lines both ways, HTTP/2": lambda: LinesBothWays(OverHTTP2()),
    "lines both ways, HTTP/2 that resets": lambda: LinesBothWays(OverHTTP2ByReset()),
    "lines both ways, ASGI": lambda: LinesBothWays(OverASGI()),
    "events, HTTP/1.1": lambda: Events(OverHTTP1()),
    "events, HTTP/2": lambda: Events(OverHTTP2()),
    "gRPC": lambda: Grpc(OverHTTP2()),
    "gRPC that cancels": lambda: Grpc(OverHTTP2ByReset()),
    "gRPC, ASGI": lambda: Grpc(OverASGI()),
    "gRPC stream": lambda: GrpcStream(OverHTTP2()),
    "gRPC stream that cancels": lambda: GrpcStream(OverHTTP2ByReset()),
    "gRPC stream, ASGI": lambda: GrpcStream(OverASGI()),
    "WebSocket, HTTP/1.1": lambda: Socket(WebSocketOverHTTP1()),
    "WebSocket, HTTP/2": lambda: Socket(WebSocketOverHTTP2()),
}
