import os
import signal
import subprocess
import sys

import httpx
import pytest
import trio

from prism.config.types import AdminConfig, Config, ListenConfig, ListenerTLS, NamespaceConfig
from prism.server.http2.implementation import CodecUnavailable
from prism.signals import command, run_until_signalled
from prism.streams.errors import ListenError, TLSFilesError


def config(**changes) -> Config:
    """One namespace on SQLite in memory, on free ports."""
    namespace = NamespaceConfig(name="kv", backend="sqlite", config={"path": ":memory:"})
    fields = {
        "listen": ListenConfig(port=0),
        "admin": AdminConfig(port=0),
        "namespaces": [namespace],
        "drain_timeout_seconds": 5.0,
    }
    return Config(**fields | changes)


async def get(url: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        return await client.get(url)


@pytest.mark.parametrize("kind", [ListenError, TLSFilesError])
async def test_what_keeps_it_from_starting_is_raised_by_itself(kind):
    async with (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] as taken:
        port = taken.socket.getsockname()[1]
        wrong = {
            ListenError: ListenConfig(port=port),
            TLSFilesError: ListenConfig(port=0, tls=ListenerTLS("none.pem", "none.key")),
        }
        with pytest.raises(kind):
            await run_until_signalled(config(listen=wrong[kind]))


async def test_a_codec_that_is_not_there_keeps_it_from_starting(monkeypatch):
    monkeypatch.setenv("PRISM_HTTP2_CODEC", "nosuch")
    with pytest.raises(CodecUnavailable, match="there is no such codec"):
        await run_until_signalled(config())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_gracefully(number):
    graceful = await run_until_signalled(config(), lambda _ready: signal.raise_signal(number))
    assert graceful


async def test_a_second_signal_ends_it_at_once():
    outcome = []

    async def run(task_status=trio.TASK_STATUS_IGNORED) -> None:
        outcome.append(await run_until_signalled(config(), task_status.started))

    async with trio.open_nursery() as nursery:
        ready = await nursery.start(run)
        # A call that waits holds the drain up.
        address = str(ready.data[0]).removeprefix("http://").partition(":")
        stream = await trio.open_tcp_stream(address[0], int(address[2]))
        async with stream:
            body = b'{"queue":"q","wait_seconds":25}'
            await stream.send_all(
                b"POST /v1/kv/dequeue HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            while not (await get(f"{ready.admin[0]}/metrics")).text.count(
                'prism_requests_in_flight{namespace="kv"} 1.0'
            ):
                await trio.lowlevel.checkpoint()
            signal.raise_signal(signal.SIGTERM)
            while (await get(f"{ready.admin[0]}/readyz")).json()["status"] != "draining":
                await trio.lowlevel.checkpoint()
            signal.raise_signal(signal.SIGTERM)
    assert outcome == [False]


async def test_a_reload_goes_on_serving(caplog):
    def hang_up(_ready) -> None:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)

    caplog.set_level("INFO", "prism")
    assert await run_until_signalled(config(), hang_up)
    said = [record.getMessage() for record in caplog.records if record.name == "prism"]
    assert said.index("reloading on SIGHUP") < said.index("stopped")


async def test_a_process_that_stops_starts_no_successor(caplog):
    def stop_first(_ready) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR2)

    assert await run_until_signalled(config(), stop_first)
    assert "SIGUSR2 is refused" in caplog.text


def test_a_successor_runs_the_same_command(monkeypatch):
    monkeypatch.setattr("sys.orig_argv", ["python3", "-m", "prism", "serve", "--port", "1"])
    monkeypatch.setattr("sys.executable", "/opt/prism/bin/python3")
    assert command() == ["/opt/prism/bin/python3", "-m", "prism", "serve", "--port", "1"]


def test_a_script_is_run_by_the_python_that_its_first_line_names_by_then(tmp_path):
    """As where /opt/prism is a link, and points at another version when the successor starts."""
    link = tmp_path / "prism"
    for version in ("old", "new"):
        script = tmp_path / version / "bin" / "prism"
        python = script.with_name("python3")
        script.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        script.write_text(
            f"#!{python}\nimport sys\nfrom prism.signals import command\n"
            "print(sys.executable, *command())\n"
        )
        script.chmod(0o755)
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / version)
        environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
        printed = subprocess.check_output([link / "bin/prism", "serve"], env=environment, text=True)
        started_by, *again = printed.split()
        assert started_by == str(python)
        assert again == [f"{link}/bin/prism", "serve"]

    explicit = [sys.executable, link / "bin/prism", "serve"]
    printed = subprocess.check_output(explicit, env=environment, text=True)
    assert printed.split()[1:] == [sys.executable, f"{link}/bin/prism", "serve"]
