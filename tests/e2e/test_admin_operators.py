"""Operators who show a credential of the data port at the admin port, over real sockets."""

import json
import ssl
import subprocess
import sys

import httpx
import pytest
from authority import Authority, dns, uri
from doors import issue_certificate
from prism_process import eventually
from token_issuer import ISSUER, TokenIssuer

from prism.access.api_keys import create_key, revoke_key

DEMO = {"name": "demo", "backend": "sqlite", "config": {"path": ":memory:"}}
ALLOW = [
    {"who": ["viewer", "spiffe://prod/web/*"], "may": "read"},
    {"who": ["group:billing"], "may": "operate"},
    {"who": ["chief", "spiffe://prod/deploy"], "may": "change"},
]
LOOK, OPERATE, CHANGE = (
    ("GET", "/admin/plugins", None),
    ("POST", "/admin/plugin/reload", {"namespace": "demo"}),
    ("POST", "/admin/config/apply", {}),
)


@pytest.fixture
def issuer():
    made = TokenIssuer()
    yield made
    made.close()


def statuses(client, address, **headers):
    """What each of the three is answered."""
    return [
        client.request(method, address + path, json=body, headers=headers).status_code
        for method, path, body in (LOOK, OPERATE, CHANGE)
    ]


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_keys_and_tokens(start_prism, issuer, tmp_path):
    keys = tmp_path / "keys.yaml"
    (viewer, entry), (chief, _), (nobody, _) = (
        create_key(keys, name, []) for name in ("viewer", "chief", "nobody")
    )
    jwt = {
        "issuer": ISSUER, "audience": "prism", "jwks_url": issuer.url, "algorithms": ["RS256"],
    }  # fmt: skip
    proxy = start_prism(
        {
            "authentication": {"api_keys": {"file": "keys.yaml"}, "jwt": [jwt]},
            "admin": {"allow": ALLOW},
            "namespaces": [DEMO],
        }
    )

    def ask(token):
        return statuses(proxy.client, proxy.admin, **bearer(token))

    assert statuses(proxy.client, proxy.admin) == [401, 401, 401]
    assert ask(viewer) == [200, 403, 403]
    assert ask(issuer.token()) == [200, 200, 403]  # its keys may be on their way
    assert ask(chief) == [200, 200, 200]
    assert ask(nobody) == ask(issuer.token(groups=[])) == [403, 403, 403]
    assert proxy.client.get(f"{proxy.admin}/readyz").status_code == 200
    for trick, token in issuer.forged().items():
        assert ask(token) == [401, 401, 401], trick
    twice = [("authorization", f"Bearer {chief}")] * 2
    assert proxy.client.get(f"{proxy.admin}/admin/plugins", headers=twice).status_code == 400
    imitation = {"prism-principal": "chief", "x-prism-principal": "chief"}
    assert statuses(proxy.client, proxy.admin, **imitation) == [401, 401, 401]
    assert proxy.logged("/admin/config/apply is asked for by principal 'chief'")

    (tmp_path / "viewer.key").write_text(viewer)
    command = [sys.executable, "-m", "prism", "plugin", "list", "--url", proxy.admin]
    listed = subprocess.run(
        [*command, "--token-file", "viewer.key"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (listed.returncode, "demo" in listed.stdout) == (0, True), listed.stderr

    # A key that is revoked opens nothing any more, and what it follows ends.
    accept = bearer(viewer) | {"accept": "application/x-ndjson"}
    with proxy.client.stream("GET", f"{proxy.admin}/admin/events", headers=accept) as stream:
        assert stream.status_code == 200
        revoke_key(keys, entry.id)
        eventually(lambda: ask(viewer) == [401, 401, 401])
        assert ask(chief)[1] == 200  # which is an event
        assert stream.read() is not None
    assert viewer[-64:] not in proxy.log


def test_keys_of_an_issuer_that_cannot_be_fetched_open_nothing(start_prism, issuer):
    issuer.answer = lambda: (500, {}, b"")
    jwt = {
        "issuer": ISSUER, "audience": "prism", "jwks_url": issuer.url, "algorithms": ["RS256"],
    }  # fmt: skip
    config = {"authentication": {"jwt": [jwt]}, "admin": {"allow": ALLOW}, "namespaces": [DEMO]}
    proxy = start_prism(config)
    assert statuses(proxy.client, proxy.admin, **bearer(issuer.token())) == [503, 503, 503]
    issuer.answer = issuer.give_keys
    eventually(
        lambda: statuses(proxy.client, proxy.admin, **bearer(issuer.token())) == [200, 200, 403]
    )


def test_certificates(start_prism, tmp_path):
    authority = Authority(tmp_path, "clients-ca")
    certificate, key = issue_certificate(tmp_path)
    tls = {"cert": certificate, "key": key, "client_ca": str(authority.file)}
    config = {
        "listen": {"tls": tls},
        "authentication": {"client_certificates": {"principal": "spiffe"}},
        "admin": {"tls": tls, "allow": ALLOW},
        "namespaces": [DEMO],
    }
    proxy = start_prism(config)

    def ask(name, **headers):
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        context.load_cert_chain(authority.write("client", name))
        with httpx.Client(verify=context, trust_env=False, timeout=60) as client:
            return statuses(client, proxy.admin, **headers)

    assert ask(uri("spiffe://prod/web/1")) == [200, 403, 403]
    assert ask(uri("spiffe://prod/deploy")) == [200, 200, 200]
    assert ask(uri("spiffe://prod/db")) == [403, 403, 403]
    assert ask(dns("nameless.example")) == [401, 401, 401]
    assert ask(uri("spiffe://prod/deploy"), **bearer("x")) == [401, 401, 401]
    eventually(lambda: proxy.logged("is asked for by principal 'spiffe://prod/deploy'"))
    told = json.dumps(proxy.logged("is refused"))
    assert "may read and not operate" in told
