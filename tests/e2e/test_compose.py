"""examples/compose: what it says fits together, and its commands serve the RFC's two namespaces.

There is no container here: each service's own command runs as a process, with the example's
configuration but for addresses and paths, and the backends are real ones.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from prism_process import eventually, unused_port

from tests.services.fixtures import StartServer
from tests.services.kafka import Kafka
from tests.services.postgres import PostgreSQL18

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "compose"
SERVICES: dict[str, Any] = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())["services"]
OURS = ("prism-proxy", "kafka-plugin")
SOCKETS = "/var/run/plugins"
SECRETS = "/run/secrets"


def compose() -> list[str]:
    """The program that knows the format; empty where there is none."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker"):
        asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if asked.returncode == 0:
            return ["docker", "compose"]
    return []


@pytest.mark.skipif(not compose(), reason="docker compose is not installed")
def test_compose_takes_the_file() -> None:
    command = [*compose(), "--file", str(EXAMPLE / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_file_names_is_there() -> None:
    whole = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                assert (EXAMPLE / source).is_file(), source
                assert target in service["command"], "it is mounted where the command looks"
            else:
                assert source in whole["volumes"], name
        for secret in service.get("secrets", []):
            assert secret in whole["secrets"], name
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in OURS:
        build = SERVICES[name]["build"]
        assert (EXAMPLE / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
        assert build["args"]["EXTRAS"] in extras["optional-dependencies"]
    text = (EXAMPLE / "prism.yaml").read_text()
    mounted = SERVICES["prism-proxy"]["secrets"]
    assert sorted(re.findall(r"secret:(\w+)", text)) == sorted(mounted)


def test_proxy_and_plugin_share_the_socket_as_one_user() -> None:
    """Who dials must have the proxy's user, or the proxy refuses it."""
    dockerfile = (EXAMPLE / "Dockerfile").read_text()
    assert dockerfile.count("\nUSER ") == 1
    assert f"-o prism -g prism -m 0700 {SOCKETS}" in dockerfile
    for name in OURS:
        assert "user" not in SERVICES[name]
        assert f"plugins:{SOCKETS}" in SERVICES[name]["volumes"]
    socket = SERVICES["kafka-plugin"]["environment"]["PLUGIN_SOCKET"]
    namespaces = yaml.safe_load((EXAMPLE / "prism.yaml").read_text())["namespaces"]
    assert namespaces[1]["plugin"]["socket"] == socket


def test_the_image_has_what_it_copies_and_says() -> None:
    dockerfile = (EXAMPLE / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "COPY . /source" in dockerfile
    for needed in ("prism", "plugins", "native", "setup.py", "pyproject.toml", "requirements"):
        assert needed not in ignored
        assert (ROOT / needed).exists()
    default = yaml.safe_load(dockerfile.rpartition("CMD ")[2])
    assert default == SERVICES["prism-proxy"]["command"]


def broker_settings(directory: Path, port: int) -> dict[str, str]:
    """The broker's, as its image makes them from the environment; the addresses are others."""
    service = SERVICES["kafka-1"]
    shell, option, script = service["command"]
    script = script.replace("$$", "$").replace(SECRETS, str(directory / "secrets"))
    assert "exec /etc/kafka/docker/run\n" in script
    ran = subprocess.run(
        [shell, option, script.replace("exec /etc/kafka/docker/run", "env")],
        env={"PATH": os.environ["PATH"], **service["environment"]},
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(line.split("=", 1) for line in ran.stdout.splitlines())
    addresses = {
        "0.0.0.0:9092": f"127.0.0.1:{port}",
        "kafka-1:9092": f"127.0.0.1:{port}",
        "localhost:9093": f"127.0.0.1:{unused_port()}",
        "localhost:9094": f"127.0.0.1:{unused_port()}",
    }
    settings = {}
    for name, value in found.items():
        for shown, real in addresses.items():
            value = value.replace(shown, real)
        if name.startswith("KAFKA_"):
            settings[name.removeprefix("KAFKA_").lower().replace("_", ".")] = value
    # The servers of the tests find their controller in the other of the two ways.
    voters = settings.pop("controller.quorum.voters")
    settings["controller.quorum.bootstrap.servers"] = voters.partition("@")[2]
    del settings["log.dirs"]
    return settings


def as_process(command: list[str]) -> list[str]:
    """A service's command, run by this Python."""
    program, *arguments = command
    if program == "python":
        return [sys.executable, *arguments]
    assert program == "prism"
    return [sys.executable, "-m", "prism", *arguments]


@pytest.fixture
def example(tmp_path: Path, start_server: StartServer) -> dict[str, Any]:
    """The proxy's configuration, with the backends that run here."""
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700)
    for name in ("postgres_password", "kafka_password"):
        (secrets / name).write_text(f"{name.encode().hex()}\n")
    postgres = start_server(PostgreSQL18)
    environment = SERVICES["postgres"]["environment"]
    user, database = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
    password = (secrets / Path(environment["POSTGRES_PASSWORD_FILE"]).name).read_text().strip()
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{password}'")
        connection.execute(f"CREATE DATABASE {database}")
    port = unused_port()
    start_server(Kafka, settings=broker_settings(tmp_path, port))
    text = (EXAMPLE / "prism.yaml").read_text()
    for shown, real in {
        "//postgres:5432": f"//127.0.0.1:{postgres.port}",
        "kafka-1:9092": f"127.0.0.1:{port}",
        SOCKETS: str(tmp_path / "plugins"),
        SECRETS: str(secrets),
        "0.0.0.0": "127.0.0.1",
    }.items():
        text = text.replace(shown, real)
    file = tmp_path / "prism.yaml"
    file.write_text(text)
    return {"file": file}


@pytest.mark.slow
def test_the_services_serve_the_rfcs_two_namespaces(
    start_prism, start_process, tmp_path: Path, example: dict[str, Any]
) -> None:
    file = example["file"]
    check = subprocess.run(
        [sys.executable, "-m", "prism", "config", "check", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stderr

    def start_plugin() -> subprocess.Popen[bytes]:
        service = SERVICES["kafka-plugin"]
        environment = {
            name: value.replace(SOCKETS, str(tmp_path / "plugins"))
            for name, value in service["environment"].items()
        }
        log = tmp_path / "plugin.log"
        return start_process(*as_process(service["command"]), log=log, **environment)

    plugin = start_plugin()  # before the proxy, as containers come in any order
    program, verb, option, path = SERVICES["prism-proxy"]["command"]
    assert (program, verb, option, path) == ("prism", "serve", "--config", "/etc/prism/prism.yaml")
    proxy = start_prism(None, arguments=("--config", str(file), "--port", "0", "--admin-port", "0"))
    eventually(proxy.ready)

    made = {"sql": "CREATE TABLE IF NOT EXISTS profile (id int, name text)"}
    assert proxy.call("user-profiles", "execute", made).status_code == 200
    added = {"sql": "INSERT INTO profile VALUES ($1, $2)", "params": [1, "Ada"]}
    assert proxy.call("user-profiles", "execute", added).json() == {"rows_affected": 1}
    asked = {"sql": "SELECT name FROM profile"}
    assert proxy.call("user-profiles", "query", asked).json()["rows"] == [["Ada"]]
    topic = {"topic": "profiles"}
    assert proxy.call("event-stream", "create_topic", topic).status_code == 200
    published = proxy.call("event-stream", "publish", {**topic, "value": {"id": 1}})
    assert published.json()["offset"] == 0, published.text

    # A plugin's crash is its own affair, and the container that restarts it all that it takes.
    plugin.send_signal(signal.SIGKILL)
    plugin.wait()
    eventually(lambda: proxy.call("event-stream", "topics", {}).status_code != 200)
    assert proxy.call("user-profiles", "query", asked).status_code == 200
    start_plugin()
    eventually(lambda: proxy.call("event-stream", "topics", {}).status_code == 200)
    read = proxy.call("event-stream", "read", {**topic, "partition": 0}).json()
    assert [message["value"] for message in read["messages"]] == [{"id": 1}]

    kind, *healthy = SERVICES["prism-proxy"]["healthcheck"]["test"]
    assert kind == "CMD"
    command = [part.replace("http://127.0.0.1:50052", proxy.admin) for part in as_process(healthy)]
    assert command[-1] != healthy[-1]
    assert subprocess.run(command, check=False).returncode == 0
