"""Behind nginx, with the configuration that docs/operations.md shows."""

import json
import os
import re
import ssl
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
from doors import issue_certificate, program
from prism_process import SUPPORT, eventually, unused_port
from stream_doors import grpc_stubs
from trio_websocket import open_websocket_url

import grpc

PAGE = Path(__file__).parents[2] / "docs/operations.md"
STREAMS = {"type": "sidecar", "command": [sys.executable, str(SUPPORT / "stream_plugin.py")]}
BODIES = 3_000_000
"""Bytes: more than nginx lets pass by default."""
LIMITS = {"max_payload_bytes": BODIES + 100}
CLIENT = "127.0.0.5"
"""Where clients come from: the proxy trusts 127.0.0.1, which is nginx."""


class Behind:
    """A proxy, and nginx before it."""

    def __init__(self, proxy, port, authority):
        self.proxy = proxy
        self.authority = authority
        self.place = f"localhost:{port}"

    @property
    def context(self):
        """A new one: httpx sets protocols in what it is given."""
        return ssl.create_default_context(cafile=self.authority)

    def client(self, **options):
        transport = httpx.HTTPTransport(verify=self.context, local_address=CLIENT, **options)
        return httpx.Client(transport=transport, base_url=f"https://{self.place}", timeout=60)


@pytest.fixture(scope="module")
def behind(start_shared_prism, start_shared_process, tmp_path_factory):
    nginx = "/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else program("nginx", "nginx")
    directory = tmp_path_factory.mktemp("nginx")
    certificate, key = issue_certificate(directory)
    proxy = start_shared_prism(
        {
            "listen": {"trusted_proxies": {"networks": ["127.0.0.1/32"]}},
            "namespaces": [
                {"name": "kv", "backend": "streams", "plugin": STREAMS, "limits": LIMITS}
            ],
        }
    )
    [shown] = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    port = unused_port()
    for written, here in (
        ("server 127.0.0.1:50051;", f"server 127.0.0.1:{proxy.port};"),
        ("listen 443 ", f"listen 127.0.0.1:{port} "),
        ("/etc/nginx/tls/cert.pem", certificate),
        ("/etc/nginx/tls/key.pem", key),
    ):
        assert written in shown
        shown = shown.replace(written, here)  # in each place
    places = "".join(
        f"{kind}_temp_path {directory}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = directory / "nginx.conf"
    file.write_text(
        f"{'user root;' if os.geteuid() == 0 else ''}\n"
        f"daemon off; worker_processes 1; pid {directory}/pid; error_log stderr;\n"
        f"events {{ }}\nhttp {{\naccess_log off;\n{places}{shown}}}\n"
    )
    log = directory / "log"
    start_shared_process(nginx, "-e", "stderr", "-c", str(file), log=log)
    made = Behind(proxy, port, str(directory / "ca.pem"))

    def is_up():
        with httpx.Client(verify=False, trust_env=False) as client:
            try:
                return client.get(f"https://{made.place}/healthz").status_code == 200
            except httpx.TransportError:
                return False

    eventually(is_up)
    return made


@pytest.mark.parametrize("http2", [False, True])
def test_calls_are_their_clients_and_share_connections(behind, http2):
    accepted = behind.proxy.metric("prism_connections_accepted_total")
    lie = {"x-forwarded-for": "6.6.6.6", "x-request-id": f"asked-{http2}"}
    with behind.client(http1=not http2, http2=http2) as client:
        for _ in range(20):
            answer = client.post("/v1/kv/echo", content='{"a":1}', headers=lie)
            assert (answer.status_code, answer.json()) == (200, {"a": 1})
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        large = json.dumps({"text": "x" * (BODIES - 100)})
        assert client.post("/v1/kv/echo", content=large).status_code == 200
        if not http2:  # httpx waits there for room to send the rest, instead of for an answer
            assert client.post("/v1/kv/echo", content=large + " " * 1000).status_code == 413
    assert behind.proxy.metric("prism_connections_accepted_total") - accepted < 10
    lines = eventually(
        lambda: [one for one in behind.proxy.records if one.get("request_id") == f"asked-{http2}"]
    )
    assert {line["client"].rpartition(":")[0] or line["client"] for line in lines} == {CLIENT}


@pytest.mark.parametrize("http2", [False, True])
def test_a_streams_messages_go_out_as_they_come(behind, http2):
    with (
        behind.client(http1=not http2, http2=http2) as client,
        client.stream("POST", "/v1/kv/deaf", content="{}") as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == '"I take nothing"'
        assert client.post("/v1/kv/wake", content="{}").status_code == 200
        assert next(lines) == "0"


async def test_websockets(behind):
    with trio.fail_after(60):
        async with open_websocket_url(
            f"wss://{behind.place}/v1/kv/chat", ssl_context=behind.context
        ) as socket:
            await socket.send_message('{"text": "hi"}')
            assert await socket.get_message() == '"hi"'
            for word in ("a", "b"):
                await socket.send_message(json.dumps({"text": word}))
                assert await socket.get_message() == json.dumps(word.upper())


def test_grpc(behind):
    messages, services = grpc_stubs()
    credentials = grpc.ssl_channel_credentials(Path(behind.authority).read_bytes())
    with grpc.secure_channel(behind.place, credentials) as channel:
        stub = services.BackendPluginStub(channel)
        ask = partial(stub.Execute, metadata=[("prism-namespace", "kv")], timeout=60)
        answer = ask(messages.ExecuteRequest(operation="echo", params_json='{"a": 1}'))
        assert json.loads(answer.result_json) == {"a": 1}
        with pytest.raises(grpc.RpcError) as refused:
            ask(messages.ExecuteRequest(operation="refuse", params_json='{"text": "no"}'))
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        said = (
            messages.StreamRequest(operation="chat", params_json=json.dumps({"text": word}))
            for word in ("hi", "a")
        )
        heard = stub.ExecuteStream(said, metadata=[("prism-namespace", "kv")], timeout=60)
        assert [json.loads(each.result_json) for each in heard] == ["hi", "A", "bye"]
