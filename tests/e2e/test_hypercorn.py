"""``listen.server: hypercorn``: what is not plain HTTP, and the process around it. Plain calls of
many clients are in test_clients.py, gRPC in test_grpc_door.py."""

import json
import signal
import ssl

import pytest
import trio
from doors import issue_certificate, open_door
from http2_client import Http2Client
from prism_process import eventually
from trio_websocket import ConnectionClosed, wrap_client_stream


@pytest.fixture
def proxy(start_prism, tmp_path):
    return open_door(start_prism, tmp_path, "cleartext", "hypercorn")


async def test_a_websocket_until_the_stop(proxy):
    stream = await trio.open_tcp_stream("127.0.0.1", proxy.port)
    async with stream, trio.open_nursery() as nursery:
        host = f"127.0.0.1:{proxy.port}"
        client = await wrap_client_stream(nursery, stream, host, "/v1/demo/watch")
        await client.send_message('{"existing": true}')
        assert json.loads(await client.get_message()) == {"event": "ready"}
        proxy.process.terminate()
        assert json.loads(await client.get_message())["$error"]["reason"] == "draining"
        with pytest.raises(ConnectionClosed) as closed:
            await client.get_message()
        assert closed.value.reason.code == 1012
        nursery.cancel_scope.cancel()
    assert await trio.to_thread.run_sync(proxy.process.wait) == 0


def test_certificates_are_reloaded(start_prism, tmp_path):
    proxy = open_door(start_prism, tmp_path, "tls", "hypercorn")

    def shown():
        return ssl.get_server_certificate(("127.0.0.1", proxy.port))

    first = shown()
    assert first == (tmp_path / "cert.pem").read_text()
    issue_certificate(tmp_path)
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: shown() != first)
    assert shown() == (tmp_path / "cert.pem").read_text()


def test_answers_that_nobody_takes_are_bounded(start_prism, tmp_path):
    """Each counts for its namespace and the proxy until hypercorn says that its client has it."""
    limit = 16 * 1024 * 1024
    limits = {"answer_memory_bytes": limit}
    demo = {"name": "demo", "backend": "sqlite", "limits": limits}
    listen = {"server": "hypercorn", "limits": limits}
    proxy = start_prism({"listen": listen, "namespaces": [demo]})
    keys = [f"k{number}" for number in range(4)]
    for key in keys:
        value = {"key": key, "value": "x" * 500_000}
        assert proxy.call("demo", "set", value).status_code == 200
    before = proxy.resident()
    client = Http2Client(proxy.port)
    client.h2.update_settings({4: 0})  # INITIAL_WINDOW_SIZE
    client.flush()
    for _ in range(60):
        client.data(client.open("/v1/demo/mget"), json.dumps({"keys": keys}).encode(), end=True)

    def answered():
        some = proxy.metric("prism_requests_total", namespace="demo", operation="mget")
        return some and not proxy.metric("prism_requests_in_flight", namespace="demo")

    eventually(answered)
    assert limit / 2 < proxy.metric("prism_answer_memory_bytes") <= limit
    # Hypercorn copies each; and the store has two batches of some 8 MiB on their way.
    assert proxy.resident() - before < 2 * limit + 48 * 1024 * 1024
    assert proxy.call("demo", "get", {"key": "none"}).json() == {"found": False}
    client.close()
    eventually(lambda: not proxy.metric("prism_answer_memory_bytes"))
