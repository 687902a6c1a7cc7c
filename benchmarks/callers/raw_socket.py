"""The floor: 200 bytes there and back over a socketpair, blocking, without any meaning.

One at a time only: bytes without frames have no calls that could be in flight.
"""

import os
import socket
import time

from benchmarks.callers.meter import Meter, next_order

MESSAGE = bytes(200)


def echo(connection: socket.socket) -> None:
    """Send back whatever comes, until the other end closes."""
    while data := connection.recv(64 * 1024):
        connection.sendall(data)


def measure(connection: socket.socket, meter: Meter) -> None:
    now = time.perf_counter()
    while now < meter.until:
        connection.sendall(MESSAGE)
        missing = len(MESSAGE)
        while missing:
            missing -= len(connection.recv(missing))
        now, began = time.perf_counter(), now
        meter.latencies.append(now - began)


def main() -> None:
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        echo(theirs)
        os._exit(0)
    theirs.close()
    while order := next_order():
        _in_flight, seconds = order
        meter = Meter(child, seconds)
        measure(ours, meter)
        meter.report()
    ours.close()
    os.waitpid(child, 0)


main()
