"""What keeps a proxy, or one of its namespaces, from starting, is said in a line."""

import os
import re
import resource
import socket
import subprocess
import sys

import pytest
from prism_process import CHAOS

FREE_PORTS = ("--port", "0", "--admin-port", "0")


def serve_in_vain(directory, *arguments, open_files=None):
    """Standard error of a `prism serve` that ends by itself, with status 1."""

    def limit_open_files():
        if open_files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))

    done = subprocess.run(
        [sys.executable, "-m", "prism", "serve", *arguments],
        cwd=directory,
        preexec_fn=limit_open_files,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("option", ["--port", "--admin-port"])
def test_a_port_in_use(tmp_path, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = serve_in_vain(tmp_path, *FREE_PORTS, option, port)
    (line,) = said.splitlines()
    assert line.startswith(f"prism: cannot listen on 127.0.0.1, port {port}: ")


def test_one_port_for_two(tmp_path):
    (tmp_path / "prism.yaml").write_text("listen: {port: 7001}\nadmin: {port: 7002}\n")
    for arguments in (
        ("--admin-port", "50051"),
        ("--config", "prism.yaml", "--admin-port", "7001"),
        ("--config", "prism.yaml", "--port", "7002"),
    ):
        *_, line = serve_in_vain(tmp_path, *arguments).splitlines()  # after warnings
        assert re.fullmatch(
            r"prism: the command line: admin.port: port \d+ is already that of `listen`", line
        )


def test_a_file_that_cannot_be_used_has_the_place_that_names_it(tmp_path):
    (tmp_path / "keys.yaml").write_text("keys: 5\n")
    (tmp_path / "short").write_text("abc\n")
    (tmp_path / "short").chmod(0o600)
    for text, place in (
        ("listen:\n  tls: {cert: no.pem, key: no.pem}\n", "2:15: listen.tls.cert: "),
        (
            "admin:\n  tokens:\n  - {name: ada, file: short, may: read}\n",
            "3:23: admin.tokens[0].file: ",
        ),
        (
            "authentication:\n  api_keys: {file: keys.yaml}\n",
            "2:20: authentication.api_keys.file: ",
        ),
    ):
        (tmp_path / "prism.yaml").write_text(text)
        *_, line = serve_in_vain(tmp_path, *FREE_PORTS, "--config", "prism.yaml").splitlines()
        assert line.startswith(f"prism: prism.yaml:{place}"), line


@pytest.mark.parametrize("open_files", [8, 20, 63])
def test_too_few_open_files(tmp_path, open_files):
    (line,) = serve_in_vain(tmp_path, *FREE_PORTS, open_files=open_files).splitlines()
    assert line.startswith(f"prism: this process may have {open_files} files open, and the proxy")
    assert "ulimit -n" in line


def test_every_error_of_a_configuration_has_its_place(tmp_path):
    (tmp_path / "prism.yaml").write_text(
        "listen:\n  prot: 1\nnamespaces:\n  - name: A\n    backend: sqlite\n"
        "    limits: {timeout_seconds: -1}\n"
        "  - name: b\n    backend: sqlite\n"
        f"    plugin: {{type: sidecar, socket: /run/{'s' * 103}}}\n"
    )
    said = serve_in_vain(tmp_path, *FREE_PORTS, "--config", "prism.yaml")
    places = [line.split(": ")[:2] for line in said.removeprefix("prism: ").splitlines()]
    assert places == [
        ["prism.yaml:2:3", "listen.prot"],
        ["prism.yaml:4:11", "namespaces[0].name"],
        ["prism.yaml:6:31", "namespaces[0].limits.timeout_seconds"],
        ["prism.yaml:9:37", "namespaces[1].plugin.socket"],
    ]
    assert "has 108 bytes; at most 107" in said


@pytest.mark.parametrize(
    ("name", "content"),
    [("none.yaml", None), ("binary.yaml", b"\xff\xfe\0"), ("torn.yaml", b"listen: [")],
)
def test_a_configuration_that_cannot_be_read(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert name in serve_in_vain(tmp_path, *FREE_PORTS, "--config", name)


def test_a_certificate_that_cannot_be_read(tmp_path):
    (tmp_path / "prism.yaml").write_text("listen: {tls: {cert: none.pem, key: none.pem}}\n")
    said = serve_in_vain(tmp_path, *FREE_PORTS, "--config", "prism.yaml")
    assert "none.pem" in said


FAULTY = {
    "directory-missing": ({"config": {"path": "none/a.db"}}, "none"),
    "a-directory": ({"config": {"path": "."}}, "."),
    "not-a-database": ({"config": {"path": "text.db"}}, "not a database"),
    "wrong-config": (
        {
            # By a shell, so that the configuration's own check does not see whose settings it has.
            "plugin": {
                "type": "sidecar",
                "command": ["sh", "-c", "exec python -m prism_plugins.sqlite"],
            },
            "config": {"pth": "a.db"},
        },
        "pth",
    ),
    "last-words": (
        {"plugin": {"type": "sidecar", "command": ["sh", "-c", "echo no driver >&2; exit 3"]}},
        "; the last that it wrote: no driver",
    ),
    "no-secret": (
        {"backend": "redis", "credentials": {"password": "{{ secret:none }}"}},
        '"none"',
    ),
    "no-module": (
        {"plugin": {"type": "in_process", "module": "nowhere:Plugin"}},
        f"no module 'nowhere': it is neither installed for {sys.executable} nor in /",
    ),
    "no-class": (
        {"plugin": {"type": "in_process", "module": "prism_plugins.sqlite:Nothing"}},
        "has no 'Nothing'",
    ),
    "no-command": (
        {"plugin": {"type": "sidecar", "command": ["no-such-program"]}},
        "cannot run no-such-program: No such file or directory",
    ),
    "no-program": ({"plugin": {"type": "sidecar", "command": ["./text.db"]}}, "is it executable?"),
    "no-workplace": (
        {"plugin": {"type": "sidecar", "command": CHAOS, "working_directory": "none"}},
        "working_directory",
    ),
    "socket-is-a-file": ({"plugin": {"type": "sidecar", "socket": "text.db"}}, "not a socket"),
}


def test_a_namespace_that_cannot_start_leaves_the_others_served(start_prism, tmp_path):
    (tmp_path / "text.db").write_text("this is text\n" * 100)
    namespaces = [{"name": name, "backend": "sqlite", **what} for name, (what, _) in FAULTY.items()]
    namespaces.append({"name": "good", "backend": "sqlite", "config": {"path": ":memory:"}})
    proxy = start_prism({"secrets": {"directory": str(tmp_path)}, "namespaces": namespaces})
    assert proxy.call("good", "get", {"key": "a"}).json() == {"found": False}

    readiness = proxy.client.get(f"{proxy.admin}/readyz")
    assert readiness.status_code == 503
    states = readiness.json()["namespaces"]
    assert states.pop("good") == "ready"
    assert states.keys() == FAULTY.keys()
    for name, (_, reason) in FAULTY.items():
        assert reason in states[name]
        refused = proxy.call(name, "get", {"key": "a"})
        assert (refused.status_code, refused.json()["reason"]) == (503, "plugin_unavailable")
        assert refused.json()["detail"] == f"namespace {name!r} has no plugin now"
        assert proxy.logged(f"namespace {name} has no plugin")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_database_that_may_not_be_written(start_prism, tmp_path):
    database = tmp_path / "a.db"
    database.touch(mode=0o400)
    proxy = start_prism(
        {"namespaces": [{"name": "kv", "backend": "sqlite", "config": {"path": str(database)}}]}
    )
    assert "read" in proxy.call("kv", "set", {"key": "a", "value": 1}).json()["detail"]


def test_a_full_disk_costs_the_writes_only(start_prism, tmp_path):
    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    path = str(tmp_path / "a.db")
    namespace = {"name": "kv", "backend": "sqlite", "config": {"path": path}}
    proxy = start_prism({"namespaces": [namespace]}, preexec=limit_files)
    assert proxy.call("kv", "set", {"key": "first", "value": 1}).status_code == 200
    for number in range(20):
        answer = proxy.call("kv", "set", {"key": str(number), "value": "x" * 50_000})
        if answer.status_code != 200:
            break
    problem = answer.json()
    assert (answer.status_code, problem["reason"]) == (503, "plugin_error")
    assert "disk full, a quota" in problem["detail"]
    found = proxy.call("kv", "get", {"key": "first"})
    assert found.json()["value"] == 1
