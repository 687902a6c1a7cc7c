"""WebSockets at the front door: trio-websocket over HTTP/1.1, and RFC 8441 over HTTP/2."""

import json
import sys
from contextlib import asynccontextmanager, suppress

import h2.config
import h2.connection
import h2.events
import httpx
import pytest
import trio
from h2.settings import SettingCodes
from prism_process import SUPPORT, eventually, settled
from trio_websocket import ConnectionClosed, wrap_client_stream
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.utilities import LocalProtocolError


@pytest.fixture(scope="module", params=["h2", "nghttp2"])
def proxy(request, start_shared_prism):
    plugin = {"type": "sidecar", "command": [sys.executable, str(SUPPORT / "stream_plugin.py")]}
    limits = {"max_payload_bytes": 10_000}
    return start_shared_prism(
        {
            "listen": {"web_origins": ["https://app.example.com"]},
            "namespaces": [
                {"name": "kv", "backend": "streams", "plugin": plugin, "limits": limits}
            ],
        },
        environment={"PRISM_HTTP2_CODEC": request.param},
    )


class OverHTTP2:
    """A WebSocket on one stream of an HTTP/2 connection, as RFC 8441 has it."""

    def __init__(self, stream):
        self.stream = stream
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.frames = Connection(ConnectionType.CLIENT)
        self.events = []
        self.id = 0
        self.status = 0
        self.body = b""
        self.ended = False

    async def flush(self):
        await self.stream.send_all(self.h2.data_to_send())

    async def pump(self):
        data = await self.stream.receive_some(65536)
        assert data
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.status = int(dict(event.headers)[":status"])
            elif isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.body += event.data
                if self.status == 200:
                    self.frames.receive_data(event.data)
                    self.events += self.frames.events()
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                self.ended = True
        await self.flush()

    async def connect(self, authority, target):
        self.h2.initiate_connection()
        await self.flush()
        while not self.h2.remote_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL):
            await self.pump()
        self.id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(
            self.id,
            [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":authority", authority),
                (":path", target),
                ("sec-websocket-version", "13"),
            ],
        )
        await self.flush()
        while not self.status:
            await self.pump()
        if self.status != 200:
            while not self.ended:
                await self.pump()

    async def say(self, event):
        data = self.frames.send(event)
        while data:
            while not (size := min(self.h2.local_flow_control_window(self.id), 16384, len(data))):
                await self.pump()
            self.h2.send_data(self.id, data[:size])
            data = data[size:]
            await self.flush()

    async def send_message(self, message):
        kind = TextMessage if isinstance(message, str) else BytesMessage
        await self.say(kind(data=message))

    async def get_message(self):
        while True:
            while self.events:
                event = self.events.pop(0)
                if isinstance(event, (TextMessage, BytesMessage)):
                    return event.data
                if isinstance(event, CloseConnection):
                    await self.say(event.response())
                    raise ConnectionClosed(event)
            await self.pump()


@asynccontextmanager
async def over_http2(proxy, target):
    stream = await trio.open_tcp_stream("127.0.0.1", proxy.port)
    async with stream:
        client = OverHTTP2(stream)
        await client.connect(f"127.0.0.1:{proxy.port}", target)
        yield client


@asynccontextmanager
async def over_http1(proxy, target, **arguments):
    stream = await trio.open_tcp_stream("127.0.0.1", proxy.port)
    async with stream, trio.open_nursery() as nursery:
        host = f"127.0.0.1:{proxy.port}"
        yield await wrap_client_stream(nursery, stream, host, target, **arguments)
        # The library's reader waits for ever where nobody takes its message.
        nursery.cancel_scope.cancel()


@pytest.fixture(params=[over_http1, over_http2], ids=["HTTP/1.1", "HTTP/2"])
def connect(request, proxy):
    def connect(operation, query=""):
        return request.param(proxy, f"/v1/kv/{operation}{query}")

    return connect


async def closing_code(client):
    """The code that the server closes with; messages before it are dropped."""
    with trio.fail_after(60):
        while True:
            try:
                await client.get_message()
            except ConnectionClosed as closed:
                return int(closed.reason.code)


async def test_a_stream_to_its_end(connect):
    with trio.fail_after(60):
        async with connect("count") as client:
            await client.send_message('{"n": 3}')
            assert [await client.get_message() for _ in range(3)] == ["0", "1", "2"]
            assert await closing_code(client) == 1000


async def test_params_in_the_url(connect):
    async with connect("count", "?params=%7B%22n%22%3A2%7D") as client:
        assert await client.get_message() == "0"


async def test_both_directions_and_the_clients_end(connect):
    async with connect("chat") as client:
        await client.send_message('{"text": "hello"}')
        assert await client.get_message() == '"hello"'
        for word in ("a", "b"):
            await client.send_message(json.dumps({"text": word}))
            assert await client.get_message() == json.dumps(word.upper())
        await client.send_message("")
        assert await client.get_message() == '"bye"'
        assert await closing_code(client) == 1000


async def test_bytes_are_messagepack(connect):
    async with connect("count") as client:
        await client.send_message(b"\x81\xa1n\x02")
        assert [await client.get_message() for _ in range(2)] == [b"\x00", b"\x01"]


@pytest.mark.parametrize(
    ("operation", "message", "code", "status"),
    [
        ("fail", '{"n": 1}', 4015, "DATA_LOSS"),
        ("count", "nonsense", 4003, "INVALID_ARGUMENT"),
        ("count", '{"n": 1, "n": 2}', 4003, "INVALID_ARGUMENT"),
        ("count", '{"n": "x"}', 4003, "INVALID_ARGUMENT"),
        ("count", b"\xc1", 4003, "INVALID_ARGUMENT"),
        ("count", '{"n": 1, "x": "' + "x" * 10_000 + '"}', 4008, "RESOURCE_EXHAUSTED"),
        ("nothing", "{}", 4012, "UNIMPLEMENTED"),
        ("echo", "{}", 4003, "INVALID_ARGUMENT"),
    ],
)
async def test_errors_are_said_and_coded(connect, operation, message, code, status):
    async with connect(operation) as client:
        await client.send_message(message)
        said = json.loads(await client.get_message())
        if operation == "fail":
            assert said == 0
            said = json.loads(await client.get_message())
        assert said["$error"]["code"] == status
        assert await closing_code(client) == code


async def test_a_broken_message_later_ends_its_stream_only(connect):
    async with connect("chat") as one, connect("chat") as other:
        for client in (one, other):
            await client.send_message('{"text": "hi"}')
            assert await client.get_message() == '"hi"'
        await one.send_message("{")
        assert await closing_code(one) == 4003
        await other.send_message('{"text": "still"}')
        assert await other.get_message() == '"STILL"'


async def test_a_message_over_the_servers_limit(connect):
    async with connect("chat") as client:
        await client.send_message('{"text": "hi"}')
        assert await client.get_message() == '"hi"'
        # The server may close before it has all of it.
        with trio.move_on_after(10), suppress(ConnectionClosed, LocalProtocolError):
            for _ in range(3):
                await client.send_message("x" * 400_000)
        assert await closing_code(client) in {1009, 4008}


def handshake(proxy, target, changes):
    """The answer to a handshake that is refused."""
    headers = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    with httpx.Client(base_url=proxy.url) as client:
        return client.get(target, headers={**headers, **changes})


async def test_a_client_that_leaves_ends_its_stream(connect, proxy):
    seen = proxy.call("kv", "seen").json()
    begun, before = seen["begun"], seen["cancelled"]
    async with connect("quiet") as client:
        await client.send_message("{}")
        await trio.to_thread.run_sync(  # in the plugin: else there is nothing to cancel
            eventually, lambda: proxy.call("kv", "seen").json()["begun"] > begun
        )
        if isinstance(client, OverHTTP2):
            await trio.aclose_forcefully(client.stream)
        else:
            await trio.aclose_forcefully(client._stream)
    await trio.to_thread.run_sync(
        eventually, lambda: proxy.call("kv", "seen").json()["cancelled"] > before
    )


async def test_a_slow_reader_stops_its_own_stream_only(connect, proxy):
    before = proxy.resident()
    async with connect("flood") as client:
        await client.send_message('{"size": 1000}')
        await client.get_message()
        await trio.to_thread.run_sync(settled, lambda: proxy.call("kv", "seen").json()["sent"])
        assert proxy.resident() - before < 20 * 1024 * 1024
        for _ in range(2000):
            await client.get_message()


async def test_pings_are_answered_over_http2(proxy):
    async with over_http2(proxy, "/v1/kv/quiet") as client:
        await client.send_message("{}")
        await client.say(Ping(payload=b"there?"))
        with trio.fail_after(60):
            while not any(isinstance(event, Pong) for event in client.events):
                await client.pump()


async def test_what_is_refused_before_it_begins(proxy):
    for target, status in [
        ("/v1/nope/count", 404),
        ("/v1/KV/count", 400),
        ("/v1/kv", 404),
        ("/elsewhere", 404),
    ]:
        answer = await trio.to_thread.run_sync(handshake, proxy, target, {})
        assert (answer.status_code, answer.json()["status"]) == (status, status)
        async with over_http2(proxy, target) as client:
            assert client.status == status
            assert json.loads(client.body)["request_id"]


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.com", True),
        ("https://evil.example.com", False),
        ("null", False),
        ("http://127.0.0.1:{port}", True),
        ("http://127.0.0.1:1", False),
    ],
)
async def test_web_pages_of_other_sites_are_kept_out(proxy, origin, allowed):
    origin = origin.format(port=proxy.port)
    if not allowed:
        answer = await trio.to_thread.run_sync(handshake, proxy, "/v1/kv/count", {"origin": origin})
        assert (answer.status_code, answer.json()["reason"]) == (403, "foreign_origin")
        return
    headers = [(b"origin", origin.encode())]
    async with over_http1(proxy, "/v1/kv/count", extra_headers=headers) as client:
        await client.send_message("{}")
        assert await client.get_message() == "0"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"sec-websocket-version": "8"}, 426),
        ({"sec-websocket-key": "short"}, 400),
        ({"sec-websocket-key": ""}, 400),
    ],
)
def test_handshakes_that_are_none(proxy, changes, status):
    answer = handshake(proxy, "/v1/kv/count", changes)
    assert answer.status_code == status
    assert answer.json()["status"] == status


async def test_no_extension_is_agreed_on(proxy):
    stream = await trio.open_tcp_stream("127.0.0.1", proxy.port)
    async with stream:
        await stream.send_all(
            b"GET /v1/kv/count HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"sec-websocket-extensions: permessage-deflate\r\n\r\n"
        )
        head = await stream.receive_some(65536)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    assert b"extensions" not in head.lower()


async def test_a_stop_closes_streams_with_a_code(start_prism):
    proxy = start_prism()
    async with over_http1(proxy, "/v1/demo/watch") as client:
        await client.send_message('{"existing": true}')
        assert json.loads(await client.get_message()) == {"event": "ready"}
        proxy.process.terminate()
        assert json.loads(await client.get_message())["$error"]["reason"] == "draining"
        assert await closing_code(client) == 1012
    assert await trio.to_thread.run_sync(proxy.process.wait) == 0
