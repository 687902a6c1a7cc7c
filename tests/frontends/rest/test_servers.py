"""The front end on Prism's own server and on stock hypercorn, with real clients."""

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked


@pytest.mark.parametrize("http2", [False, True])
async def test_calls(make_namespace, make_client, serve, http2):
    host, port = await serve(make_client(make_namespace()).front)
    async with httpx.AsyncClient(
        base_url=f"http://{host}:{port}", http1=not http2, http2=http2
    ) as client:
        answer = await client.post("/v1/kv/get", content=b'{"key": "a:b"}')
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        assert (answer.status_code, answer.content) == (200, b'{"key": "a:b"}')
        assert answer.headers["content-type"] == "application/json"
        form = {"content-type": "application/x-www-form-urlencoded"}
        assert (await client.post("/v1/kv/get", content=b"{}", headers=form)).status_code == 200
        refused = await client.post("/v1/kv/get", content=b"[]")
        assert refused.json()["reason"] == "invalid_request"
        assert (await client.get("/readyz")).status_code == 200
        head = await client.head("/v1")
        assert (head.status_code, head.content) == (200, b"")


async def test_client_that_goes_away(make_namespace, make_client, serve, access_lines):
    began, ended = trio.Event(), trio.Event()

    async def hang(request):
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    namespace = make_namespace(hang)
    stream = await trio.open_tcp_stream(*await serve(make_client(namespace).front))
    await stream.send_all(b"POST /v1/kv/get HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}")
    with trio.fail_after(60):
        await began.wait()
        await stream.aclose()
        await ended.wait()
    await wait_all_tasks_blocked()
    assert namespace.in_flight == 0
    (line,) = access_lines
    assert (line["status"], line["reason"]) == ("CANCELLED", "client_gone")
