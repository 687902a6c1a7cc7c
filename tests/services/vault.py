"""A server that speaks as much of Vault's API as Prism does: KV version 2, logins, tokens.

Written from Vault's documentation of its HTTP API; the texts of its errors are Vault's.
"""

import json
import secrets
import ssl
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ROLE_ID, SECRET_ID, KUBERNETES_ROLE = "role-1", "nightingale-secret-id", "prism"


class Vault:
    """Serves at ``address`` until ``close``.

    ``kv`` is what the mount ``secret`` has, by path; ``denied`` paths are refused. ``tokens``
    are good until a time (monotonic), or for ever (None). A login gives a token for ``ttl``
    seconds, which can be renewed if it is ``renewable``, and not beyond ``max_ttl``. ``seen``
    counts requests. ``answer`` is asked first: what it returns, (status, headers, body), is sent.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.kv: dict[str, dict[str, Any] | None] = {}
        self.denied: set[str] = set()
        self.tokens: dict[str, float | None] = {}
        self.born: dict[str, float] = {}
        self.ttl, self.max_ttl, self.renewable = 3600.0, 36_000.0, True
        self.account_token = "nightingale-account-token"
        self.namespace: str | None = None
        self.sealed = False
        self.seen: Counter[str] = Counter()
        self.answer: Any = lambda _path: None
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] # it has left
        scheme = "http"
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.address = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def hang(self, _path: str) -> tuple[int, dict[str, str], bytes]:
        """As ``answer``: none, until the end."""
        self.released.wait(60)
        return 500, {}, b""

    def new_token(self, seconds: float | None = None) -> str:
        token = f"hvs.nightingale-{secrets.token_hex(12)}"
        self.born[token] = time.monotonic()
        self.tokens[token] = None if seconds is None else time.monotonic() + seconds
        return token

    def is_good(self, token: str | None) -> bool:
        if token is None or token not in self.tokens:
            return False
        end = self.tokens[token]
        return end is None or time.monotonic() < end

    # -- the API ------------------------------------------------------------------------

    def respond(self, method: str, path: str, headers: Any, body: Any) -> tuple[int, Any]:
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if self.namespace is not None and headers["x-vault-namespace"] != self.namespace:
            return 404, {"errors": []}
        token = headers["x-vault-token"]
        match method, path.split("/", 1):
            case "POST", ["auth", rest] if rest.endswith("/login"):
                return self._log_in(rest.removesuffix("/login"), body)
        if not self.is_good(token):
            return 403, {"errors": ["permission denied"]}
        if path.startswith("auth/token/"):
            return self._token(path.removeprefix("auth/token/"), token)
        if path.startswith("secret/data/") and method == "GET":
            return self._read(path.removeprefix("secret/data/"))
        return 404, {"errors": [f'no handler for route "{path}". route entry not found.']}

    def _log_in(self, mount: str, body: dict[str, str]) -> tuple[int, Any]:
        if mount == "approle" and body.get("role_id") == ROLE_ID:
            if body.get("secret_id") != SECRET_ID:
                return 400, {"errors": ["invalid role or secret ID"]}
        elif mount == "kubernetes" and body.get("role") == KUBERNETES_ROLE:
            if body.get("jwt") != self.account_token:
                return 403, {"errors": ["permission denied"]}
        else:
            return 400, {"errors": ["invalid role or secret ID"]}
        return 200, self._auth(self.new_token(self.ttl), self.ttl)

    def _auth(self, token: str, seconds: float) -> Any:
        return {
            "auth": {
                "client_token": token,
                "policies": ["default", "prism"],
                "lease_duration": int(seconds),
                "renewable": self.renewable,
            }
        }

    def _token(self, what: str, token: str) -> tuple[int, Any]:
        end = self.tokens[token]
        left = 0.0 if end is None else end - time.monotonic()
        match what:
            case "lookup-self" if "auth/token/lookup-self" in self.denied:
                return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
            case "lookup-self":
                return 200, {"data": {"id": token, "ttl": int(left), "renewable": self.renewable}}
            case "renew-self" if self.renewable and end is not None:
                age = time.monotonic() - self.born[token]
                seconds = max(0.0, min(self.ttl, self.max_ttl - age))
                self.tokens[token] = time.monotonic() + seconds
                return 200, self._auth(token, seconds)
            case "renew-self":
                return 400, {"errors": ["lease is not renewable"]}
            case "revoke-self":
                del self.tokens[token]
                return 204, None
        return 404, {"errors": []}

    def _read(self, path: str) -> tuple[int, Any]:
        if path in self.denied:
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        if path not in self.kv:
            return 404, {"errors": []}
        values = self.kv[path]
        gone = "2026-11-29T10:00:00Z" if values is None else ""
        metadata = {"version": 1, "deletion_time": gone, "destroyed": False}
        status = 404 if values is None else 200
        return status, {"data": {"data": values, "metadata": metadata}, "lease_duration": 0}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        vault = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.handle_request(None)

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["content-length"] or 0))
                self.handle_request(json.loads(text) if text else {})

            def handle_request(self, body: Any) -> None:
                path = self.path.removeprefix("/v1/")
                vault.seen[path] += 1
                given = vault.answer(path)
                if given is None:
                    status, content = vault.respond(self.command, path, self.headers, body)
                    text = b"" if content is None else json.dumps(content).encode()
                    given = status, {"content-type": "application/json"}, text
                status, headers, content = given
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_PUT(self) -> None:
                self.command = "POST"  # Vault takes them alike; its own client writes with PUT
                self.do_POST()

            def log_message(self, *_: object) -> None:
                pass

        return Handler
