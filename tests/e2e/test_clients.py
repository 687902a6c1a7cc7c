"""The clients that people have, against a proxy in a process of its own.

======================  ===========  ==========  ===========
client                  HTTP/1.1     h2c         h2 on TLS
                                     at once     (ALPN)
======================  ===========  ==========  ===========
curl                    yes          yes         yes
nghttp                               yes         yes
h2load                  yes          yes         yes
httpx                   yes          yes         yes
aiohttp                 yes
grpcio (raw, trailers)               yes         yes
Node: node:http2        yes (fetch)  yes         yes
Go: net/http            yes          yes         yes
Chromium: fetch()       yes                      yes
======================  ===========  ==========  ===========

Where HTTP/1.1 is ticked, it is spoken in clear text and over TLS; so it is to a client that asks
for h2c by upgrade.
"""

import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
from pathlib import Path

import aiohttp
import httpx
import pytest
from doors import CODECS, DOORS, SERVERS, issue_certificate, open_door, program
from prism_process import eventually

import grpc

BODY = '{"key":"user:123"}'
STORED = '{"found":true,"value":"Ada","version":"1"}'
CALLS = 200
PROGRAMS = Path(__file__).parent / "programs"
SUPPORT = Path(__file__).parent / "support"


class Door:
    """``url`` of the operation to call; ``ca`` is a file if it is behind TLS."""

    def __init__(self, proxy, ca, codec):
        self.url = f"{proxy.url}/v1/demo/get"
        self.origin = proxy.url
        self.ca = ca
        self.codec = codec

    @property
    def tls(self):
        return self.ca is not None


@pytest.fixture(scope="module", params=[(door, codec) for door in DOORS for codec in SERVERS])
def door(request, start_shared_prism, tmp_path_factory):
    directory = tmp_path_factory.mktemp("door")
    # "null" is the origin of the browser's page, which is a file.
    proxy = open_door(start_shared_prism, directory, *request.param, web_origins=["null"])
    # Once: the proxies share a file, in which each write makes another version.
    entry = {"key": "user:123", "value": "Ada", "only_if_not_exists": True}
    proxy.call("demo", "set", entry)
    kind, codec = request.param
    return Door(proxy, directory / "ca.pem" if kind == "tls" else None, codec)


def run(*command, body=BODY, timeout=60, **environment):
    """A program's standard output; its exit status must be 0."""
    done = subprocess.run(
        [str(word) for word in command],
        input=body,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def body_file(tmp_path):
    file = tmp_path / "body.json"
    file.write_text(BODY)
    return file


@pytest.mark.parametrize("option", ["--http1.1", "--http2", "--http2-prior-knowledge"])
def test_curl(door, option):
    curl = program("curl", "curl")
    trust = ["--cacert", door.ca] if door.tls else []
    common = [curl, "-sS", option, *trust, "-w", " %{http_version} %{http_code}"]
    # In clear text, --http2 asks for an upgrade, which is ignored; hypercorn does so with a body.
    upgrade = option == "--http2" and not door.tls
    version = "1.1" if option == "--http1.1" or upgrade else "2"
    without_body = "2" if upgrade and door.codec == "hypercorn" else version
    assert run(*common, door.origin + "/v1/demo").endswith(f" {without_body} 200")
    assert run(*common, "-d", BODY, door.url) == f"{STORED} {version} 200"


def test_nghttp(door, body_file):
    nghttp = program("nghttp", "nghttp2-client")
    printed = run(nghttp, "--verbose", "--no-verify-peer", "--data", body_file, door.url)
    assert STORED in printed
    assert ":status: 200" in printed
    assert "recv GOAWAY" not in printed
    assert "recv RST_STREAM" not in printed


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_h2load(door, body_file, protocol):
    if protocol == "http/1.1" and door.codec == "hypercorn":
        pytest.skip("h2load counts answers without a reason phrase, as hypercorn's are, as failed")
    h2load = program("h2load", "nghttp2-client")
    version = ["--h1"] if protocol == "http/1.1" else ["--max-concurrent-streams", 50]
    shape = ["--requests", 2000, "--clients", 4, *version, "--data", body_file]
    printed = run(h2load, *shape, door.url)
    assert re.search(r"2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout", printed), printed
    assert "status codes: 2000 2xx," in printed


@pytest.mark.parametrize("http2", [False, True])
def test_httpx(door, http2):
    verify = ssl.create_default_context(cafile=door.ca) if door.tls else False
    with httpx.Client(http1=not http2, http2=http2, verify=verify, trust_env=False) as client:
        for _ in range(10):
            response = client.post(door.url, content=BODY)
            assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            assert (response.status_code, response.text) == (200, STORED)


def test_aiohttp(door):
    async def calls():
        context = ssl.create_default_context(cafile=door.ca) if door.tls else False
        connector = aiohttp.TCPConnector(ssl=context, limit=20)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def call():
                async with session.post(door.url, data=BODY) as response:
                    return response.status, await response.text()

            return await asyncio.gather(*(call() for _ in range(CALLS)))

    assert set(asyncio.run(calls())) == {(200, STORED)}


@pytest.mark.parametrize("kind", ["http1", "http2"])
def test_node(door, kind):
    node = program("node", "nodejs")
    # fetch() has no option for this; node:http2 is told in the program.
    trust = {"NODE_EXTRA_CA_CERTS": str(door.ca)} if door.tls else {}
    script = PROGRAMS / "http2_client.js"
    assert run(node, script, kind, door.url, CALLS, **trust) == f"{CALLS} 200 {STORED}\n"


@pytest.mark.parametrize("kind", ["http1", "http2"])
def test_go(door, kind):
    client = program("http_client", "Go")
    protocol = {"http1": "HTTP/1.1", "http2": "HTTP/2.0"}[kind]
    assert run(client, kind, door.url, CALLS) == f"{CALLS} {protocol} 200 {STORED}\n"


PAGE = """<!doctype html><pre id="outcome"></pre><script>
const call = async () => {
    const response = await fetch("%s", {method: "POST", body: '%s'});
    return `${response.status} ${await response.text()}`;
};
Promise.all(Array.from({length: 20}, call)).then(String, String).then((outcome) => {
    document.getElementById("outcome").textContent = outcome;
});
</script>"""


def test_chromium(door, tmp_path):
    """A page that fetches; which protocol it was shows in the browser's own log."""
    chromium = program("chromium-headless-shell", "chromium-headless-shell")
    page, log = tmp_path / "page.html", tmp_path / "net-log.json"
    page.write_text(PAGE % (door.url, BODY))
    printed = run(
        chromium,
        *("--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
        "--ignore-certificate-errors",
        *("--virtual-time-budget=20000", f"--log-net-log={log}"),
        *("--dump-dom", page.as_uri()),
    )
    outcome = ",".join([f"200 {STORED}"] * 20)
    assert f'<pre id="outcome">{outcome}</pre>' in printed
    record = json.loads(log.read_text())
    begun = record["constants"]["logEventTypes"]["HTTP2_SESSION_INITIALIZED"]
    sessions = [event for event in record["events"] if event["type"] == begun]
    assert len(sessions) == (1 if door.tls else 0)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("codec", CODECS)
def test_grpcio(start_process, tmp_path, tls, codec):
    """gRPC's own HTTP/2, with the trailers that every gRPC answer ends with."""
    printed = tmp_path / "printed"
    files = issue_certificate(tmp_path) if tls else ()
    start_process(sys.executable, str(SUPPORT / "grpc_echo.py"), codec, *files, log=printed)
    # A line of its own: a warning about its key may stand before it.
    port = eventually(lambda: re.findall(r"^(\d+)$", printed.read_text(), re.MULTILINE))[0]
    if tls:
        trust = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())
        channel = grpc.secure_channel(f"127.0.0.1:{port}", trust)
    else:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    with channel:
        call = channel.unary_unary("/test.Echo/Unary")
        message = b"x" * 1000
        assert [call.future(message, timeout=60).result() for _ in range(3)] == [message] * 3
        many = [call.future(b"%d" % n, timeout=60) for n in range(500)]
        assert [each.result() for each in many] == [b"%d" % n for n in range(500)]
        large = b"y" * 3_000_000
        assert call(large, timeout=60) == large
        with pytest.raises(grpc.RpcError) as caught:
            call(b"missing", timeout=60)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert caught.value.details() == "missing"
        stream = channel.stream_stream("/test.Echo/Stream")
        messages = [b"%d" % n for n in range(1000)]
        assert list(stream(iter(messages), timeout=60)) == messages
