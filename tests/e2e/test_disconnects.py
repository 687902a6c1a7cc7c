"""Calls whose clients may vanish at any moment leave nothing behind."""

import random
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
import trio
from prism_process import WAITING, Proxy, eventually

CALLS = [2_000, pytest.param(200_000, marks=pytest.mark.soak)]
CLIENTS = 50
CONNECTION_CALLS = 10


def request_for(generator: random.Random) -> bytes:
    """One HTTP/1.1 request whose call takes up to 20 ms."""
    namespace = generator.choice(["inside", "spawned"])
    body = b'{"seconds": %.3f}' % (generator.random() * 0.02)
    head = f"POST /v1/{namespace}/wait HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def read_response(stream: trio.SocketStream) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = await stream.receive_some()
        assert chunk, "closed instead of an answer"
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    (length,) = [
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    ]
    while len(body) < length:
        body += await stream.receive_some()
    return head


async def http1_client(port: int, generator: random.Random) -> int:
    """Some calls on one connection, the last of which may be broken off; returns their number."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    made = 0
    while made < CONNECTION_CALLS:
        made += 1
        request = request_for(generator)
        fate = generator.random()
        if fate < 0.03:  # in the middle of the request
            await stream.send_all(request[: generator.randrange(len(request))])
            break
        await stream.send_all(request)
        if fate < 0.3:  # while the call runs
            await trio.sleep(generator.random() * 0.02)
            break
        assert (await read_response(stream)).startswith(b"HTTP/1.1 200 ")
    if generator.random() < 0.5:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)
    return made


def in_flight(proxy: Proxy) -> float:
    return sum(
        proxy.metric("prism_requests_in_flight", namespace=namespace)
        for namespace in ("inside", "spawned")
    )


def descriptors(proxy: Proxy) -> int:
    return len(list(Path(f"/proc/{proxy.pid}/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.parametrize("calls", CALLS)
async def test_calls_with_random_disconnects(start_prism, calls: int) -> None:
    spawned = {"name": "spawned", "backend": "w", "plugin": {"type": "sidecar", "command": WAITING}}
    inside = {
        "name": "inside",
        "backend": "w",
        "plugin": {"type": "in_process", "module": "waiting_plugin:Waiting"},
    }
    proxy = start_prism({"namespaces": [inside, spawned]})
    generator = random.Random(0)
    done = 0

    async def http1_clients(seed: int) -> None:
        nonlocal done
        mine = random.Random(seed)
        while done < calls:
            with trio.fail_after(60):
                made = await http1_client(proxy.port, mine)
            done += made  # not in one statement: others count while this one waits

    for name in ("inside", "spawned"):
        assert proxy.call(name, "wait", {"seconds": 0}).status_code == 200
    before = descriptors(proxy), proxy.resident()
    async with trio.open_nursery() as nursery:
        for _ in range(CLIENTS):
            nursery.start_soon(http1_clients, generator.randrange(10**6))
    assert done >= calls

    eventually(lambda: in_flight(proxy) == 0)
    eventually(lambda: descriptors(proxy) <= before[0] + 2)
    for name in ("inside", "spawned"):
        eventually(lambda name=name: proxy.call(name, "count").json()["open"] == 0)
    assert proxy.resident() < before[1] + 30 * 2**20

    labels = {"operation": "wait", "status": "CANCELLED"}
    counted = sum(
        proxy.metric("prism_requests_total", namespace=name, **labels)
        for name in ("inside", "spawned")
    )

    def logged() -> list[dict[str, Any]]:
        return [record for record in proxy.records if record.get("operation") == "wait"]

    def gone() -> int:
        return len([record for record in logged() if record["status"] == "CANCELLED"])

    assert counted
    eventually(lambda: gone() >= counted)
    assert gone() == counted
    records = logged()
    assert len({record["request_id"] for record in records}) == len(records)
    assert {record["status"] for record in records} <= {"OK", "CANCELLED"}
