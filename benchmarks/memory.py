"""What the proxy keeps in memory: at rest, for each idle client, for each namespace."""

import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import h2.connection
import h2.events

from benchmarks.measure import resident_bytes
from benchmarks.prism_server import IN_PROCESS, SPAWNED, echo_namespace, prism
from benchmarks.processes import children
from benchmarks.report import table, verdict

MB = 1024 * 1024
SETTLING = 0.5
"""Seconds after which the resident set is read."""


def measure(*, clients: int, namespaces: int) -> str:
    """The section of the page, as Markdown."""
    rest, plugin = _at_rest()
    http1 = _each_client(clients, _open_http1)
    http2 = _each_client(clients, _open_http2)
    namespace = _each_namespace(namespaces)
    rows = [
        ("`prism serve`, one namespace on SQLite, at rest", f"{rest / MB:.1f} MB"),
        ("a spawned Python plugin's own process", f"{plugin / MB:.1f} MB"),
        (f"an idle HTTP/1.1 client, one of {clients}", f"{http1 / 1024:.1f} KB"),
        (f"an idle HTTP/2 client, one of {clients}", f"{http2 / 1024:.1f} KB"),
        (
            f"a namespace with an in-process plugin, one of {namespaces}",
            f"{namespace / 1024:.1f} KB",
        ),
    ]
    return "\n".join(
        [
            table(("resident set (KB, MB: powers of 1024)", "size"), rows),
            "",
            verdict("At rest", rest / MB, 60, at_least=False, unit=" MB"),
            verdict("An idle HTTP/1.1 client", http1 / 1024, 100, at_least=False, unit=" KB"),
            verdict("An idle HTTP/2 client", http2 / 1024, 100, at_least=False, unit=" KB"),
        ]
    )


def _at_rest() -> tuple[int, int]:
    """The proxy, and a spawned plugin beside it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demo = {"name": "demo", "backend": "sqlite", "config": {"path": str(folder / "demo.db")}}
        with prism(folder, [demo]) as (pid, _):
            time.sleep(SETTLING)
            rest = resident_bytes(pid)
        with prism(folder, [echo_namespace("echo", SPAWNED)]) as (pid, _):
            time.sleep(SETTLING)
            (plugin,) = children(pid)
            return rest, resident_bytes(plugin)


def _each_client(count: int, connect: Callable[[tuple[str, int]], socket.socket]) -> float:
    """Clients that have been answered once, and then only stay."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pid, url = stack.enter_context(prism(folder, [echo_namespace("echo", IN_PROCESS)]))
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        address = parts.hostname, parts.port
        stack.enter_context(connect(address))  # what is loaded at the first request is not counted
        time.sleep(SETTLING)
        before = resident_bytes(pid)
        for _ in range(count):
            stack.enter_context(connect(address))
        time.sleep(SETTLING)
        return (resident_bytes(pid) - before) / count


def _open_http1(address: tuple[str, int]) -> socket.socket:
    connection = socket.create_connection(address)
    connection.sendall(b"GET /v1 HTTP/1.1\r\nhost: localhost\r\n\r\n")
    answer = connection.recv(64 * 1024)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return connection


def _open_http2(address: tuple[str, int]) -> socket.socket:
    connection = socket.create_connection(address)
    client = h2.connection.H2Connection()
    client.initiate_connection()
    pseudo = {":method": "GET", ":scheme": "http", ":authority": "localhost", ":path": "/v1"}
    client.send_headers(1, list(pseudo.items()), end_stream=True)
    connection.sendall(client.data_to_send())
    ended = False
    while not ended:
        events = client.receive_data(connection.recv(64 * 1024))
        ended = any(isinstance(event, h2.events.StreamEnded) for event in events)
    connection.sendall(client.data_to_send())
    return connection


def _each_namespace(count: int) -> float:
    def resident(number: int) -> int:
        with tempfile.TemporaryDirectory() as name:
            namespaces = [echo_namespace(f"echo-{i}", IN_PROCESS) for i in range(number)]
            with prism(Path(name), namespaces) as (pid, _):
                time.sleep(SETTLING)
                return resident_bytes(pid)

    return (resident(count + 1) - resident(1)) / count
