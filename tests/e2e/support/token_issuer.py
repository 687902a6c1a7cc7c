"""A token issuer: keys, tokens, and a server of its own that gives the keys out, says where they
are, and what is to be thought of opaque tokens."""

import base64
import hmac
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote_plus

from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

ISSUER = "https://idp.example.com"


class TokenIssuer:
    """Signs tokens, and serves its keys at ``url`` as long as ``answer`` says so.

    ``fetches`` counts the requests. ``answer`` makes (status, headers, body) of a request, and
    may take as long as it likes. ``metadata`` are those below ``base``. At ``introspection_url`` it
    says of the tokens in ``opaque`` what is there, in ``asked`` how often it was asked about each,
    to whom ``credential`` is known; ``introspect`` answers in ``answer``'s way.
    """

    def __init__(self):
        self.rsa = RSAKey.generate_key(2048, {"kid": "rsa-1"})
        self.ec = ECKey.generate_key("P-256", {"kid": "ec-1"})
        self.published = [self.rsa, self.ec]
        self.fetches = 0
        self.released = threading.Event()
        self.answer = self.give_keys
        self.opaque = {}
        self.asked = Counter()
        self.credential = ("prism", "s3cret")
        self.introspect = self.tell
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path.startswith("/.well-known/"):
                    self.send(200, {}, json.dumps(issuer.metadata).encode())
                    return
                issuer.fetches += 1
                self.send(*issuer.answer())

            def do_POST(self):
                text = self.rfile.read(int(self.headers["content-length"])).decode()
                form = {name: value for name, [value] in parse_qs(text).items()}
                self.send(*issuer.introspect(form, self.headers["authorization"]))

            def send(self, status, headers, body):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a client that has left
        self.base = f"http://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.base}/keys"
        self.introspection_url = f"{self.base}/introspect"
        self.metadata = {"issuer": self.base, "jwks_uri": self.url, "response_types_supported": []}
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def key_set(self):
        return {"keys": [key.as_dict(private=False) for key in self.published]}

    def give_keys(self):
        return 200, {"content-type": "application/json"}, json.dumps(self.key_set()).encode()

    def tell(self, form, authorization):
        pair = ":".join(map(quote_plus, self.credential))
        if authorization != f"Basic {base64.b64encode(pair.encode()).decode()}":
            return 401, {"www-authenticate": "Basic"}, b""
        self.asked[form["token"]] += 1
        told = self.opaque.get(form["token"], {"active": False})
        return 200, {"content-type": "application/json"}, json.dumps(told).encode()

    def hang(self, *_):
        self.released.wait(60)
        return 500, {}, b""

    def claims(self, **changes):
        now = int(time.time())
        claims = {
            "iss": ISSUER, "aud": "prism", "sub": "ada", "iat": now, "exp": now + 300,
            "groups": ["billing"], "scope": "orders.read orders.write",
        }  # fmt: skip
        return {name: value for name, value in {**claims, **changes}.items() if value is not None}

    def token(self, key=None, algorithm="RS256", header=None, **claims):
        return self.signed(self.claims(**claims), key, algorithm, header)

    def signed(self, claims, key=None, algorithm="RS256", header=None):
        key = key or self.rsa
        head = {"alg": algorithm, "kid": key.kid, **(header or {})}
        head = {name: value for name, value in head.items() if value is not None}
        registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
        registry.max_header_length = 1 << 20
        content = json.dumps(claims).encode()
        return jws.serialize_compact(head, content, key, registry=registry)

    def forged(self):
        """Tokens that must open nothing, each by the trick it plays."""
        public = self.rsa.as_pem(private=False)
        mine = RSAKey.generate_key(2048, {"kid": "mine"})
        other = ECKey.generate_key("P-256", {"kid": "ec-1"})
        first, second, third = self.token().split(".")
        now = time.time()
        symmetric = f"{_part({'alg': 'HS256', 'kid': 'rsa-1'})}.{second}"
        mac = hmac.digest(public, symmetric.encode(), "sha256")
        none = _part({"alg": "none", "kid": "rsa-1"})
        return {
            "alg none": f"{none}.{second}.",
            "alg none, signed": f"{none}.{second}.{third}",
            "alg NoNe": f"{_part({'alg': 'NoNe'})}.{second}.",
            "alg missing": f"{_part({'kid': 'rsa-1'})}.{second}.{third}",
            "alg a list": f"{_part({'alg': ['RS256'], 'kid': 'rsa-1'})}.{second}.{third}",
            "HS256 with the public key": f"{symmetric}.{_encoded(mac)}",
            "RS256 with the id of an EC key": self.token(mine, header={"kid": "ec-1"}),
            "ES256 with the id of an RSA key": self.token(other, "ES256", {"kid": "rsa-1"}),
            "an algorithm that is not configured": self.token(algorithm="PS256"),
            "a key of its own": self.token(mine, header={"kid": "rsa-1"}),
            "an unknown kid": self.token(mine),
            "a kid that is no text": f"{_part({'alg': 'RS256', 'kid': 5})}.{second}.{third}",
            "jwk": self.token(mine, header={"jwk": mine.as_dict(private=False), "kid": None}),
            "jku": self.token(mine, header={"jku": self.url, "kid": "rsa-1"}),
            "x5u": self.token(mine, header={"x5u": self.url, "kid": "rsa-1"}),
            "jku, well signed": self.token(header={"jku": self.url}),
            "typ": self.token(header={"typ": "dpop+jwt"}),
            "another audience": self.token(aud="other"),
            "audiences without ours": self.token(aud=["other", "prism2"]),
            "no audience": self.token(aud=None),
            "another issuer": self.token(iss="https://evil.example.com"),
            "no issuer": self.token(iss=None),
            "the issuer with a slash": self.token(iss=ISSUER + "/"),
            "expired": self.token(exp=int(now) - 60),
            "no expiry": self.token(exp=None),
            "expiry a text": self.token(exp=str(int(now) + 300)),
            "expiry true": self.token(exp=True),
            "expiry in a thousand years": self.token(exp=1e308),
            "nbf true": self.token(nbf=True),
            "not yet valid": self.token(nbf=int(now) + 120),
            "issued tomorrow": self.token(iat=int(now) + 86_400, exp=int(now) + 86_500),
            "no subject": self.token(sub=None),
            "a subject that is a number": self.token(sub=5),
            "anonymous": self.token(sub="anonymous"),
            "a subject with a line end": self.token(sub="ada\nprism-principal: root"),
            "bound to a key": self.token(cnf={"jkt": "x"}),
            "its payload changed": f"{first}.{_part(self.claims(sub='root'))}.{third}",
            "its signature cut": f"{first}.{second}.{third[:-8]}",
            "no signature": f"{first}.{second}.",
            "four parts": f"{first}.{second}.{third}.{third}",
            "white space within": f"{first}. {second}.{third}",
            "deeply nested": f"{first}.{'W' * 4000}.{third}",
            "no JSON": f"{_part('x')}.{second}.{third}",
            "huge": self.token(pad="x" * 9000),
        }

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def _part(value):
    return _encoded(json.dumps(value).encode())


def _encoded(content):
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
