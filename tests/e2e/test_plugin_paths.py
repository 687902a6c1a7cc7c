"""The same set and get, whichever way the plugin is reached."""

import socket
import sys
from pathlib import Path

import pytest
import trustme
from prism_process import FAST_CHECKS, eventually, group_members, unused_port
from vanishing_peer import VanishingPath

SQLITE = [sys.executable, "-m", "prism_plugins.sqlite"]
ECHO = [sys.executable, str(Path(__file__).parents[2] / "examples/plugins/python/echo.py")]


def namespace(plugin, **config):
    return {"namespaces": [{"name": "kv", "backend": "sqlite", "plugin": plugin, "config": config}]}


def set_and_get(proxy):
    assert proxy.call("kv", "set", {"key": "a", "value": [1, "x"]}).json() == {"stored": True}
    assert proxy.call("kv", "get", {"key": "a"}).json()["value"] == [1, "x"]
    assert proxy.call("kv", "get", {"key": "b"}).json() == {"found": False}


PLUGINS = [
    pytest.param(SQLITE, {"path": "kv.db"}, id="sqlite"),
    pytest.param(ECHO, {}, id="echo"),
]


def test_in_process_from_the_configuration_s_directory(start_prism, tmp_path):
    (tmp_path / "beside.py").write_text(
        "from waiting_plugin import Waiting\n\n\nclass Beside(Waiting):\n    pass\n"
    )
    plugin = {"type": "in_process", "module": "beside:Beside"}
    proxy = start_prism(
        {"namespaces": [{"name": "b", "backend": "b", "plugin": plugin}]},
        # Else Python itself would look in the current directory.
        environment={"PYTHONSAFEPATH": "1"},
    )
    assert proxy.call("b", "echo", {"a": 1}).json() == {"a": 1}


def test_in_process(start_prism):
    plugin = {"type": "in_process", "module": "prism_plugins.sqlite:SQLitePlugin"}
    set_and_get(start_prism(namespace(plugin, path="kv.db")))


@pytest.mark.parametrize(("command", "config"), PLUGINS)
def test_spawned(start_prism, command, config):
    proxy = start_prism(namespace({"type": "sidecar", "command": command}, **config))
    set_and_get(proxy)
    (pid,) = proxy.plugin_pids
    assert group_members(pid) == [pid]
    assert proxy.stop() == 0
    assert not group_members(pid)


def test_a_spawned_plugin_ends_with_a_killed_proxy(start_prism):
    proxy = start_prism(namespace({"type": "sidecar", "command": SQLITE}, path="kv.db"))
    set_and_get(proxy)
    proxy.process.kill()
    proxy.process.wait()
    eventually(lambda: not group_members(proxy.plugin_pids[0]))


@pytest.mark.parametrize("first", ["proxy", "plugin"])
@pytest.mark.parametrize(("command", "config"), PLUGINS)
def test_dialling_in(start_prism, start_process, tmp_path, first, command, config):
    path = tmp_path / "run" / "kv.sock"
    config = {**config, "path": str(tmp_path / "kv.db")} if config else {}
    log = tmp_path / "plugin.log"

    def start_plugin():
        start_process(*command, log=log, PLUGIN_SOCKET=str(path))

    if first == "plugin":
        start_plugin()
        eventually(lambda: log.exists() and "waiting for the proxy" in log.read_text())
    proxy = start_prism(namespace({"type": "sidecar", "socket": str(path)}, **config))
    if first == "proxy":
        refused = proxy.call("kv", "get", {"key": "a"})
        assert refused.status_code == 503
        assert str(path) not in refused.json()["detail"]
        assert str(path) in proxy.absence("kv")
        start_plugin()
    eventually(proxy.ready)
    set_and_get(proxy)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_dialling_plugin_outlives_the_proxy(start_prism, start_process, tmp_path):
    path = tmp_path / "run" / "kv.sock"
    config = namespace({"type": "sidecar", "socket": str(path)}, path=str(tmp_path / "kv.db"))
    plugin = start_process(*SQLITE, log=tmp_path / "plugin.log", PLUGIN_SOCKET=str(path))
    proxy = start_prism(config)
    eventually(proxy.ready)
    set_and_get(proxy)
    proxy.process.kill()
    proxy.process.wait()
    again = start_prism(config)  # the dead proxy's socket file is in the way, and is replaced
    eventually(again.ready)
    assert again.call("kv", "get", {"key": "a"}).json()["found"]
    assert plugin.poll() is None


def test_a_plugin_that_listens(start_prism, start_process, tmp_path):
    path = tmp_path / "kv.sock"
    plugin = {"type": "sidecar", "socket": str(path), "dial": True}
    proxy = start_prism(namespace(plugin, path=str(tmp_path / "kv.db")))
    assert "is the plugin running?" in proxy.absence("kv")
    start_process(*SQLITE, "--listen", f"unix:{path}", log=tmp_path / "plugin.log")
    eventually(proxy.ready)
    set_and_get(proxy)


class Certificates:
    """PEM files of one authority, for the proxy and for a plugin named ``localhost``."""

    def __init__(self, directory):
        self.directory = directory
        self.authority = trustme.CA()
        self.ca = str(directory / "ca.pem")
        self.authority.cert_pem.write_to_path(self.ca)
        self.proxy = self.issue("proxy@example.org")
        self.plugin = self.issue("localhost")

    def issue(self, identity, authority=None):
        issued = (authority or self.authority).issue_cert(identity)
        stem = f"{identity.partition('@')[0]}-{id(issued)}"
        cert, key = (str(self.directory / f"{stem}.{kind}") for kind in ("pem", "key"))
        issued.cert_chain_pems[0].write_to_path(cert)
        issued.private_key_pem.write_to_path(key)
        return cert, key


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path)


@pytest.fixture
def start_remote(start_process, tmp_path, certificates):
    """A SQLite plugin that wants client certificates; returns its port."""

    def start(identity=None):
        port = unused_port()
        cert, key = identity or certificates.plugin
        where = ["--listen", f"tcp:127.0.0.1:{port}", "--tls-client-ca", certificates.ca]
        start_process(
            *SQLITE, *where, "--tls-cert", cert, "--tls-key", key, log=tmp_path / "plugin.log"
        )

        def listens():
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", port)) == 0

        eventually(listens)
        return port

    return start


def remote(port, certificates, identity):
    cert, key = identity
    tls = {"ca_cert": certificates.ca, "cert": cert, "key": key}
    return {"type": "remote", "endpoint": f"localhost:{port}", "tls": tls}


def test_remote_over_mutual_tls(start_prism, start_remote, certificates, tmp_path):
    plugin = remote(start_remote(), certificates, certificates.proxy)
    proxy = start_prism(namespace(plugin, path=str(tmp_path / "kv.db")))
    eventually(proxy.ready)
    set_and_get(proxy)


def test_a_remote_plugin_that_vanishes_without_a_word(
    start_prism, start_remote, certificates, tmp_path
):
    with VanishingPath(start_remote()) as path:
        plugin = remote(path.port, certificates, certificates.proxy) | {"health": FAST_CHECKS}
        proxy = start_prism(namespace(plugin, path=str(tmp_path / "kv.db")))
        eventually(proxy.ready)
        set_and_get(proxy)
        assert path.vanish() == 1
        # It is answered in time all the same: repeated on the next connection, since that is safe.
        found = proxy.call("kv", "get", {"key": "a"}, prism_timeout="30s")
        assert found.json()["value"] == [1, "x"]
        set_and_get(proxy)
        assert proxy.metric("prism_request_retries_total", namespace="kv", reason="idempotent") == 1


def test_a_remote_plugin_of_another_name_is_not_trusted(
    start_prism, start_remote, certificates, tmp_path
):
    port = start_remote(certificates.issue("elsewhere.example.org"))
    proxy = start_prism(namespace(remote(port, certificates, certificates.proxy)))
    absence = proxy.absence("kv")
    assert "TLS with localhost" in absence
    assert "localhost" in absence.partition("failed:")[2]


def test_a_proxy_that_the_plugin_does_not_know_is_refused(
    start_prism, start_remote, certificates, tmp_path
):
    stranger = certificates.issue("proxy@example.org", trustme.CA())
    proxy = start_prism(namespace(remote(start_remote(), certificates, stranger)))
    assert not proxy.ready()
    refused = proxy.call("kv", "get", {"key": "a"})
    assert refused.json()["reason"] == "plugin_unavailable"
    assert "alert unknown ca" in proxy.absence("kv")  # the plugin says so


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_behind_a_websocket(start_prism, start_process, certificates, tmp_path, secure):
    log = tmp_path / "plugin.log"
    arguments, tls = ["--insecure"], {}
    if secure:
        cert, key = certificates.plugin
        arguments = ["--tls-cert", cert, "--tls-key", key]
        tls = {"tls": {"ca_cert": certificates.ca}}
    start_process(*SQLITE, "--listen", "ws:localhost:0", *arguments, log=log)
    eventually(lambda: "listening on ws:" in log.read_text())
    port = log.read_text().partition("listening on ws:127.0.0.1:")[2].split()[0]
    url = f"{'wss' if secure else 'ws'}://localhost:{port}/plugin"
    plugin = {"type": "websocket", "endpoint": url, **tls}
    if not secure:
        plugin["insecure"] = True
    proxy = start_prism(namespace(plugin, path=str(tmp_path / "kv.db")))
    eventually(proxy.ready)
    set_and_get(proxy)
    assert proxy.stop() == 0


def test_an_endpoint_that_is_no_websocket_is_said(start_prism):
    other = start_prism()
    plugin = {"type": "websocket", "endpoint": f"127.0.0.1:{other.port}", "insecure": True}
    proxy = start_prism(namespace(plugin))
    assert not proxy.ready()
    eventually(lambda: "answered HTTP 404, not a WebSocket" in proxy.log)
