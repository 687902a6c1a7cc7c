"""The clients in examples/clients do what they are meant to show."""

import functools
import os
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme
from doors import program

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "examples" / "clients"
ADA = '{"key":"user:123","value":{"name":"Ada"}}'


def output(*command, **environment):
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_curl(start_prism):
    program("curl", "curl")
    printed = output("sh", CLIENTS / "curl.sh", start_prism().url)
    answers = ['{"stored":true}', '{"found":true,"value":{"name":"Ada"},"version":"1"}', ADA, ADA]
    assert printed.splitlines()[:4] == answers
    assert printed.endswith(f'id: #1\ndata: {{"event":"set",{ADA[1:]}\n\nid: 1\n{READY}\n\n')


READY = 'data: {"event":"ready"}'


def test_httpx(start_prism):
    assert output(sys.executable, CLIENTS / "httpx_client.py", start_prism().url).splitlines() == [
        "{'stored': True}",
        "{'found': True, 'value': {'name': 'Ada'}, 'version': '1'}",
        "scanned {'key': 'user:123', 'value': {'name': 'Ada'}}",
        "set user:123",
        "ready ",
        "delete user:123",
    ]


def test_grpcio(start_prism):
    endpoint = f"127.0.0.1:{start_prism().port}"
    client = CLIENTS / "grpc_client.py"
    assert output(sys.executable, client, ROOT / "schemas", endpoint).splitlines() == [
        "{'stored': True}",
        "{'found': True, 'value': {'name': 'Ada'}, 'version': '1'}",
        "UNIMPLEMENTED",
        'scanned {"key":"user:123","value":{"name": "Ada"}}',
        "set user:123",
        "ready ",
        "delete user:123",
    ]


def test_grpcio_over_tls(start_prism, tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    config = {
        "listen": {"tls": {"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}},
        "namespaces": [{"name": "demo", "backend": "sqlite", "config": {"path": ":memory:"}}],
    }
    endpoint = f"127.0.0.1:{start_prism(config).port}"
    client = CLIENTS / "grpc_client.py"
    printed = output(sys.executable, client, ROOT / "schemas", endpoint, tmp_path / "ca.pem")
    assert printed.startswith("{'stored': True}\n")


def test_node(start_prism):
    node = program("node", "nodejs")
    version = int(output(node, "--version").removeprefix("v").split(".")[0])
    options = ["--experimental-websocket"] if version in (20, 21) else []
    by_websocket = ["by WebSocket: ready"] if version >= 20 else []
    printed = output(node, *options, CLIENTS / "node_client.js", start_prism().url)
    assert printed.splitlines() == [
        "{ stored: true }",
        "{ found: true, value: { name: 'Ada' }, version: '1' }",
        "scanned { key: 'user:123', value: { name: 'Ada' } }",
        "set user:123",
        "ready ",
        "delete user:123",
        *by_websocket,
    ]


@pytest.fixture
def page():
    """The URL of browser.html, on another origin than any proxy's."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_arguments):
            """Nothing."""

    handler = functools.partial(Handler, directory=CLIENTS)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


@pytest.fixture
def browser(tmp_path):
    """A page of a real browser."""
    chromium = program("chromium-headless-shell", "chromium-headless-shell")
    sync_api = pytest.importorskip("playwright.sync_api")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", *quiet]
        )
        try:
            yield started.new_page()
        finally:
            started.close()


def test_the_browser_page(start_prism, page, browser):
    proxy = start_prism(
        {
            "listen": {"web_origins": [page]},
            "namespaces": [{"name": "demo", "backend": "sqlite", "config": {"path": "demo.db"}}],
        }
    )
    proxy.call("demo", "set", {"key": "user:1", "value": "there before"})
    browser.goto(f"{page}/browser.html?prism={proxy.url}")
    for place in ("#events", "#socket"):
        browser.locator(place, has_text='"ready"').wait_for()
        assert '"there before"' in browser.locator(place).text_content()
    browser.fill("input[name=value]", "from the page")
    browser.click("button")
    for place in ("#events", "#socket"):
        browser.locator(place, has_text='"from the page"').wait_for()
    # The proxy is restarted: the browser's own reconnection goes on where it was.
    port = str(proxy.port)
    assert proxy.stop() == 0
    browser.locator("#socket", has_text="closed with 1012").wait_for()
    again = start_prism(
        {
            "listen": {"web_origins": [page]},
            "namespaces": [{"name": "demo", "backend": "sqlite", "config": {"path": "demo.db"}}],
        },
        arguments=("--port", port, "--admin-port", "0"),
    )
    again.call("demo", "set", {"key": "user:2", "value": "after the restart"})
    browser.locator("#events", has_text='"after the restart"').wait_for()
    assert browser.locator("#events").text_content().count('"from the page"') == 1


def test_a_page_that_is_not_named_gets_nothing(start_prism, page, browser):
    proxy = start_prism()
    browser.goto(f"{page}/browser.html?prism={proxy.url}")
    browser.locator("#socket", has_text="closed with 1006").wait_for()
    failed = browser.evaluate(
        """async (url) => fetch(url, {method: "POST", mode: "no-cors",
           headers: {"content-type": "text/plain"}, body: '{"key": "a", "value": 1}'})
           .then((response) => response.type, String)""",
        f"{proxy.url}/v1/demo/set",
    )
    assert failed == "opaque"  # it was sent, and the page learns nothing
    assert proxy.call("demo", "get", {"key": "a"}).json() == {"found": False}
    assert browser.locator("#events").text_content() == ""


def test_a_token_of_a_local_issuer(start_prism, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = CLIENTS / "issue_token.py"
    token = output(sys.executable, script, "ada", "billing").strip()
    serve_files = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "public")
    with ThreadingHTTPServer(("127.0.0.1", 0), serve_files) as keys:
        threading.Thread(target=keys.serve_forever, args=(0.05,)).start()
        try:
            url = f"http://127.0.0.1:{keys.server_port}/keys.json"
            issuer = {"issuer": "local", "audience": "prism", "jwks_url": url}
            demo = {"name": "demo", "backend": "sqlite", "config": {"path": ":memory:"}}
            proxy = start_prism(
                {
                    "authentication": {"jwt": [issuer | {"algorithms": ["RS256"]}]},
                    "namespaces": [demo | {"access": {"owners": ["group:billing"]}}],
                }
            )
            for text, status in (
                (token, 200),
                (output(sys.executable, script, "eve").strip(), 403),
            ):
                answer = proxy.call("demo", "get", {"key": "7"}, authorization=f"Bearer {text}")
                assert answer.status_code == status
        finally:
            keys.shutdown()


@pytest.mark.parametrize("script", ["clients/issue_token.py", "plugins/grpc/echo.py"])
def test_a_script_without_its_arguments_prints_its_usage(script, tmp_path):
    command = [sys.executable, str(ROOT / "examples" / script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"usage: python {Path(script).name} ")
    assert not any(tmp_path.iterdir())
