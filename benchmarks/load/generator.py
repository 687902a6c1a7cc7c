"""Calls at a fixed rate from a process of its own; prints what it measured as JSON.

Usage: python -m benchmarks.load.generator ORDER

ORDER is an ``Order`` as JSON. ``url`` is where to POST; without one a spawned
echo plugin is called directly, over frames.
"""

import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from urllib.parse import urlsplit

import msgspec

from benchmarks.load.frame_wire import FrameWire
from benchmarks.load.http2_wire import HTTP2Wire
from benchmarks.load.pacing import at_fixed_rate
from benchmarks.load.wire import Wire, WrongAnswer
from benchmarks.machine import cpu_seconds
from benchmarks.processes import ROOT, module
from prism.streams.unix import FD_VARIABLE


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to do: ``rate`` calls a second."""

    rate: float
    seconds: float
    url: str = ""
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Outcome(msgspec.Struct, frozen=True):
    """Times in seconds. ``late`` is how late the calls left.

    ``peer_cpu`` is the CPU time of the plugin, if one was called directly.
    """

    latencies: list[float]
    late: list[float]
    cpu: float
    peer_cpu: float


def carry_out(order: Order) -> Outcome:
    """Make the calls.

    Raises:
        WrongAnswer: an answer is not a success, or none comes any more.
        OSError: the server cannot be reached, or has gone.
    """
    with ExitStack() as stack:
        plugin = 0
        wire: Wire
        if order.url:
            parts = urlsplit(order.url)
            assert parts.hostname
            assert parts.port
            connection = socket.create_connection((parts.hostname, parts.port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = HTTP2Wire(parts.netloc, parts.path or "/", order.body, order.headers)
        else:
            connection, plugin = _spawned_plugin(stack)
            wire = FrameWire(connection)
        stack.enter_context(connection)
        used, plugin_used = time.process_time(), cpu_seconds(plugin) if plugin else 0.0
        paced = at_fixed_rate(connection, wire, order.rate, order.seconds)
        return Outcome(
            paced.latencies,
            paced.late,
            time.process_time() - used,
            cpu_seconds(plugin) - plugin_used if plugin else 0.0,
        )


def _spawned_plugin(stack: ExitStack) -> tuple[socket.socket, int]:
    """A connection to an echo plugin, and its pid. It ends with the connection."""
    ours, theirs = socket.socketpair()
    plugin = subprocess.Popen(
        module("sides.echo_plugin", "trio", "msgpack"),
        cwd=ROOT,
        pass_fds=[theirs.fileno()],
        env={**os.environ, FD_VARIABLE: str(theirs.fileno())},
    )
    stack.callback(plugin.wait)
    theirs.close()
    return ours, plugin.pid


def main() -> None:
    order = msgspec.json.decode(sys.argv[1], type=Order)
    try:
        outcome = carry_out(order)
    except (WrongAnswer, OSError) as error:
        sys.exit(f"{order.url or 'the plugin'}: {error}")
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
