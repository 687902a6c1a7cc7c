"""Streams over HTTP: the front end on both servers, real clients, a plugin in the process."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
import trio
import trio.testing
from msgspec import Struct

from prism.channels.in_process import InProcessChannel
from prism.config.types import NamespaceLimits
from prism.contract.errors import Draining
from prism.contract.messages import InitializeRequest, OperationDeclaration
from prism.sdk import Call, Plugin, PluginError, Positioned, StatusCode, operation

NDJSON = {"accept": "application/x-ndjson"}
SSE = {"accept": "text/event-stream"}


class Number(Struct):
    n: int = 3


class Text(Struct):
    text: str = ""


class Streams(Plugin):
    name = "streams"

    def __init__(self):
        super().__init__()
        self.ended = anyio.Event()
        self.sent = 0

    @operation
    async def count(self, params: Number, call: Call) -> AsyncIterator[int]:
        start = int(call.resume_after or 0)
        for n in range(start, params.n):
            yield Positioned(n, str(n + 1))

    @operation
    async def fail(self, params: Number) -> AsyncIterator[int]:
        for n in range(params.n):
            yield n
        raise PluginError(StatusCode.DATA_LOSS, "broken off")

    @operation
    async def chat(self, params: Text, call: Call) -> AsyncIterator[str]:
        yield params.text
        async for message in call.messages(Text):
            yield message.text.upper()

    @operation
    async def quiet(self, params: Text) -> AsyncIterator[str]:
        try:
            await anyio.sleep(3600)
            yield "never"
        finally:
            self.ended.set()

    @operation
    async def flood(self, params: Number) -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * 1000
                self.sent += 1
        finally:
            self.ended.set()


@pytest.fixture
async def kv(make_namespace):
    """A namespace served by ``Streams``; the plugin is its attribute ``plugin``."""
    namespace = make_namespace(limits=NamespaceLimits(max_payload_bytes=1000))
    plugin = Streams()
    channel = InProcessChannel(plugin)
    await channel.initialize(InitializeRequest(namespace="kv"))
    instance = namespace.slot.current
    instance.channel = channel
    instance.operations.update(
        {
            name: OperationDeclaration(name=name, streaming=declared.streaming)
            for name, declared in Streams.operations.items()
        }
    )
    return namespace, plugin


@pytest.fixture(params=[False, True], ids=["HTTP/1.1", "HTTP/2"])
async def client(request, kv, make_client, serve):
    host, port = await serve(make_client(kv[0]).front)
    async with httpx.AsyncClient(
        base_url=f"http://{host}:{port}/v1/kv",
        http1=not request.param,
        http2=request.param,
        timeout=60,
    ) as client:
        yield client


def events(text):
    """(event, id, data) of each event in an event stream."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if fields:
            found.append((fields.get("event"), fields.get("id"), json.loads(fields["data"])))
    return found


async def test_lines(client):
    answer = await client.post("/count", json={"n": 3}, headers=NDJSON)
    assert (answer.status_code, answer.text) == (200, "0\n1\n2\n")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["x-request-id"]
    anything = await client.post("/count", json={"n": 2})
    assert anything.text == "0\n1\n"


async def test_that_it_is_a_stream_is_known_while_the_plugin_restarts(client, kv):
    slot = kv[0].slot
    instance = slot.current
    slot.say_absent("it restarts", expected=True)
    slot.clear(instance)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask():
            answer = await client.post("/count", json={"n": 2})
            assert (answer.status_code, answer.text) == (200, "0\n1\n")

        while not slot.waiting:  # noqa: ASYNC110 - for the test alone, the slot has no event
            await trio.sleep(0.01)
        slot.fill(instance)


async def test_events(client):
    answer = await client.post("/count", json={"n": 2}, headers=SSE)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-store"
    assert events(answer.text) == [(None, "1", 0), (None, "2", 1), ("end", "#end", {})]


async def test_a_browser_reads_events_and_resumes(client):
    params = {"params": '{"n": 4}'}
    answer = await client.get("/count", params=params, headers={**SSE, "last-event-id": "2"})
    assert events(answer.text) == [(None, "3", 2), (None, "4", 3), ("end", "#end", {})]
    refused = await client.get("/count", params=params)
    assert refused.status_code == 405
    assert "or GET with accept: text/event-stream" in refused.json()["detail"]
    refused = await client.get("/get")
    assert refused.json()["detail"] == "GET is not supported on /v1/kv/get; use POST"
    broken = await client.get("/count", params={"params": "{n"}, headers=SSE)
    assert broken.json()["detail"].startswith("params= of the query is not JSON: ")


async def test_an_empty_stream_is_a_stream(client):
    answer = await client.post("/count", json={"n": 0}, headers=NDJSON)
    assert (answer.status_code, answer.text) == (200, "")


async def test_an_error_before_the_first_message_has_a_status(client, access_lines):
    answer = await client.post("/fail", json={"n": 0}, headers=SSE)
    assert (answer.status_code, answer.json()["code"]) == (500, "DATA_LOSS")
    await trio.testing.wait_all_tasks_blocked()
    assert (access_lines[-1]["status"], access_lines[-1]["http_status"]) == ("DATA_LOSS", 500)


async def test_a_later_error_is_in_the_stream(client, access_lines):
    answer = await client.post("/fail", json={"n": 1}, headers=NDJSON)
    assert answer.status_code == 200
    first, last = answer.text.splitlines()
    error = json.loads(last)["$error"]
    assert (first, error["code"], error["detail"]) == ("0", "DATA_LOSS", "broken off")
    assert error["request_id"] == answer.headers["x-request-id"]
    await trio.testing.wait_all_tasks_blocked()
    assert (access_lines[-1]["status"], access_lines[-1]["http_status"]) == ("DATA_LOSS", 200)
    answer = await client.post("/fail", json={"n": 1}, headers=SSE)
    assert events(answer.text)[-1][0] == "error"
    assert events(answer.text)[-1][2]["code"] == "DATA_LOSS"


@pytest.mark.parametrize(
    ("path", "headers", "content", "status"),
    [
        ("/get", SSE, b"{}", 400),
        ("/count", {"accept": "application/json"}, b"{}", 400),
        ("/count", SSE, b'{"n": "x"}', 400),
        ("/count", SSE, b"nonsense", 400),
        ("/count", SSE, b'{"n": 1, "x": "' + b"x" * 1000 + b'"}', 413),
        ("/count", {**NDJSON, "content-type": "application/x-ndjson"}, b"\xff\n", 400),
        ("/count", {**SSE, "prism-timeout": "soon"}, b"{}", 400),
        ("/count?a=1", SSE, b"{}", 400),
        ("/nothing", SSE, b"{}", 404),
    ],
)
async def test_what_cannot_be_streamed(client, path, headers, content, status):
    answer = await client.post(path, headers=headers, content=content)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def said(*lines):
    for line in lines:
        yield line
        await trio.sleep(0.01)


LINES = {**NDJSON, "content-type": "application/x-ndjson"}


async def test_lines_both_ways(client):
    body = said(b'{"text": "hello"}\n{"te', b'xt": "a"}\n', b'\n{"text": "b"}')
    answer = await client.post("/chat", content=body, headers=LINES)
    assert answer.text == '"hello"\n"A"\n"B"\n'


async def test_a_broken_line_ends_its_stream_with_an_error(client, request):
    if request.node.callspec.params["serve"] == "hypercorn":
        pytest.skip("stock hypercorn ends when a body goes on after its answer")
    body = said(b'{"text": "hello"}\n', b"nonsense\n")
    answer = await client.post("/chat", content=body, headers=LINES)
    first, last = answer.text.splitlines()
    assert first == '"hello"'
    error = json.loads(last)["$error"]
    assert error["code"] == "INVALID_ARGUMENT"
    assert error["detail"].startswith("line 2 of the body is not JSON: ")
    assert (await client.post("/count", headers=NDJSON)).text == "0\n1\n2\n"


@pytest.mark.parametrize(
    ("headers", "content", "detail"),
    [
        (
            {"accept": "*/*", "content-type": "application/x-ndjson"},
            b'{"text": "a"}\n{"text": "b"}\n',
            "the body of lines is not JSON: trailing characters (byte 15); for a stream, send "
            "accept: application/x-ndjson",
        ),
        (
            LINES,
            b'{"text": "a"}{"text": "b"}',
            "line 1 of the body is not JSON: trailing characters (byte 14); does each message have "
            "a line? curl keeps lines with --data-binary, not with -d",
        ),
    ],
)
async def test_what_else_to_send_for_several_lines(client, kv, headers, content, detail):
    both = OperationDeclaration(name="chat", also_streaming=True)
    kv[0].slot.current.operations["chat"] = both
    answer = await client.post("/chat", content=content, headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (400, detail)


@asynccontextmanager
async def opened(client, path, headers, **arguments):
    async with client.stream("POST", path, headers=headers, **arguments) as answer:
        assert answer.status_code == 200
        yield answer


async def test_a_quiet_stream_is_open_at_once_and_a_client_that_leaves_ends_it(client, kv):
    async with opened(client, "/quiet", SSE) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        assert len(kv[0].open_streams) == 1
    await client.aclose()  # over HTTP/2, httpx sends no RST_STREAM when a response is left
    with trio.fail_after(60):
        await kv[1].ended.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert not kv[0].open_streams
    assert not kv[0].streams_by_client


async def test_a_deadline_ends_a_stream_within_it(client):
    headers = {**NDJSON, "prism-timeout": "400ms"}
    answer = await client.post("/quiet", headers=headers)
    assert json.loads(answer.text)["$error"]["code"] == "DEADLINE_EXCEEDED"


async def test_streams_are_told_of_a_stop(client, kv):
    async with opened(client, "/quiet", NDJSON) as answer:
        kv[0].end_streams(Draining("the proxy is stopping"))
        text = await answer.aread()
    assert json.loads(text)["$error"]["reason"] == "draining"


async def test_a_client_that_does_not_read_stops_the_plugin(kv, make_client, serve):
    host, port = await serve(make_client(kv[0]).front)
    stream = await trio.open_tcp_stream(host, port)
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    head = b"POST /v1/kv/flood HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"
    await stream.send_all(head)
    counts = [-1, 0]
    with trio.fail_after(60):
        while counts[-1] == 0 or counts[-1] != counts[-2]:
            await trio.sleep(0.2)
            counts.append(kv[1].sent)
    assert counts[-1] < 20_000
    await trio.aclose_forcefully(stream)
    with trio.fail_after(60):
        await kv[1].ended.wait()
