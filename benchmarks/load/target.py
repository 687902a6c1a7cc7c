"""A server under load, as a side of a comparison."""

import subprocess
from collections.abc import Callable, Sequence

import msgspec

from benchmarks.load.generator import Order, Outcome
from benchmarks.load.h2load import h2load
from benchmarks.machine import cpu_seconds
from benchmarks.processes import ROOT, module
from benchmarks.samples import PACED, RATE, Load, Sample, SideFailed, quantiles

JSON = (("content-type", "application/json"),)
LONGEST = 30.0
"""Seconds of the last attempt to have any answer at all."""
SMALL = b'{"key":"user:123","value":{"name":"Ada"}}'


def json_of(size: int) -> bytes:
    """JSON of about ``size`` bytes; ``SMALL`` for 0."""
    return b'{"value":"%s"}' % (b"x" * (size - 12)) if size else SMALL


class Target:
    """One or several URLs to POST to, each in turn.

    The CPU times of the processes ``pids``, and of ``peers`` behind them, are noted.
    ``make_body`` gives the body for a size; ``answers`` is the status that answers have, if it is
    not 200.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        pids: Sequence[int],
        peers: Sequence[int] = (),
        *,
        make_body: Callable[[int], bytes] = json_of,
        headers: tuple[tuple[str, str], ...] = JSON,
        answers: bytes = b"200",
    ) -> None:
        self.urls = [urls] if isinstance(urls, str) else list(urls)
        self.pids = pids
        self._peers = peers
        self._make_body = make_body
        self._headers = headers
        self._answers = answers

    def as_peer(self) -> "Target":
        """The same server, counted as the one behind a proxy."""
        return Target(self.urls, (), self.pids, make_body=self._make_body, headers=self._headers)

    def __call__(self, load: Load, seconds: float) -> Sample:
        """As many calls as it answers, measured once; ``PACED``, so many as are due.

        A server that answers none, since it is slow or is starting again, gets twice
        the time, some times over.

        Raises:
            SideFailed: an answer was not 200, or there was none at all.
        """
        if load == PACED:
            return self.at_fixed_rate(RATE, seconds)[0]
        while True:
            before = self._cpu()
            answered = h2load(
                self.urls, self._make_body(load.body), self._headers, load, seconds, self._answers
            )
            after = self._cpu()
            if answered.latencies:
                return Sample(
                    calls=len(answered.latencies),
                    seconds=seconds,
                    quantiles=quantiles(answered.latencies),
                    cpu=after[0] - before[0],
                    peer_cpu=after[1] - before[1],
                    load_cpu=answered.cpu,
                )
            if seconds >= LONGEST:
                raise SideFailed(f"{self.urls[0]} answered nothing within {seconds:g} s")
            seconds = min(2 * seconds, LONGEST)

    def at_fixed_rate(self, rate: float, seconds: float) -> tuple[Sample, Outcome]:
        """``rate`` calls a second, answered or not.

        Raises:
            SideFailed: an answer was not 200, or none came.
        """
        before = self._cpu()
        order = Order(rate, seconds, self.urls[0], self._make_body(0), self._headers)
        outcome = generate(order)
        after = self._cpu()
        cpu, peer_cpu = after[0] - before[0], after[1] - before[1]
        return paced_sample(outcome, seconds, cpu, peer_cpu), outcome

    def _cpu(self) -> tuple[float, float]:
        return sum(map(cpu_seconds, self.pids)), sum(map(cpu_seconds, self._peers))


def paced_sample(outcome: Outcome, seconds: float, cpu: float, peer_cpu: float) -> Sample:
    return Sample(
        calls=len(outcome.latencies),
        seconds=seconds,
        quantiles=quantiles(outcome.latencies),
        cpu=cpu,
        peer_cpu=peer_cpu,
        load_cpu=outcome.cpu,
    )


def generate(order: Order) -> Outcome:
    """Have ``benchmarks.load.generator`` carry out ``order``.

    Raises:
        SideFailed: an answer was not a success, or none came.
    """
    ran = subprocess.run(
        module("load.generator", msgspec.json.encode(order).decode()),
        cwd=ROOT,
        capture_output=True,
    )
    if ran.returncode:
        raise SideFailed(ran.stderr.decode().strip().rpartition("\n")[2])
    return msgspec.json.decode(ran.stdout, type=Outcome)
