"""TLS over the life of a proxy: certificates that change, storms, limits."""

import json
import os
import pty
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from prism_process import SUPPORT, eventually

DAY = 86_400


class Files:
    """A CA, and the server's files, which can be written again."""

    def __init__(self, directory):
        self.directory = directory
        self.ca = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"
        self.issue()

    def issue(self):
        issued = self.ca.issue_cert("127.0.0.1", "localhost")
        issued.cert_chain_pems[0].write_to_path(str(self.cert))
        issued.private_key_pem.write_to_path(str(self.key))

    def encrypt_key(self):
        key = load_pem_private_key(self.key.read_bytes(), None)
        protection = BestAvailableEncryption(b"secret")
        self.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))

    def client(self):
        """The path of a client's certificate and key, in one file."""
        file = self.directory / "client.pem"
        self.ca.issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(
            str(file)
        )
        return file

    def config(self, mutual=False, **limits):
        tls = {"cert": str(self.cert), "key": str(self.key)}
        if mutual:
            tls["client_ca"] = str(self.ca_file)
        namespace = {"name": "demo", "backend": "sqlite"}
        return {"listen": {"tls": tls, "limits": limits}, "namespaces": [namespace]}


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def served(port, files):
    """The certificate (DER) that a new connection is shown."""
    context = ssl.create_default_context(cafile=files.ca_file)
    with (
        socket.create_connection(("127.0.0.1", port), 20) as tcp,
        context.wrap_socket(tcp, server_hostname="localhost") as tls,
    ):
        return tls.getpeercert(binary_form=True)


def reload(proxy, times):
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: proxy.metric("prism_tls_reloads_total") == times)


def test_sighup_serves_the_new_certificate_and_old_connections_live_on(start_prism, files):
    proxy = start_prism(files.config())
    before = served(proxy.port, files)
    context = ssl.create_default_context(cafile=files.ca_file)
    with httpx.Client(verify=context, trust_env=False, timeout=60) as old:
        assert old.get(f"{proxy.url}/v1").status_code == 200
        files.issue()
        assert served(proxy.port, files) == before
        reload(proxy, 1)
        assert served(proxy.port, files) != before
        shown = old.get(f"{proxy.url}/v1")
        stream = shown.extensions["network_stream"].get_extra_info("ssl_object")
        assert stream.getpeercert(True) == before
    assert proxy.metric("prism_tls_reloads_failed_total") == 0
    eventually(lambda: len(proxy.logged("is good until")) == 2)
    first, second = proxy.logged("is good until")
    assert first["message"] != second["message"]


def test_bad_files_keep_the_old_certificate_and_say_why(start_prism, files):
    proxy = start_prism(files.config())
    before = served(proxy.port, files)
    expiry = proxy.metric("prism_tls_certificate_expiry_timestamp_seconds")
    assert expiry > time.time() + DAY
    files.cert.write_text("no certificate")
    reload(proxy, 1)
    files.cert.unlink()
    reload(proxy, 2)
    assert served(proxy.port, files) == before
    assert proxy.metric("prism_tls_reloads_failed_total") == 2
    assert proxy.metric("prism_tls_certificate_expiry_timestamp_seconds") == expiry
    eventually(lambda: len(proxy.logged("the certificate in use stays")) == 2)
    for record in proxy.logged("the certificate in use stays"):
        assert str(files.cert) in record["message"]
    files.issue()
    reload(proxy, 3)
    assert served(proxy.port, files) != before


@pytest.fixture
def on_a_terminal():
    """What makes a process one of a session with a terminal, at which nobody types."""
    ours, theirs = pty.openpty()
    name = os.ttyname(theirs)

    def open_terminal():
        os.setsid()
        os.open(name, os.O_RDWR)  # the session's first, hence its controlling terminal

    yield open_terminal
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("port", ["listen", "admin"])
def test_a_key_with_a_passphrase_is_refused_at_start_even_on_a_terminal(files, on_a_terminal, port):
    files.encrypt_key()
    config = files.config()
    if port == "admin":
        config["admin"] = {**config.get("admin", {}), "tls": config["listen"].pop("tls")}
    (files.directory / "prism.yaml").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "prism", "serve", "--config", "prism.yaml"],
        cwd=files.directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=on_a_terminal,
        check=False,
    )
    assert done.returncode == 1
    assert f": {port}.tls.key: {files.key}: the key is protected" in done.stderr


def test_a_new_key_with_a_passphrase_holds_up_nobody(start_prism, files, on_a_terminal):
    proxy = start_prism(files.config(), preexec=on_a_terminal)
    before = served(proxy.port, files)
    files.issue()
    files.encrypt_key()
    reload(proxy, 1)
    assert served(proxy.port, files) == before
    assert proxy.metric("prism_tls_reloads_failed_total") == 1
    [record] = eventually(lambda: proxy.logged("the certificate in use stays"))
    assert "protected by a passphrase" in record["message"]


@pytest.mark.parametrize("asked", [("get", '{"key":"a"}'), ("scan", '{"prefix":"a"}', "--stream")])
def test_a_call_without_the_certificate_that_is_wanted_is_told_so(start_prism, files, asked):
    proxy = start_prism(files.config(mutual=True))
    where = ("--url", proxy.url, "--ca-cert", str(files.ca_file))

    def call(*more):
        return subprocess.run(
            [sys.executable, "-m", "prism", "call", "demo", *asked, *where, *more],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    refused = call()
    assert refused.returncode == 1
    said, advice = refused.stderr.splitlines()
    assert "alert certificate required" in said
    assert advice == "The proxy wants a client certificate: --cert"
    answered = call("--cert", str(files.client()))
    assert (answered.returncode, answered.stderr) == (0, "")


def test_a_stream_is_not_followed_on_where_no_certificate_will_do(start_prism, files):
    proxy = start_prism(files.config(mutual=True))
    command = [sys.executable, "-m", "prism", "tail", "demo", "watch", "--url", proxy.url]
    for shown, told in (
        ([], "name the authority with --ca-cert"),
        (["--ca-cert", str(files.ca_file)], "The proxy wants a client certificate: --cert"),
    ):
        done = subprocess.run([*command, *shown], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert told in done.stderr.splitlines()[1]


def test_an_admin_port_that_wants_a_certificate_is_shown_one(start_prism, files):
    config = files.config(mutual=True)
    config["admin"] = {"tls": config["listen"].pop("tls")}
    proxy = start_prism(config)
    command = [sys.executable, "-m", "prism", "plugin", "list", "--url", proxy.admin]
    trusted = ["--ca-cert", str(files.ca_file)]
    for shown, told in (
        ([], "name the authority with --ca-cert"),
        (trusted, "The proxy wants a client certificate: --cert"),
    ):
        refused = subprocess.run([*command, *shown], capture_output=True, text=True, timeout=60)
        assert (refused.returncode, told in refused.stderr) == (1, True), refused.stderr
    command += [*trusted, "--cert", str(files.client())]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (listed.returncode, "demo" in listed.stdout) == (0, True), listed.stderr


@pytest.mark.parametrize("data_port_has_tls", [True, False])
def test_browsers_stay_with_tls_where_both_ports_have_it(start_prism, files, data_port_has_tls):
    """What a browser is told is for all ports of the host."""
    config = files.config()
    config["admin"] = {"tls": dict(config["listen"]["tls"])}
    if not data_port_has_tls:
        del config["listen"]["tls"]
    proxy = start_prism(config)
    for path in ("/readyz", "/admin/plugins", "/no-such-path"):
        told = proxy.client.get(proxy.admin + path).headers.get("strict-transport-security")
        assert told == ("max-age=31536000" if data_port_has_tls else None), path


@pytest.mark.slow
def test_a_storm_of_handshakes_is_answered_and_others_are_served_meanwhile(start_prism, files):
    proxy = start_prism(files.config(mutual=True, max_concurrent_handshakes=8))
    client = str(files.client())
    context = ssl.create_default_context(cafile=files.ca_file)
    context.load_cert_chain(client)
    command = [sys.executable, str(SUPPORT / "tls_storm.py"), str(proxy.port), "100"]
    with (
        httpx.Client(verify=context, trust_env=False, timeout=60) as other,
        subprocess.Popen(
            [*command, str(files.ca_file), client, client], stdout=subprocess.PIPE, text=True
        ) as storm,
    ):
        meanwhile = 0
        while storm.poll() is None:
            assert other.get(f"{proxy.url}/v1").status_code == 200
            meanwhile += 1
        printed, _ = storm.communicate()
    assert printed.split()[0] == "100"
    assert meanwhile > 10
    assert proxy.metric("prism_tls_handshakes_failed_total") == 0


def test_more_clients_than_descriptors(start_prism):
    """Those idle for longest make room, so that the proxy never runs out of descriptors."""
    hard = 100

    def few_descriptors():
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    proxy = start_prism(preexec=few_descriptors)
    [record] = eventually(lambda: proxy.logged("open files are allowed"))
    assert "at most 50 connections are kept instead of 4096" in record["message"]
    idle = []
    try:
        for _ in range(150):
            idle.append(socket.create_connection(("127.0.0.1", proxy.port), 20))
            idle[-1].sendall(b"GET /v1 HTTP/1.1\r\nhost: a\r\n\r\n")
            assert idle[-1].recv(1000).startswith(b"HTTP/1.1 200")
        assert proxy.metric("prism_connections") <= 50
        assert proxy.metric("prism_connections_shed_total") >= 100
        assert proxy.call("demo", "set", {"key": "a", "value": 1}).status_code == 200
    finally:
        for connection in idle:
            connection.close()
    assert not proxy.logged("cannot accept")
    assert len(list(Path(f"/proc/{proxy.pid}/fd").iterdir())) < hard
