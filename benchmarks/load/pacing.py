"""Calls at a fixed rate, and how long they took from when they were due."""

import ctypes
import select
import socket
import time
from typing import NamedTuple

from benchmarks.load.wire import Wire, WrongAnswer

RECEIVE_SIZE = 256 * 1024
MOST_OPEN = 100
"""Calls in flight on one connection, what servers allow usually; more wait here."""
ANSWER_TIMEOUT = 5.0
"""Seconds without any answer after which a server counts as stuck."""
_PR_SET_TIMERSLACK = 29


class Paced(NamedTuple):
    """Seconds from the time at which each call was due to its answer, and to its sending."""

    latencies: list[float]
    late: list[float]


def at_fixed_rate(connection: socket.socket, wire: Wire, rate: float, seconds: float) -> Paced:
    """``rate`` calls a second, whether or not earlier ones have been answered.

    A latency counts from when its call was due: a server that stalls, or this
    program being late, makes the calls that wait longer, as it would for users
    who do not know of each other (no coordinated omission).

    Raises:
        WrongAnswer: an answer is not a success, or none comes any more.
    """
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1)  # sleep to the nanosecond, not to 50 us
    connection.setblocking(False)
    clock = time.perf_counter
    latencies, late = [], []
    calls, sent, out = round(rate * seconds), 0, bytearray()
    start = clock() + 0.01
    while sent < calls or wire.open:
        now = clock()
        while sent < calls and wire.open < MOST_OPEN and (due := start + sent / rate) <= now:
            out += wire.request(due)
            late.append(now - due)
            sent += 1
        out += wire.replies()
        if out:
            del out[: _send(connection, out)]
        may_send = sent < calls and wire.open < MOST_OPEN
        until = start + sent / rate - clock() if may_send else ANSWER_TIMEOUT
        readable, writable, _ = select.select(
            [connection], [connection] if out else [], [], max(0.0, until)
        )
        if readable:
            data = _receive(connection)
            now = clock()
            latencies += [now - began for began in wire.receive(data)]
        elif not may_send and not writable:
            raise WrongAnswer(f"{wire.open} calls had no answer after {ANSWER_TIMEOUT:g} s")
    return Paced(latencies, late)


def _send(connection: socket.socket, data: bytearray) -> int:
    try:
        return connection.send(data)
    except BlockingIOError:
        return 0


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(RECEIVE_SIZE)
    if not data:
        raise WrongAnswer("the server closed the connection")
    return data
