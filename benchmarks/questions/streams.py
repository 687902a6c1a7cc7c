"""What do streams cost: their messages, those that are idle, and gRPC calls in front?

A stream of 1 KB messages is read by h2load as lines of JSON, which is one long response;
beside it the hop to the plugin alone. Memory is read while a stream is at its work.
"""

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events

from benchmarks.effort import Effort
from benchmarks.lineup import Lineup, Unavailable
from benchmarks.load import h2load
from benchmarks.load.target import Target
from benchmarks.machine import cpu_seconds, resident_bytes
from benchmarks.processes import Caller, children, module
from benchmarks.report.page import Section
from benchmarks.report.tables import absent, load_table, microseconds_each, table, verdict
from benchmarks.samples import NO_LATENCIES, Load, Sample, SideFailed, take_turns
from benchmarks.sides import grpc_aio, prism

HOP, GRPC = "the hop alone", "grpc.aio relay"
MESSAGE = 1024
"""Bytes of a message, its quotes included."""
MB = 1024 * 1024
LONG, SHORT = 1_000_000, 50_000
"""Messages of the stream that is watched for growth."""
IDLE, FEW_IDLE = 5_000, 100
EACH_NAMESPACE = 1_250
"""Idle streams of one plugin, which takes up to 4,096."""
EACH_CONNECTION = 100
ONE, BUSY = Load(1), Load(64)
CALLS = [ONE, Load(16), BUSY]
"""Calls of gRPC at a time."""


def measure(effort: Effort) -> Section:
    text, failed = _messages(effort)
    text += ["", *_growth(effort), ""]
    calls, failed_calls = _grpc(effort)
    return Section("\n".join([*text, *calls]), failed=failed | failed_calls)


def _messages(effort: Effort) -> tuple[list[str], dict[str, str]]:
    """The rate of one stream, through the proxy and over the hop alone."""
    with Lineup() as lineup:
        lineup.add(HOP, Caller("framed_stream"))
        for codec in prism.CODECS:
            names = [prism.side_name(way, codec) for way in (prism.SPAWN, prism.LOCAL)]
            lineup.add_all(names, _lines(codec))
        results = take_turns(lineup.sides, [ONE], rounds=effort.rounds, seconds=effort.seconds)

    def row(name: str) -> list[str]:
        ratio = results.ratio(name, HOP, ONE, lambda sample: sample.rate)
        return [
            name,
            f"{results.median(name, ONE, lambda sample: sample.rate):,.0f}",
            "" if ratio is None else f"{ratio:.2f}",
            f"{results.median(name, ONE, microseconds_each(lambda s: s.cpu)):,.1f}",
            f"{results.median(name, ONE, microseconds_each(lambda s: s.peer_cpu)):,.1f}",
        ]

    head = ("one stream", "messages/s", f"x {HOP}", "proxy CPU µs", "plugin CPU µs")
    text = [
        table(head, [row(name) for name in lineup.sides if results.has(name, ONE)]),
        "",
        *absent(lineup.missing | results.failed),
    ]
    side = prism.side_name(prism.SPAWN, prism.NGHTTP2)
    rate = results.ratio(side, HOP, ONE, lambda sample: sample.rate)
    text.append(verdict(f"Messages per second, {side} / {HOP}", rate, 0.8, at_least=True))
    return text, results.failed


@contextmanager
def _proxy(codec: str, idle: int = 0) -> Iterator[tuple[int, str]]:
    """A proxy with the stream plugin as ``spawned`` and ``local``, and ``idle-0`` ..."""
    spawned = prism.SPAWNED | {"command": module("sides.stream_plugin")}
    local = {"type": "in_process", "module": "benchmarks.sides.stream_plugin:Streams"}
    limits = {"max_streams": 2 * IDLE, "max_streams_per_client": 2 * IDLE}
    namespaces = [prism.echo("spawned", spawned), prism.echo("local", local)]
    for number in range(-(-idle // EACH_NAMESPACE)):
        namespace = prism.echo(f"idle-{number}", spawned)
        namespaces.append(namespace | {"limits": namespace["limits"] | limits})
    with (
        tempfile.TemporaryDirectory() as name,
        prism.prism(Path(name), namespaces, codec) as up,
    ):
        yield up


class _Reader:
    """One stream of a namespace, read by h2load, as a side of a comparison."""

    def __init__(self, url: str, pid: int, peers: Sequence[int]) -> None:
        self._url = url
        self._pid = pid
        self._peers = peers
        self._rate = 20_000.0  # a guess; each sample tells the next one how much to ask for

    def __call__(self, _load: Load, seconds: float) -> Sample:
        messages = max(1000, round(self._rate * seconds))
        before = cpu_seconds(self._pid), sum(map(cpu_seconds, self._peers))
        started = time.perf_counter()
        read(self._url, messages)
        took = time.perf_counter() - started
        self._rate = messages / took
        return Sample(
            calls=messages,
            seconds=took,
            quantiles=NO_LATENCIES,
            cpu=cpu_seconds(self._pid) - before[0],
            peer_cpu=sum(map(cpu_seconds, self._peers)) - before[1],
        )


def read(url: str, messages: int) -> None:
    """Read a stream of so many messages to its end.

    Raises:
        SideFailed: it brought less, or failed.
    """
    with tempfile.NamedTemporaryFile("w") as body:
        json.dump({"messages": messages, "size": MESSAGE}, body)
        body.flush()
        accept = "--header=accept: application/x-ndjson"
        command = [h2load.PROGRAM, "-n1", "-c1", f"--data={body.name}", accept, url]
        done = subprocess.run(command, capture_output=True, text=True)
    expected = f"({messages * (MESSAGE + 1)}) data"  # a line's end each
    if "1 succeeded" not in done.stdout or expected not in done.stdout:
        raise SideFailed(f"{url} broke its stream off: {done.stdout[-300:]}")


@contextmanager
def _lines(codec: str) -> Iterator[dict[str, _Reader]]:
    with _proxy(codec) as (pid, url):
        plugins = children(pid, "stream_plugin")
        yield {
            prism.side_name(prism.SPAWN, codec): _Reader(f"{url}/v1/spawned/give", pid, plugins),
            prism.side_name(prism.LOCAL, codec): _Reader(f"{url}/v1/local/give", pid, ()),
        }


def _growth(effort: Effort) -> list[str]:
    """Memory of a long stream, and of many that are idle."""
    messages, idle = (SHORT, FEW_IDLE) if effort.quick else (LONG, IDLE)
    with _proxy(prism.fastest_codec(), idle) as (pid, url):
        read(f"{url}/v1/spawned/give", messages // 10)
        before = resident_bytes(pid)
        read(f"{url}/v1/spawned/give", messages)
        grown = resident_bytes(pid) - before
        with ExitStack() as stack:
            address = urlsplit(url)
            assert address.port is not None
            before = resident_bytes(pid)
            for first in range(0, idle, EACH_CONNECTION):
                count = min(EACH_CONNECTION, idle - first)
                path = f"/v1/idle-{first // EACH_NAMESPACE}/idle"
                stack.enter_context(_idle_streams(address.port, path, count))
            each = (resident_bytes(pid) - before) / idle
    rows = [
        (f"growth over a stream of {messages:,} messages", f"{grown / MB:.1f} MB"),
        (
            f"an idle stream, one of {idle:,}, {EACH_CONNECTION} a connection",
            f"{each / 1024:.1f} KB",
        ),
    ]
    return [
        table(("resident set of the proxy (KB, MB: powers of 1024)", "size"), rows),
        "",
        verdict("An idle stream", each / 1024, 20, at_least=False, unit=" KB"),
    ]


@contextmanager
def _idle_streams(port: int, path: str, count: int) -> Iterator[None]:
    """Open streams on one connection, each of which has given its first message."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        connection = h2.connection.H2Connection(h2.config.H2Configuration())
        connection.initiate_connection()
        for _ in range(count):
            stream = connection.get_next_available_stream_id()
            head = [
                (":method", "POST"),
                (":scheme", "http"),
                (":authority", "localhost"),
                (":path", path),
                ("accept", "application/x-ndjson"),
            ]
            connection.send_headers(stream, head)
            connection.send_data(stream, b"{}", end_stream=True)
        begun: set[int] = set()
        while len(begun) < count:
            sock.sendall(connection.data_to_send())
            for event in connection.receive_data(sock.recv(65536)):
                match event:
                    case h2.events.DataReceived() if event.data:
                        begun.add(event.stream_id)
                    case h2.events.StreamEnded() | h2.events.StreamReset():
                        raise SideFailed(f"stream {event.stream_id} of {path} ended")
        sock.sendall(connection.data_to_send())
        yield


def _grpc(effort: Effort) -> tuple[list[str], dict[str, str]]:
    """Execute through Prism and through a relay on grpc.aio, to the same backend process;
    and through Prism to a spawned plugin, which the relay has not."""
    loads = effort.some(CALLS, BUSY)
    side = f"Prism, gRPC on both sides, {prism.fastest_codec()}"
    spawned = f"Prism, gRPC in front of a spawned plugin, {prism.fastest_codec()}"
    with Lineup() as lineup:
        lineup.add(spawned, _before_spawned())
        try:
            backend = lineup.enter_context(grpc_aio.service())
            lineup.add(GRPC, grpc_aio.relay_to(backend))
            lineup.add(side, _before_grpc(backend))
        except Unavailable as reason:
            lineup.missing |= dict.fromkeys((GRPC, side), str(reason))
        results = take_turns(lineup.sides, loads, rounds=effort.rounds, seconds=effort.seconds)
    rates = {
        name: results.ratio(name, GRPC, BUSY, lambda sample: sample.rate)
        for name in (spawned, side)
    }
    delay = results.ratio(side, GRPC, ONE, lambda sample: sample.p50)
    text = [
        load_table(results, lineup.sides, loads, GRPC, servers=("proxy", "backend")),
        "",
        *absent(lineup.missing | results.failed),
        *(
            verdict(
                f"gRPC calls per second, {BUSY}, {name} / {GRPC}",
                rate,
                3 if name == spawned else 1,
                at_least=True,
            )
            for name, rate in rates.items()
        ),
        verdict(f"p50, {ONE}, {side} / {GRPC}", delay, 1, at_least=False),
    ]
    return text, results.failed


@contextmanager
def _before_spawned() -> Iterator[Target]:
    """Prism's gRPC door before the echo plugin."""
    with (
        tempfile.TemporaryDirectory() as name,
        prism.prism(Path(name), [prism.echo("demo", prism.SPAWNED)], prism.fastest_codec()) as (
            pid,
            url,
        ),
    ):
        plugins = children(pid, prism.ECHO_PLUGIN)
        yield grpc_aio.target(url, [pid], plugins, namespace="demo")


@contextmanager
def _before_grpc(backend: Target) -> Iterator[Target]:
    """Prism's gRPC door before ``backend``."""
    endpoint = urlsplit(backend.urls[0]).netloc
    plugin = {"type": "grpc", "endpoint": endpoint, "insecure": True}
    with (
        tempfile.TemporaryDirectory() as name,
        prism.prism(Path(name), [prism.echo("demo", plugin)], prism.fastest_codec()) as (pid, url),
    ):
        yield grpc_aio.target(url, [pid], backend.pids, namespace="demo")
