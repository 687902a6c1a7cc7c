"""More clients than there are places or descriptors, or all of them at once."""

import resource
import socket
import ssl
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
import trio
from doors import CODECS, open_door
from http2_client import Http2Client
from prism_process import eventually

ALIVE = b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"


def answer(port, address="127.0.0.1"):
    """What a new client gets; raises OSError if that is no answer."""
    with socket.create_connection(("127.0.0.1", port), 20, source_address=(address, 0)) as client:
        client.sendall(ALIVE)
        received = b""
        while chunk := client.recv(65536):
            received += chunk
    return received


def served(port, address="127.0.0.1"):
    """A new client is served"""
    try:
        return answer(port, address).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def test_without_a_descriptor_left_it_waits_and_goes_on(start_prism):
    limit = 64
    proxy = start_prism()
    # At its start it would have kept fewer connections than that.
    resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (limit, limit))
    with ExitStack() as stack:
        for _ in range(2 * limit):
            stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), 20))
        eventually(lambda: proxy.logged("cannot accept a connection"))
    eventually(lambda: served(proxy.port))
    assert proxy.call("demo", "set", {"key": "a", "value": 1}).status_code == 200
    # It says so, and does not fill the disk with it.
    assert len(proxy.logged("cannot accept a connection")) < 200


@pytest.mark.parametrize("codec", CODECS)
def test_at_the_limit_idle_connections_make_room_and_are_told(start_prism, tmp_path, codec):
    """From several addresses: what one may have is limited further."""
    limits = {"max_connections": 100, "max_connections_per_peer": 60}
    proxy = open_door(start_prism, tmp_path, "cleartext", codec, limits=limits)
    oldest = Http2Client(proxy.port)
    assert oldest.request("/v1/demo/get", b'{"key":"a"}').status == 200
    with ExitStack() as stack:
        for number in range(150):
            source = (f"127.0.0.{2 + number % 3}", 0)
            client = socket.create_connection(("127.0.0.1", proxy.port), 20, source_address=source)
            stack.enter_context(client)
            client.sendall(ALIVE.replace(b"close", b"keep-alive"))
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert served(proxy.port, "127.0.0.9")
    oldest.wait(99)
    assert oldest.goaways[0] == 2**31 - 1
    oldest.close()


def test_one_address_cannot_take_all_places(start_prism, tmp_path):
    limits = {"max_connections": 100, "max_connections_per_peer": 20}
    proxy = open_door(start_prism, tmp_path, "cleartext", "h2", limits=limits)
    with ExitStack() as stack:
        for _ in range(200):  # they say nothing, and keep their places for a while
            source = ("127.0.0.7", 0)
            client = socket.create_connection(("127.0.0.1", proxy.port), 20, source_address=source)
            stack.enter_context(client)
        assert not served(proxy.port, "127.0.0.7")
        assert served(proxy.port, "127.0.0.8")


@pytest.mark.slow
@pytest.mark.parametrize("clients", [200, pytest.param(1000, marks=pytest.mark.soak)])
def test_many_clients_at_once_over_tls(start_prism, tmp_path, clients):
    """As after a restart: every client is served.

    A thousand handshakes take some seven seconds of CPU time, and a client waits ten for its own:
    where other programs have the cores, some are turned away, and come again.
    """
    proxy = open_door(start_prism, tmp_path, "tls", "h2", limits={"max_connections_per_peer": 1000})
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    statuses = []

    async def ask():
        received = b""
        async with await trio.open_ssl_over_tcp_stream(
            "127.0.0.1", proxy.port, ssl_context=context, https_compatible=True
        ) as stream:
            # With TLS 1.3 a client may be turned away while its own side has shaken hands already.
            await stream.send_all(ALIVE)
            async for chunk in stream:
                received += chunk
        return received

    async def client():
        received = b""
        while not received:
            with suppress(trio.BrokenResourceError):
                received = await ask()
        statuses.append(received[:12])

    async def crowd():
        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(client)

    trio.run(crowd)
    assert statuses == [b"HTTP/1.1 200"] * clients


def test_clients_that_come_and_are_gone_before_they_are_accepted(start_prism):
    proxy = start_prism()

    def come_and_go(_):
        client = socket.create_connection(("127.0.0.1", proxy.port), 20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come_and_go, range(500)))
    assert served(proxy.port)
    assert not [record for record in proxy.records if record["level"] == "error"]
