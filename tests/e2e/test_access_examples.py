"""What is in examples/access works, with each kind of credential."""

import functools
import json
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from doors import program
from prism_process import eventually

from prism.access.api_keys import create_key, revoke_key

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "access"


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nothing."""


@contextmanager
def serving(directory):
    """The URL at which the files in ``directory`` are."""
    handler = functools.partial(QuietFiles, directory=directory)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def run(directory, *command):
    done = subprocess.run(
        [str(word) for word in command], cwd=directory, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def proxy(start_prism, tmp_path):
    """A proxy with the example's configuration, in a directory where its comment was followed."""
    run(tmp_path, sys.executable, EXAMPLES / "make_certificates.py")
    issue = ROOT / "examples" / "clients" / "issue_token.py"
    (tmp_path / "ada.token").write_text(run(tmp_path, sys.executable, issue, "ada", "billing"))
    create = [sys.executable, "-m", "prism", "key", "create", "reports", "--file", "keys.yaml"]
    (tmp_path / "reports.key").write_text(run(tmp_path, *create))
    shutil.copy(EXAMPLES / "credentials.sh", tmp_path)
    config = yaml.safe_load((EXAMPLES / "prism.yaml").read_text())
    with serving(tmp_path / "public") as keys:
        [issuer] = config["authentication"]["jwt"]
        issuer["jwks_url"] = f"{keys}/keys.json"
        yield start_prism(config)


def test_curl_with_each_credential(proxy, tmp_path):
    program("curl", "curl")
    none, key, token, svid, other = run(
        tmp_path, "sh", "credentials.sh", f"https://localhost:{proxy.port}"
    ).splitlines()
    assert none.startswith("401")
    assert key == token == svid == '{"found":false}'
    assert (
        json.loads(other)["detail"] == "no namespace 'demo' is open to 'spiffe://example.org/db/1'"
    )

    def audited():
        lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
        return {one["principal"]: one for one in lines if "decision" in one}

    everybody = ["anonymous", "reports", "ada"]
    everybody += ["spiffe://example.org/web/1", "spiffe://example.org/db/1"]
    eventually(lambda: list(audited()) == everybody)
    records = audited()
    assert records["reports"]["key"] in (tmp_path / "keys.yaml").read_text()
    [web] = x509.load_pem_x509_certificates((tmp_path / "web.pem").read_bytes())
    assert int(records["spiffe://example.org/web/1"]["certificate"], 16) == web.serial_number
    for private in ("web.pem", "db.pem", "server-key.pem"):
        assert stat.S_IMODE((tmp_path / private).stat().st_mode) == 0o600


def test_grpcio_with_call_credentials(proxy, tmp_path):
    pytest.importorskip("grpc_tools")

    def ask(file):
        client = EXAMPLES / "grpc_credentials.py"
        command = [sys.executable, str(client), file, f"localhost:{proxy.port}"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    for file in ("reports.key", "ada.token"):
        done = ask(file)
        assert (done.returncode, done.stdout) == (0, "{'found': False}\n"), done.stderr
    (tmp_path / "bad").write_text("prism_x")
    done = ask("bad")
    assert done.returncode == 1
    assert done.stderr.startswith("UNAUTHENTICATED: ")


@pytest.fixture
def browser():
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


def test_a_page_that_shows_a_token(start_prism, browser, tmp_path):
    key, entry = create_key(tmp_path / "keys.yaml", "page", [])
    with serving(EXAMPLES) as page, serving(EXAMPLES) as stranger:
        proxy = start_prism(
            {
                "listen": {"web_origins": [page]},
                "authentication": {"api_keys": {"file": "keys.yaml"}},
                "namespaces": [
                    {
                        "name": "demo", "backend": "sqlite", "config": {"path": ":memory:"},
                        "access": {"owners": ["page"]},
                    }
                ],
            }
        )  # fmt: skip
        answers = browser.locator("#answers")

        def submit(token):
            browser.fill("input[name=token]", token)
            browser.click("button")

        browser.goto(f"{page}/browser_token.html?prism={proxy.url}")
        submit("")
        browser.locator("#answers", has_text="401 unauthenticated: say who you are").wait_for()
        submit("prism_x")
        browser.locator("#answers", has_text="401 unauthenticated: this API key").wait_for()
        submit(key)
        browser.locator("#answers", has_text='{"stored":true}').wait_for()
        browser.locator("#answers", has_text='"event":"ready"').wait_for()
        assert '"Ada"' in answers.text_content()
        # The key is revoked: the stream that it had opened ends.
        revoke_key(tmp_path / "keys.yaml", entry.id)
        browser.locator("#answers", has_text="the stream has ended").wait_for(timeout=60_000)
        assert "not good any more" in answers.text_content()

        # A page of another origin is not let in, with whatever token.
        key, _ = create_key(tmp_path / "keys.yaml", "page", [])
        eventually(
            lambda: (
                proxy.call("demo", "get", {"key": "a"}, authorization=f"Bearer {key}").is_success
            )
        )
        browser.goto(f"{stranger}/browser_token.html?prism={proxy.url}")
        with browser.expect_event("pageerror", timeout=60_000) as failure:
            submit(key)
        assert "Failed to fetch" in str(failure.value)
        assert answers.text_content() == ""
        for text in (proxy.log, proxy.printed):
            assert key[-64:] not in text
