"""`prism serve` under a service manager: its sockets, and what it reports."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from handover import Adopted
from prism_process import STOP_LIMIT, eventually
from service_manager import ServiceManager


@pytest.fixture
def manager(tmp_path):
    manager = ServiceManager(tmp_path)
    yield manager
    manager.close()


def address(listening):
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def get(url):
    return httpx.get(url, trust_env=False, timeout=60)


@pytest.fixture
def service(manager):
    """The service, which the manager ends."""
    process = manager.start()
    yield process
    process.kill()
    process.wait()


def test_the_sockets_of_systemd_are_used(manager, service):
    told = manager.told()
    assert told["READY"] == "1"
    assert told["STATUS"] == f"serving {address(manager.data)}"
    assert get(f"{address(manager.data)}/v1").status_code == 200
    assert get(f"{address(manager.admin)}/readyz").status_code == 200
    service.terminate()
    assert manager.told()["STOPPING"] == "1"
    assert service.wait(STOP_LIMIT) == 0


def test_a_reload_and_a_handover_are_announced_as_systemd_expects(manager, service):
    assert manager.told()["READY"] == "1"
    service.send_signal(signal.SIGHUP)
    assert {"RELOADING", "MONOTONIC_USEC"} <= manager.told().keys()
    assert manager.told()["READY"] == "1"
    service.send_signal(signal.SIGUSR2)
    assert manager.told()["RELOADING"] == "1"
    told = [manager.told(), manager.told()]  # of both processes, in any order
    [pid] = [message["MAINPID"] for message in told if "MAINPID" in message]
    successor = Adopted(int(pid))
    try:
        assert all(message["READY"] == "1" for message in told)
        assert service.wait(STOP_LIMIT) == 0
        assert get(f"{address(manager.data)}/v1").status_code == 200
        assert get(f"{address(manager.admin)}/readyz").status_code == 200
    finally:
        successor.terminate()
        successor.wait()
    assert manager.told()["STOPPING"] == "1"


def test_what_waits_outlives_a_crash(manager, service):
    """The manager holds the sockets, so connections wait while nobody serves."""
    assert manager.told()["READY"] == "1"
    service.kill()
    service.wait()
    with socket.create_connection(manager.data.getsockname(), 20) as waiting:
        waiting.sendall(b"GET /v1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        again = manager.start()
        try:
            assert waiting.recv(100).startswith(b"HTTP/1.1 200")
        finally:
            again.terminate()
            assert again.wait(STOP_LIMIT) == 0


def test_a_descriptor_on_the_command_line(tmp_path):
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as data, log.open("wb") as output:
        arguments = ["--fd", str(data.fileno()), "--admin-port", "0"]
        service = subprocess.Popen(
            [sys.executable, "-m", "prism", "serve", *arguments],
            cwd=tmp_path,
            stdout=output,
            stderr=output,
            pass_fds=[data.fileno()],
        )
        try:
            eventually(lambda: f"on {address(data)}" in log.read_text())
            assert get(f"{address(data)}/v1").status_code == 200
        finally:
            service.terminate()
            assert service.wait(STOP_LIMIT) == 0


@pytest.mark.parametrize(
    ("descriptor", "why"),
    [("99", "descriptor 99: it is not open"), ("0", "not usable|not a listening")],
)
def test_a_descriptor_that_is_no_listening_socket(tmp_path, descriptor, why):
    done = subprocess.run(
        [sys.executable, "-m", "prism", "serve", "--fd", descriptor],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("prism: cannot listen on descriptor")
    assert not list(Path(tmp_path).iterdir())


def test_a_given_socket_beyond_loopback_needs_insecure(tmp_path):
    with socket.create_server(("0.0.0.0", 0)) as data:
        done = subprocess.run(
            [sys.executable, "-m", "prism", "serve", "--fd", str(data.fileno())],
            cwd=tmp_path,
            pass_fds=[data.fileno()],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert 'accept it with "insecure: true"' in done.stderr
