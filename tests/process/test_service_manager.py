import os
import socket

import pytest

from prism.process import service_manager


@pytest.fixture(params=["path", "abstract"])
def told(request, tmp_path, monkeypatch):
    name = str(tmp_path / "notify") if request.param == "path" else f"\0prism-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@"))
        yield lambda: manager.recv(4096).decode().split("\n")


def test_each_state_is_one_datagram(told):
    service_manager.ready("serving\nwell")
    assert told() == ["READY=1", "STATUS=serving well"]
    service_manager.stopping("bye")
    assert told() == ["STOPPING=1", "STATUS=bye"]
    service_manager.replaced(17, "gone")
    assert told() == ["MAINPID=17", "READY=1", "STATUS=gone"]
    service_manager.reloading("again")
    state, moment, _ = told()
    assert state == "RELOADING=1"
    assert moment.startswith("MONOTONIC_USEC=")


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "/no/such/socket"])
def test_a_manager_that_cannot_be_told_is_no_reason_to_fail(address, monkeypatch, caplog):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    service_manager.ready("serving")
    assert bool(caplog.records) == address.startswith("/")
