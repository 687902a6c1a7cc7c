"""Streams over WebSocket: the front end alone, its WebSocket played by an ASGI server's messages.

Real clients, over both HTTP versions, are in tests/e2e/test_websocket_door.py."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
import trio
from msgspec import Struct
from trio.testing import wait_all_tasks_blocked
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, TextMessage

from prism.calls.call import BODY_PAUSE
from prism.calls.router import Router
from prism.channels.in_process import InProcessChannel
from prism.config.types import NamespaceLimits
from prism.contract.errors import Draining
from prism.contract.messages import InitializeRequest, OperationDeclaration
from prism.frontends.answering import Observer
from prism.frontends.asgi import asgi
from prism.frontends.data_port import DataPort
from prism.observability.access_log import AccessLog
from prism.observability.metrics import Metrics
from prism.sdk import Call, Plugin, PluginError, StatusCode, operation
from prism.server.serve import serve
from prism.server.settings import ServerSettings
from prism.streams.listeners import bound_address, open_listeners

LEAVES = {"type": "websocket.disconnect", "code": 1006}


class Number(Struct):
    n: int = 3


class Text(Struct):
    text: str = ""


class Streams(Plugin):
    name = "streams"

    def __init__(self):
        super().__init__()
        self.ended = anyio.Event()

    @operation
    async def count(self, params: Number) -> AsyncIterator[int]:
        for n in range(params.n):
            yield n

    @operation
    async def fail(self, params: Number) -> AsyncIterator[int]:
        yield 0
        raise PluginError(StatusCode.DATA_LOSS, "broken off")

    @operation
    async def chat(self, params: Text, call: Call) -> AsyncIterator[str]:
        yield params.text
        async for message in call.messages(Text):
            yield message.text.upper()

    @operation
    async def quiet(self, params: Text) -> AsyncIterator[str]:
        try:
            yield "on"
            await anyio.sleep_forever()
        finally:
            self.ended.set()


@pytest.fixture
async def kv(make_namespace):
    namespace = make_namespace(limits=NamespaceLimits(max_payload_bytes=100))
    plugin = Streams()
    channel = InProcessChannel(plugin)
    await channel.initialize(InitializeRequest(namespace="kv"))
    instance = namespace.slot.current
    instance.channel = channel
    for name, declared in Streams.operations.items():
        instance.operations[name] = OperationDeclaration(name=name, streaming=declared.streaming)
    return namespace, plugin


@pytest.fixture
def front(kv, nursery):
    router = Router([kv[0]])
    nursery.start_soon(router.deadlines.run)
    return DataPort(router, Observer(Metrics(router), AccessLog()))


class Socket:
    """A client's WebSocket, as an ASGI server has it."""

    def __init__(self):
        self.inbox, self.receiving = trio.open_memory_channel(100)
        self.sending, self.outbox = trio.open_memory_channel(100)

    async def say(self, message):
        kind = "text" if isinstance(message, str) else "bytes"
        await self.inbox.send({"type": "websocket.receive", kind: message})

    async def close(self, code=1000):
        await self.inbox.send({"type": "websocket.disconnect", "code": code})

    async def hear(self):
        """What the front end sends next: a message, or the dictionary of another event."""
        event = await self.outbox.receive()
        return event["text"] if event.get("text") is not None else event.get("bytes") or event


@asynccontextmanager
async def connect(front, target, *, denials=True, **headers):
    """The WebSocket within the block; what serves it has ended after it."""
    socket = Socket()
    path, _, query = target.partition("?")
    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "extensions": {"websocket.http.response": {}} if denials else {},
        "headers": [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ],
    }
    await socket.inbox.send({"type": "websocket.connect"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asgi(front), scope, socket.receiving.receive, socket.sending.send)
        yield socket


async def accepted(socket):
    event = await socket.hear()
    assert event["type"] == "websocket.accept"
    return dict(event["headers"])[b"x-request-id"].decode()


@pytest.mark.parametrize(
    ("target", "headers", "status", "reason"),
    [
        ("/v1/nope/count", {}, 404, "unknown_namespace"),
        ("/v1/KV/count", {}, 400, "invalid_request"),
        ("/v1/kv", {}, 404, "not_found"),
        ("/v1/kv/count", {"prism_timeout": "soon"}, 400, "invalid_request"),
        ("/v1/kv/count", {"origin": "https://evil.example"}, 403, "foreign_origin"),
        ("/v1/kv/\xfcber", {}, 400, "invalid_request"),
    ],
)
async def test_refused_before_it_is_accepted(front, access_lines, target, headers, status, reason):
    async with connect(front, target, **headers) as socket:
        start, body = await socket.hear(), await socket.hear()
    assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
    told = json.loads(body["body"] if isinstance(body, dict) else body)
    assert (told["status"], told["reason"]) == (status, reason)
    if target.isascii():
        (line,) = access_lines
        assert (line["http_status"], line["reason"]) == (status, reason)
        assert line["request_id"] == told["request_id"]


async def test_a_server_without_denial_responses_closes(front, access_lines):
    async with connect(front, "/v1/nope/count", denials=False) as socket:
        assert await socket.hear() == {"type": "websocket.close"}
    assert access_lines[0]["http_status"] == 404


async def test_a_stream_to_its_end(front, kv, access_lines):
    async with connect(front, "/v1/kv/count", x_request_id="my-id") as socket:
        assert await accepted(socket) == "my-id"
        await socket.say('{"n": 2}')
        assert [await socket.hear(), await socket.hear()] == ["0", "1"]
        assert await socket.hear() == {"type": "websocket.close", "code": 1000, "reason": ""}
    (line,) = access_lines
    assert (line["status"], line["http_status"], line["request_id"]) == ("OK", 101, "my-id")
    assert (line["bytes_in"], line["bytes_out"]) == (8, 2)
    assert not kv[0].open_streams
    assert not kv[0].streams_by_client


async def test_params_in_the_url_and_messages_after_them(front):
    async with connect(front, "/v1/kv/chat?params=%7B%22text%22%3A%22a%22%7D") as socket:
        await accepted(socket)
        assert await socket.hear() == '"a"'
        await socket.say('{"text": "b"}')
        assert await socket.hear() == '"B"'
        await socket.say("")
        assert (await socket.hear())["code"] == 1000


async def test_bytes_are_messagepack(front):
    async with connect(front, "/v1/kv/count") as socket:
        await accepted(socket)
        await socket.say(b"\x81\xa1n\x01")
        assert await socket.hear() == b"\x00"


TOO_LARGE = '{"text": "' + "x" * 100 + '"}'


@pytest.mark.parametrize(
    ("operation", "messages", "code", "reason"),
    [
        ("fail", ["{}"], 4015, "plugin_error"),
        ("count", ["nonsense"], 4003, "invalid_request"),
        ("count", [TOO_LARGE], 4008, "payload_too_large"),
        ("chat", ["{}", None, TOO_LARGE], 4008, "payload_too_large"),
        ("chat", ["{}", None, "{"], 4003, "invalid_request"),
        ("nothing", ["{}"], 4012, "unknown_operation"),
        ("get", ["{}"], 4003, "invalid_request"),
        ("chat?params={}", [None, TOO_LARGE], 4008, "payload_too_large"),
        ("chat?param={}", [], 4003, "invalid_request"),
    ],
)
async def test_errors_are_said_and_coded(front, access_lines, operation, messages, code, reason):
    """``messages`` are the client's; None waits for one of the plugin's."""
    heard = []
    async with connect(front, f"/v1/kv/{operation}") as socket:
        await accepted(socket)
        for message in messages:
            if message is None:
                heard.append(await socket.hear())
            else:
                await socket.say(message)
        while not heard or isinstance(heard[-1], str):
            heard.append(await socket.hear())
    error = json.loads(heard[-2])["$error"]
    assert error["reason"] == reason
    assert heard[-1] == {"type": "websocket.close", "code": code, "reason": error["detail"]}
    (line,) = access_lines
    assert (line["status"], line["http_status"], line["reason"]) == (error["code"], 101, reason)
    assert line["bytes_out"] == sum(map(len, heard[:-1]))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (1000, ("OK", 101, None)),
        (1001, ("OK", 101, None)),
        (1005, ("OK", 101, None)),
        (1002, ("CANCELLED", 499, "client_gone")),
        (1006, ("CANCELLED", 499, "client_gone")),
    ],
)
@pytest.mark.parametrize("when", ["first message", "within", "after its last message"])
async def test_a_client_that_closes_or_leaves(front, kv, access_lines, when, code, expected):
    async with connect(front, "/v1/kv/quiet") as socket:
        await accepted(socket)
        if when != "first message":
            await socket.say("{}")
            assert await socket.hear() == '"on"'
        if when == "after its last message":
            await socket.say("")
            await socket.say("and more all the same")
            await wait_all_tasks_blocked()
        await socket.close(code)
        with trio.fail_after(60):
            if when != "first message":
                await kv[1].ended.wait()
    (line,) = access_lines
    assert (line["status"], line["http_status"], line.get("reason")) == expected
    assert not kv[0].open_streams
    assert not kv[0].streams_by_client


async def test_a_client_that_leaves_before_it_is_accepted(front, access_lines):
    async with connect(front, "/v1/kv/quiet") as socket:
        await socket.inbox.send(LEAVES)
    assert access_lines[0]["reason"] == "client_gone"


async def test_a_deadline_is_said(front, kv, access_lines, autojump_clock):
    async with connect(front, "/v1/kv/quiet", prism_timeout="2s") as socket:
        await accepted(socket)
        await socket.say("{}")
        assert await socket.hear() == '"on"'
        assert json.loads(await socket.hear())["$error"]["reason"] == "deadline_exceeded"
        assert (await socket.hear())["code"] == 4004
    assert trio.current_time() == pytest.approx(2)
    assert kv[1].ended.is_set()
    assert access_lines[0]["reason"] == "deadline_exceeded"


async def test_a_client_that_says_nothing_is_not_waited_for(front, autojump_clock):
    async with connect(front, "/v1/kv/count") as socket:
        await accepted(socket)
        assert "no first message" in json.loads(await socket.hear())["$error"]["detail"]
        assert (await socket.hear())["code"] == 4003
    assert trio.current_time() == pytest.approx(BODY_PAUSE)


async def test_a_stop_ends_streams_between_two_messages(front, kv, access_lines):
    async with connect(front, "/v1/kv/quiet") as socket:
        await accepted(socket)
        await socket.say("{}")
        assert await socket.hear() == '"on"'
        kv[0].end_streams(Draining("stopping"))
        assert json.loads(await socket.hear())["$error"]["reason"] == "draining"
        assert await socket.hear() == {
            "type": "websocket.close",
            "code": 1012,
            "reason": "stopping",
        }
    assert access_lines[0]["reason"] == "draining"


async def test_what_a_server_cancels_is_closed_and_logged_once(front, kv, access_lines):
    async with trio.open_nursery() as serving, connect(front, "/v1/kv/quiet") as socket:
        await accepted(socket)
        await socket.say("{}")
        assert await socket.hear() == '"on"'
        serving.cancel_scope.cancel()
    assert (await socket.hear())["code"] == 1001
    assert kv[1].ended.is_set()
    (line,) = access_lines
    assert (line["http_status"], line["reason"]) == (101, "draining")


async def test_a_stop_of_prisms_own_server(front, nursery, access_lines):
    """What is still open when its grace is over."""
    shutdown, stopped = trio.Event(), trio.Event()
    listeners = await open_listeners("127.0.0.1", 0)
    address = bound_address(listeners[0])

    async def run():
        settings = ServerSettings(graceful_timeout=0.1, linger_timeout=0.1)
        await serve(front, listeners, settings, shutdown=shutdown)
        stopped.set()

    nursery.start_soon(run)
    async with await trio.open_tcp_stream(address.host, address.port) as stream:
        await stream.send_all(
            b"GET /v1/kv/quiet HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive_some()
        frames = Connection(ConnectionType.CLIENT)
        frames.receive_data(answer.partition(b"\r\n\r\n")[2])
        await stream.send_all(frames.send(TextMessage(data="{}")))
        events = []
        while not events or not isinstance(events[-1], CloseConnection):
            frames.receive_data(await stream.receive_some())
            events += frames.events()
            if events and not shutdown.is_set():
                shutdown.set()
        on, error, close = events
        assert on.data == '"on"'
        assert json.loads(error.data)["$error"]["reason"] == "draining"
        assert (close.code, close.reason) == (1012, "the proxy stopped")
    await stopped.wait()
    (line,) = access_lines
    assert (line["status"], line["http_status"], line["reason"]) == ("UNAVAILABLE", 101, "draining")
