"""Client certificates that name the caller, over real TLS: HTTP/1.1, HTTP/2 and gRPC."""

import json
import signal
import ssl
import subprocess
import sys

import httpx
import pytest
from authority import HOUR, NOW, Authority, dns, uri
from cryptography.x509.oid import ExtendedKeyUsageOID
from doors import issue_certificate
from prism_process import SUPPORT, eventually
from stream_doors import grpc_stubs

import grpc
from prism.access.api_keys import create_key

STREAMS = {"type": "sidecar", "command": [sys.executable, str(SUPPORT / "stream_plugin.py")]}


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "clients-ca")


@pytest.fixture
def start(start_prism, authority, tmp_path):
    certificate, key = issue_certificate(tmp_path)
    batch, _ = create_key(tmp_path / "keys.yaml", "batch", [])

    def start(mode="required", principal="spiffe", **more):
        tls = {"cert": certificate, "key": key, "client_ca": str(authority.file), **more}
        rules = [{"who": ["spiffe://prod/web/*", "batch"], "permissions": ["write"]}]
        kv = {"name": "kv", "backend": "streams", "plugin": STREAMS, "access": {"allow": rules}}
        proxy = start_prism(
            {
                "listen": {"tls": tls, "client_certificates": mode},
                "authentication": {
                    "client_certificates": {"principal": principal},
                    "api_keys": {"file": "keys.yaml"},
                },
                "namespaces": [kv],
            }
        )
        proxy.batch = batch
        return proxy

    return start


def ask(proxy, tmp_path, file=None, http2=False, **headers):
    """The status, or None if there was no connection; and who was told to the plugin."""
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    if file is not None:
        context.load_cert_chain(file)
    target = f"https://localhost:{proxy.port}/v1/kv/metadata"
    try:
        with httpx.Client(verify=context, http2=http2, trust_env=False, timeout=60) as client:
            answer = client.post(target, content=b"{}", headers=headers)
    except httpx.TransportError:
        return None, ""
    return answer.status_code, answer.json().get("prism-principal", "")


@pytest.mark.parametrize("http2", [False, True])
def test_who_may(start, authority, tmp_path, http2):
    proxy = start()
    web = authority.write("web", uri("spiffe://prod/web/1"))
    assert ask(proxy, tmp_path, web, http2) == (200, "spiffe://prod/web/1")
    db = authority.write("db", uri("spiffe://prod/db/1"))
    assert ask(proxy, tmp_path, db, http2)[0] == 403
    nameless = authority.write("nameless", dns("spiffe.example"), common_name="spiffe://prod/web/1")
    assert ask(proxy, tmp_path, nameless, http2)[0] == 401
    assert ask(proxy, tmp_path, web, http2, authorization="Bearer x")[0] == 401
    assert ask(proxy, tmp_path, db, http2, authorization=f"Bearer {proxy.batch}") == (200, "batch")


@pytest.mark.parametrize("mode", ["optional", "required"])
def test_certificates_that_end_the_handshake(start, authority, tmp_path, mode):
    proxy = start(mode)
    names = [uri("spiffe://prod/web/1")]
    bad = {
        "another authority": Authority(tmp_path, "others").write("theirs", *names),
        "the same name of one": Authority(tmp_path, "clients-ca-2").write("imitated", *names),
        "expired": authority.write("old", *names, end=NOW - HOUR / 2),
        "for servers": authority.write("server", *names, purpose=ExtendedKeyUsageOID.SERVER_AUTH),
    }
    for what, file in bad.items():
        assert ask(proxy, tmp_path, file) == (None, ""), what
    assert ask(proxy, tmp_path)[0] == (401 if mode == "optional" else None)
    assert ask(proxy, tmp_path, authority.write("good", *names))[0] == 200
    if mode == "optional":
        assert ask(proxy, tmp_path, authorization=f"Bearer {proxy.batch}") == (200, "batch")


def test_grpc(start, authority, tmp_path):
    proxy = start()
    messages, services = grpc_stubs()

    def told(name):
        pem = authority.write(name.rpartition("/")[2], uri(name)).read_bytes()
        root = (tmp_path / "ca.pem").read_bytes()
        credentials = grpc.ssl_channel_credentials(root, pem, pem)
        with grpc.secure_channel(f"localhost:{proxy.port}", credentials) as channel:
            request = messages.ExecuteRequest(operation="metadata", params_json="{}")
            metadata = [("prism-namespace", "kv"), ("prism-principal", "root")]
            answer = services.BackendPluginStub(channel).Execute(
                request, metadata=metadata, timeout=60
            )
        return json.loads(answer.result_json)["prism-principal"]

    assert told("spiffe://prod/web/g") == "spiffe://prod/web/g"
    with pytest.raises(grpc.RpcError) as caught:
        told("spiffe://prod/db")
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_another_authority_takes_over_at_sighup(start, authority, tmp_path):
    proxy = start()
    web = authority.write("web", uri("spiffe://prod/web/1"))
    assert ask(proxy, tmp_path, web)[0] == 200
    authority.file.write_bytes(Authority(tmp_path, "next").file.read_bytes())
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: ask(proxy, tmp_path, web)[0] is None)


def test_revoked_certificates_are_refused_from_the_next_sighup_on(start, authority, tmp_path):
    web, db = (authority.write(name, uri(f"spiffe://prod/web/{name}")) for name in ("web", "db"))
    proxy = start(client_crl=str(authority.revoke()))
    assert ask(proxy, tmp_path, web)[0] == ask(proxy, tmp_path, db)[0] == 200
    authority.revoke(web)
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: ask(proxy, tmp_path, web)[0] is None)
    assert ask(proxy, tmp_path, db)[0] == 200
    (tmp_path / "revoked.pem").write_text("no list")
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: proxy.logged("the certificate in use stays"))
    assert (ask(proxy, tmp_path, web)[0], ask(proxy, tmp_path, db)[0]) == (None, 200)
    authority.revoke(end=NOW - HOUR / 2)  # out of date
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: ask(proxy, tmp_path, db)[0] is None)


@pytest.mark.parametrize(
    ("listen", "problem"),
    [
        ({}, "set listen.tls.client_ca"),
        ({"client_certificates": "optional"}, "needs tls.client_ca"),
        ({"tls": {"client_crl": "c"}}, 'without "client_ca"'),
        ({"tls": {"client_ca": "c"}, "client_certificates": "none"}, "no client is asked"),
        ({"tls": {"client_ca": "c"}, "server": "hypercorn"}, "use server: prism"),
    ],
)
def test_what_cannot_be_configured(tmp_path, listen, problem):
    if "tls" in listen:
        listen = listen | {"tls": listen["tls"] | {"cert": "a", "key": "b"}}
    file = tmp_path / "prism.yaml"
    authentication = {"client_certificates": {"principal": "spiffe"}}
    file.write_text(json.dumps({"listen": listen, "authentication": authentication}))
    command = [sys.executable, "-m", "prism", "config", "check", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert problem in done.stderr
