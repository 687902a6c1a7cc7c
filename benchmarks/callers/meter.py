"""What all callers share: orders in, the call that is made, samples out."""

import socket
import struct
import sys
import threading
import time
from collections.abc import Awaitable, Callable

import msgspec

from benchmarks.machine import cpu_seconds
from benchmarks.samples import NO_LATENCIES, RATE, Sample, quantiles

OPERATION = "echo"
PARAMS = '{"key":"user:123","value":{"name":"Ada"}}'
METADATA = {
    "prism-request-id": "0123456789abcdef0123456789abcdef",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}


_DUE = struct.Struct("d")


def next_order() -> tuple[int, float] | None:
    """Calls in flight (0: at a fixed rate) and seconds, from standard input; ``None`` at its end.
    Blocks."""
    words = sys.stdin.readline().split()
    return (int(words[0]), float(words[1])) if words else None


class Meter:
    """Times the calls of one sample; ``peer`` is the process that answers them."""

    def __init__(self, peer: int, seconds: float) -> None:
        self.latencies: list[float] = []
        self._peer = peer
        self._cpu, self._peer_cpu = time.process_time(), cpu_seconds(peer)
        self._started = time.perf_counter()
        self.until = self._started + seconds

    async def keep_calling(self, call: Callable[[], Awaitable[object]]) -> None:
        """One call after the other until the time is up, on any event loop."""
        now = time.perf_counter()
        while now < self.until:
            await call()
            now, began = time.perf_counter(), now
            self.latencies.append(now - began)

    async def make_calls(self, in_flight: int, call: Callable[[], Awaitable[object]]) -> None:
        """Keep so many calls in flight until the time is up; 0: as many as are due at ``RATE``,
        whether or not earlier ones have been answered. On trio."""
        import trio

        async with trio.open_nursery() as calls:
            if in_flight:
                for _ in range(in_flight):
                    calls.start_soon(self.keep_calling, call)
                return
            here, there = socket.socketpair()
            with here, there:
                here.setblocking(False)
                pacing = threading.Thread(target=self._pace, args=(there,))
                pacing.start()
                while True:
                    await trio.lowlevel.wait_readable(here)
                    data = here.recv(_DUE.size * 100)
                    if not data:
                        break
                    for (due,) in _DUE.iter_unpack(data):
                        calls.start_soon(self._call_once, call, due)
                pacing.join()

    async def _call_once(self, call: Callable[[], Awaitable[object]], due: float) -> None:
        await call()
        self.latencies.append(time.perf_counter() - due)

    def _pace(self, connection: socket.socket) -> None:
        """Say when calls are due, as clients would: the loop sleeps for whole milliseconds."""
        start = time.perf_counter() + 0.01
        for number in range(round(RATE * (self.until - self._started))):
            due = start + number / RATE
            time.sleep(max(0.0, due - time.perf_counter()))
            connection.sendall(_DUE.pack(due))
        connection.shutdown(socket.SHUT_WR)

    def report(self) -> None:
        """Write the sample to standard output."""
        seconds = time.perf_counter() - self._started
        sample = Sample(
            calls=len(self.latencies),
            seconds=seconds,
            quantiles=quantiles(self.latencies),
            cpu=time.process_time() - self._cpu,
            peer_cpu=cpu_seconds(self._peer) - self._peer_cpu,
        )
        print(msgspec.json.encode(sample).decode(), flush=True)


class StreamMeter:
    """Counts the messages of one sample; ``peer`` is the process that sends them."""

    def __init__(self, peer: int) -> None:
        self.messages = 0
        self._peer = peer
        self._cpu, self._peer_cpu = time.process_time(), cpu_seconds(peer)
        self._started = time.perf_counter()

    def report(self) -> None:
        """Write the sample to standard output. It has no latencies."""
        sample = Sample(
            calls=self.messages,
            seconds=time.perf_counter() - self._started,
            quantiles=NO_LATENCIES,
            cpu=time.process_time() - self._cpu,
            peer_cpu=cpu_seconds(self._peer) - self._peer_cpu,
        )
        print(msgspec.json.encode(sample).decode(), flush=True)
