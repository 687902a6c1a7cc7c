"""Requests of guests: to what is granted, at an address that may be, and no further."""

import base64
import http.server
import json
import socket
import ssl
import threading
import time
from contextlib import suppress
from ipaddress import ip_address

import pytest
import trustme

from prism.hosts.wasm import http as outgoing
from prism.hosts.wasm.http import Origin, Outgoing, may_lead_to
from tests.hosts.wasm.modules import wat

LOOPBACK = ["127.0.0.0/8"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"\xff\0binary" if self.path == "/binary" else json.dumps(self.facts()).encode()
        if self.path == "/large":
            body = b"x" * (outgoing.MAX_BODY + 1)
        self.send_response(302 if self.path == "/elsewhere" else 200)
        if self.path == "/elsewhere":
            self.send_header("Location", "http://127.0.0.1:1/secret")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - http.server's word

    def facts(self):
        size = int(self.headers.get("Content-Length", 0))
        return {
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": self.rfile.read(size).decode(),
        }

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def fetch(granted, request, *, seconds=60.0, on_stop=lambda _: None):
    text = request if isinstance(request, bytes) else json.dumps(request).encode()
    deadline = time.monotonic() + seconds
    return json.loads(Outgoing(granted).fetch(text, deadline, on_stop))


def test_a_request_and_its_answer(server):
    granted = [Origin(f"http://127.0.0.1:{server}")]
    answer = fetch(
        granted,
        {
            "method": "POST",
            "url": f"http://127.0.0.1:{server}/a/b?c=d",
            "headers": {"X-Test": "1", "Accept": "text/plain"},
            "body": "grüß",
        },
    )
    assert answer["status"] == 200
    facts = json.loads(answer["body"])
    assert (facts["method"], facts["path"], facts["body"]) == ("POST", "/a/b?c=d", "grüß")
    assert facts["headers"]["x-test"] == "1"
    assert facts["headers"]["accept"] == "text/plain"
    assert facts["headers"]["host"] == f"127.0.0.1:{server}"
    assert facts["headers"]["content-length"] == "6"


def test_bytes(server):
    granted = [Origin(f"http://127.0.0.1:{server}")]
    answer = fetch(granted, {"url": f"http://127.0.0.1:{server}/binary"})
    assert base64.b64decode(answer["body_base64"]) == b"\xff\0binary"
    request = {"url": f"http://127.0.0.1:{server}/", "method": "POST", "body_base64": "YQ=="}
    assert json.loads(fetch(granted, request)["body"])["body"] == "a"


def test_redirects_are_shown_and_not_followed(server):
    granted = [Origin(f"http://127.0.0.1:{server}")]
    answer = fetch(granted, {"url": f"http://127.0.0.1:{server}/elsewhere"})
    assert answer["status"] == 302
    assert answer["headers"]["location"] == "http://127.0.0.1:1/secret"


def test_an_answer_without_end(server):
    granted = [Origin(f"http://127.0.0.1:{server}")]
    answer = fetch(granted, {"url": f"http://127.0.0.1:{server}/large"})
    assert "more than" in answer["error"]


def test_the_environment_s_proxy_is_not_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    granted = [Origin(f"http://127.0.0.1:{server}")]
    assert fetch(granted, {"url": f"http://127.0.0.1:{server}/"})["status"] == 200


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://api.example.com.evil.example/", "not granted"),
        ("http://evil.example/", "not granted"),
        ("http://api.example.com:81/", "not granted"),
        ("https://api.example.com/", "not granted"),
        ("http://api.example.com@evil.example/", "names a user"),
        ("http://evil.example@api.example.com/", "names a user"),
        ("http://api.example.com\\@evil.example/", "names a user"),
        ("http://api.example.com/\r\nHost: evil", "must be escaped"),
        ("http://api.example.com/a b", "must be escaped"),
        ("http://api.example.com/ä", "must be escaped"),
        ("http+unix://%2Frun%2Fprism.sock/", "only http and https"),
        ("unix:/run/prism.sock", "only http and https"),
        ("file:///etc/passwd", "only http and https"),
        ("//api.example.com/", "only http and https"),
        ("http:///run/prism.sock", "no host"),
        ("http://%61pi.example.com/", "no host"),
        ("http://[::ffff:127.0.0.1%25lo]/", "no host"),
        ("http://[api.example.com]/", "cannot be used"),
        ("http://api.example.com:99999/", "cannot be used"),
        ("http://" + "a" * 9000, "too long"),
        ("", "only http and https"),
    ],
)
def test_urls_that_lead_elsewhere(url, said, monkeypatch):
    monkeypatch.setattr(outgoing, "connect", None)  # it does not come so far
    assert said in fetch([Origin("http://api.example.com")], {"url": url})["error"]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (b"\xff", "cannot be used"),
        (b"[" * 100_000, "cannot be used"),
        ({"url": 1}, "cannot be used"),
        ({"url": "http://api.example.com", "more": 1}, "cannot be used"),
        ({"method": "CONNECT"}, "is none of"),
        ({"method": "GET / HTTP/1.1\r\nA:"}, "is none of"),
        ({"headers": {"Host": "evil"}}, "not a plugin's to set"),
        ({"headers": {"TRANSFER-ENCODING": "chunked"}}, "not a plugin's to set"),
        ({"headers": {"Content-Length": "5"}}, "not a plugin's to set"),
        ({"headers": {"Proxy-Authorization": "x"}}, "not a plugin's to set"),
        ({"headers": {"a": "b\r\nc: d"}}, "cannot be sent"),
        ({"headers": {"a\n": "b"}}, "cannot be sent"),
        ({"headers": {"": "b"}}, "cannot be sent"),
        ({"headers": {"a": "€"}}, "cannot be sent"),
        ({"body_base64": "?"}, "body_base64"),
    ],
)
def test_requests_that_are_none(request_, said, monkeypatch):
    monkeypatch.setattr(outgoing, "connect", None)
    if isinstance(request_, dict):
        request_ = {"url": "http://api.example.com/", **request_}
    assert said in fetch([Origin("http://api.example.com")], request_)["error"]


def test_the_host_s_case_and_a_last_dot_mean_nothing(monkeypatch):
    monkeypatch.setattr(outgoing, "_look_up", lambda host, port: [])
    seen = []

    def connect(host, port, networks, deadline):
        seen.append((host, port))
        raise OSError("far enough")

    monkeypatch.setattr(outgoing, "connect", connect)
    granted = [Origin("https://API.example.com")]
    assert "far enough" in fetch(granted, {"url": "https://api.EXAMPLE.com.:443/"})["error"]
    assert seen == [("api.example.com", 443)]


# -- where names lead ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a00:1::1",
    ],
)
def test_a_name_does_not_lead_there_unless_it_may(address):
    assert not may_lead_to(ip_address(address), [])
    assert may_lead_to(ip_address(address), ["0.0.0.0/0", "::/0"])


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8"])
def test_public_addresses(address):
    assert may_lead_to(ip_address(address), [])


def test_a_network_that_is_allowed_is_allowed_alone():
    assert may_lead_to(ip_address("10.1.2.3"), ["10.0.0.0/8"])
    assert may_lead_to(ip_address("::ffff:10.1.2.3"), ["10.0.0.0/8"])
    assert not may_lead_to(ip_address("192.168.0.1"), ["10.0.0.0/8"])


def test_a_name_that_leads_to_this_machine_is_not_connected_to(server):
    request = {"url": f"http://localhost:{server}/"}
    answer = fetch([Origin(f"http://localhost:{server}")], request)
    assert "which is not public" in answer["error"]
    allowed = [Origin(f"http://localhost:{server}", networks=[*LOOPBACK, "::1"])]
    assert fetch(allowed, request)["status"] == 200


def test_a_name_that_leads_elsewhere_the_second_time_is_asked_once(server, monkeypatch):
    """DNS rebinding: what was checked is what is connected to."""
    answers = [("93.184.216.34", server), ("127.0.0.1", server)]

    def look_up(host, port):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", answers.pop(0))]

    connected = []

    def connect(self, place):
        connected.append(place)
        raise OSError("unreachable")

    monkeypatch.setattr(outgoing, "_look_up", look_up)
    monkeypatch.setattr(socket.socket, "connect", connect)
    fetch([Origin(f"http://api.example.com:{server}")], {"url": f"http://api.example.com:{server}"})
    assert connected == [("93.184.216.34", server)]
    assert len(answers) == 1


def test_one_bad_address_among_good_ones_spoils_the_name(monkeypatch):
    """Or the next of them would be tried when the good one does not answer."""
    places = [("127.0.0.1", 80), ("93.184.216.34", 80)]
    monkeypatch.setattr(
        outgoing,
        "_look_up",
        lambda host, port: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", p) for p in places],
    )
    answer = fetch([Origin("http://api.example.com")], {"url": "http://api.example.com/"})
    assert "leads to 127.0.0.1" in answer["error"]


# -- time, and TLS --------------------------------------------------------------------------


@pytest.fixture
def silent():
    """A server that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_it_ends_at_the_deadline(silent):
    granted = [Origin(f"http://127.0.0.1:{silent}")]
    answer = fetch(granted, {"url": f"http://127.0.0.1:{silent}/"}, seconds=0.2)
    assert answer["error"]


def test_it_ends_when_the_call_is_given_up(silent):
    granted = [Origin(f"http://127.0.0.1:{silent}")]
    stops = []

    def on_stop(stop):
        stops.append(stop)
        threading.Timer(0.1, stop).start()

    began = time.monotonic()
    answer = fetch(granted, {"url": f"http://127.0.0.1:{silent}/"}, on_stop=on_stop)
    assert answer["error"]
    assert time.monotonic() - began < outgoing.MAX_SECONDS
    assert stops


def test_tls_is_verified(monkeypatch, tmp_path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        try:
            url = f"https://localhost:{server.server_port}"
            granted = [Origin(url, networks=[*LOOPBACK, "::1"])]
            assert "certificate verify failed" in fetch(granted, {"url": url})["error"]
            trusting = ssl.create_default_context()
            authority.configure_trust(trusting)
            monkeypatch.setattr(outgoing, "_context", lambda: trusting)
            assert fetch(granted, {"url": url})["status"] == 200
        finally:
            server.shutdown()
            thread.join()


def answering(listener, context, text, stops):
    """Answer one request with ``text``, and have it given up; go on while the client listens."""
    client, _ = listener.accept()
    with suppress(OSError), context.wrap_socket(client, server_side=True) as stream:
        stream.recv(65536)
        stream.sendall(text)
        for stop in stops:
            stop()
        for _ in range(1000 if stops else 0):
            stream.sendall(b"x")
            time.sleep(0.02)


@pytest.mark.parametrize("length", [b"", b"content-length: 1000\r\n"])
def test_what_is_cut_off_is_no_answer(length, monkeypatch):
    authority = trustme.CA()
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(trusting)
    monkeypatch.setattr(outgoing, "_context", lambda: trusting)
    text = b"HTTP/1.1 200 OK\r\n" + length + b"\r\npart"
    stops = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = [listener, context, text, stops]
        thread = threading.Thread(target=answering, args=arguments, daemon=True)
        thread.start()
        url = f"https://localhost:{listener.getsockname()[1]}"
        granted = [Origin(url, networks=[*LOOPBACK, "::1"])]
        # With a length the server breaks off, without one the call is given up.
        answer = fetch(granted, {"url": url}, on_stop=(lambda _: None) if length else stops.append)
        thread.join(60)
    assert answer["error"]
    assert "status" not in answer


async def test_from_a_guest(run, server):
    url = f"http://127.0.0.1:{server}"
    request = json.dumps({"url": f"{url}/hello"})
    quoted = request.replace('"', '\\"')
    module = wat(
        imports="""
          (import "prism" "fetch" (func $fetch (param i32 i32) (result i32)))
          (import "prism" "take" (func $take (param i32 i32) (result i32)))""",
        extra=f"""(data (i32.const 4000) "{quoted}")
          (func $ask (result i64) (local $size i32)
            (local.set $size (call $fetch (i32.const 4000) (i32.const {len(request)})))
            (drop (call $take (i32.const 8001) (i32.const 9000)))
            (call $say (i32.const 8000) (i32.add (i32.const 1) (local.get $size))))""",
        run="(return (call $ask))",
    )
    async with run(module, grants={"http": [{"origin": url}]}) as plugin:
        answer = await plugin.call("run")
        assert answer["status"] == 200
        assert json.loads(answer["body"])["path"] == "/hello"
