"""What does it all keep in memory: at rest, for each idle client, for each namespace?

Read from ``/proc`` after things have settled. A client has made one request and
stays connected. Growth is divided by the count.
"""

import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.effort import Effort
from benchmarks.lineup import Unavailable
from benchmarks.load.http2_wire import HTTP2Wire
from benchmarks.load.target import JSON, SMALL, Target
from benchmarks.machine import resident_bytes
from benchmarks.processes import children
from benchmarks.report.page import Section
from benchmarks.report.tables import absent, table, verdict
from benchmarks.samples import SideFailed
from benchmarks.sides import envoy, granian, hypercorn, prism

MB = 1024 * 1024
SETTLING = 0.5
"""Seconds after which the resident set is read."""
CLIENTS, FEW_CLIENTS = 400, 20
NAMESPACES, FEW_NAMESPACES = 100, 10
HTTP1, HTTP2 = "HTTP/1.1", "HTTP/2"

Address = tuple[str, int]
Open = Callable[[Address], socket.socket]


def measure(effort: Effort) -> Section:
    clients = FEW_CLIENTS if effort.quick else CLIENTS
    namespaces = FEW_NAMESPACES if effort.quick else NAMESPACES
    rest, plugin = _at_rest()
    namespace = _each_namespace(namespaces)
    rows = [
        ("`prism serve`, one namespace on SQLite, at rest", f"{rest / MB:.1f} MB"),
        ("a spawned Python plugin's own process", f"{plugin / MB:.1f} MB"),
        (
            f"a namespace with an in-process plugin, one of {namespaces}",
            f"{namespace / 1024:.1f} KB",
        ),
    ]
    verdicts = [verdict("At rest", rest / MB, 60, at_least=False, unit=" MB")]
    missing: dict[str, str] = {}
    for name, start in _servers().items():
        for version, connect in ((HTTP1, _open_http1), (HTTP2, _open_http2)):
            if version == HTTP1 and name == prism.side_name("", prism.NGHTTP2):
                continue  # the codecs differ in HTTP/2 only
            try:
                size = _each_client(clients, start, connect) / 1024
            except (Unavailable, SideFailed) as reason:
                missing[name] = str(reason)
                break
            rows.append((f"an idle {version} client, one of {clients}: {name}", f"{size:.1f} KB"))
            if name.startswith("Prism"):
                what = f"An idle {version} client: {name}"
                verdicts.append(verdict(what, size, 100, at_least=False, unit=" KB"))
    text = [
        table(("resident set (KB, MB: powers of 1024)", "size"), rows),
        "",
        *absent(missing),
        *verdicts,
    ]
    return Section("\n".join(text))


def _servers() -> dict[str, Callable[[], AbstractContextManager[Target]]]:
    prisms = {
        prism.side_name("", codec): lambda codec=codec: _one_namespace(codec)
        for codec in prism.CODECS
    }
    return {
        **prisms,
        "Envoy": envoy.direct_response,
        "stock hypercorn": hypercorn.hypercorn,
        "Granian": granian.granian,
    }


@contextmanager
def _one_namespace(codec: str) -> Iterator[Target]:
    with tempfile.TemporaryDirectory() as name:
        namespaces = [prism.echo("echo", prism.IN_PROCESS)]
        with prism.prism(Path(name), namespaces, codec) as (pid, url):
            yield Target(url, [pid])


def _resident(pids: Sequence[int]) -> int:
    time.sleep(SETTLING)
    return sum(map(resident_bytes, pids))


def _at_rest() -> tuple[int, int]:
    """The proxy, and a spawned plugin beside it."""
    codec = prism.fastest_codec()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demo = [prism.sqlite("demo", folder / "demo.db")]
        with prism.prism(folder, demo, codec) as (pid, _):
            rest = _resident([pid])
        with prism.prism(folder, [prism.echo("echo", prism.SPAWNED)], codec) as (pid, _):
            return rest, _resident(children(pid, prism.ECHO_PLUGIN))


def _each_namespace(count: int) -> float:
    def resident(number: int) -> int:
        with tempfile.TemporaryDirectory() as name:
            namespaces = [prism.echo(f"echo-{i}", prism.IN_PROCESS) for i in range(number)]
            with prism.prism(Path(name), namespaces, prism.fastest_codec()) as (pid, _):
                return _resident([pid])

    return (resident(count + 1) - resident(1)) / count


def _each_client(
    count: int, start: Callable[[], AbstractContextManager[Target]], connect: Open
) -> float:
    """Clients that have been answered once, and then only stay."""
    with ExitStack() as stack:
        target = stack.enter_context(start())
        parts = urlsplit(target.urls[0])
        assert parts.hostname
        assert parts.port
        address = parts.hostname, parts.port
        stack.enter_context(connect(address))  # what is loaded at the first request is not counted
        before = _resident(target.pids)
        for _ in range(count):
            stack.enter_context(connect(address))
        return (_resident(target.pids) - before) / count


def _open_http1(address: Address) -> socket.socket:
    connection = socket.create_connection(address)
    connection.sendall(b"GET /v1 HTTP/1.1\r\nhost: localhost\r\n\r\n")
    answer = connection.recv(64 * 1024)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SideFailed(f"answered {answer[:40]!r}")
    return connection


def _open_http2(address: Address) -> socket.socket:
    connection = socket.create_connection(address)
    wire = HTTP2Wire("localhost", "/v1/echo/echo", SMALL, JSON)
    connection.sendall(wire.replies() + wire.request(0.0))
    while wire.open:
        wire.receive(connection.recv(64 * 1024))
        connection.sendall(wire.replies())
    return connection
