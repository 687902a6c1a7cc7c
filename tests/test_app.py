import threading

import httpx
import pytest
import trio

from prism.app import Proxy, Ready
from prism.config.types import (
    AdminConfig,
    Config,
    ListenConfig,
    NamespaceConfig,
)
from prism.streams.errors import ListenError


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


class Started:
    """Waits for, and keeps, what ``run`` reports."""

    def __init__(self) -> None:
        self._ready: Ready | None = None
        self._event = trio.Event()

    def __call__(self, ready: Ready) -> None:
        self._ready = ready
        self._event.set()

    async def wait(self) -> Ready:
        await self._event.wait()
        assert self._ready is not None
        return self._ready


async def get(url: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        return await client.get(url)


async def test_it_serves_until_stopped_and_leaves_no_task_behind():
    proxy = Proxy(config())
    started = Started()
    before = trio.lowlevel.current_statistics().tasks_living
    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy.run, started)
        ready = await started.wait()
        described = await get(f"{ready.data[0]}/v1/kv")
        assert described.json()["ready"]
        assert (await get(f"{ready.admin[0]}/readyz")).status_code == 200
        proxy.stop()
    assert trio.lowlevel.current_statistics().tasks_living == before
    with pytest.raises(httpx.ConnectError):
        await get(f"{ready.data[0]}/v1")


async def test_cancelling_ends_everything_at_once():
    started = Started()
    before = trio.lowlevel.current_statistics().tasks_living
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Proxy(config()).run, started)
        ready = await started.wait()
        nursery.cancel_scope.cancel()
    assert trio.lowlevel.current_statistics().tasks_living == before
    with pytest.raises(httpx.ConnectError):
        await get(f"{ready.data[0]}/v1")


async def test_without_the_admin_port():
    proxy = Proxy(config(admin=AdminConfig(enabled=False)))
    started = Started()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy.run, started)
        ready = await started.wait()
        assert ready.admin == []
        assert (await get(f"{ready.data[0]}/readyz")).status_code == 200
        proxy.stop()


async def test_a_stop_before_the_start_is_over_counts():
    proxy = Proxy(config())
    proxy.stop()
    await proxy.run()


async def test_an_admin_port_in_use_gives_the_data_port_back():
    taken = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    free = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = free.socket.getsockname()[1]
    await free.aclose()
    used = taken.socket.getsockname()[1]
    ports = config(listen=ListenConfig(port=port), admin=AdminConfig(port=used))
    with pytest.raises(ListenError, match=f"port {used}"):
        await Proxy(ports).run()
    await taken.aclose()
    again = await trio.open_tcp_listeners(port, host="127.0.0.1")
    await again[0].aclose()


async def test_the_tokens_are_read_beside_the_event_loop(tmp_path, monkeypatch):
    token, threads = tmp_path / "token", []
    token.write_text("0123456789abcdef")
    token.chmod(0o600)

    def read(file):
        threads.append(threading.get_ident())
        return file.read_text()

    monkeypatch.setattr("prism.frontends.admin.access.read_token", read)
    proxy = Proxy(config(admin=AdminConfig(port=0, token_file=str(token))))
    started = Started()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy.run, started)
        await started.wait()
        await proxy.reload()
        proxy.stop()
    assert len(threads) == 2
    assert threading.get_ident() not in threads
