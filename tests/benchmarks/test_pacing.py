"""A fixed rate is kept whatever the server does, and delays are not left out."""

import socket
import threading
import time

import pytest

from benchmarks.load import pacing
from benchmarks.load.wire import WrongAnswer


class Bytes:
    """One byte a call, one byte an answer, in order."""

    def __init__(self) -> None:
        self._began: list[float] = []

    @property
    def open(self) -> int:
        return len(self._began)

    def request(self, began: float) -> bytes:
        self._began.append(began)
        return b"?"

    def receive(self, data: bytes) -> list[float]:
        done, self._began = self._began[: len(data)], self._began[len(data) :]
        return done

    def replies(self) -> bytes:
        return b""


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def serve_after(connection: socket.socket, calls: int, pause: float = 0.0) -> threading.Thread:
    """Answer nothing until ``calls`` have come, and ``pause`` seconds; then each as it comes."""

    def serve() -> None:
        come = 0
        while come < calls:
            come += len(connection.recv(1024))
        time.sleep(pause)
        connection.sendall(b"!" * come)
        while data := connection.recv(1024):
            connection.sendall(b"!" * len(data))

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_every_call_is_made_and_timed(pair):
    ours, theirs = pair
    thread = serve_after(theirs, 1)
    paced = pacing.at_fixed_rate(ours, Bytes(), rate=1000, seconds=0.05)
    ours.shutdown(socket.SHUT_WR)
    thread.join()
    assert len(paced.latencies) == len(paced.late) == 50
    answered_in_order = zip(paced.latencies, paced.late, strict=True)
    assert all(latency > late >= 0 for latency, late in answered_in_order)  # both from when due


def test_calls_that_wait_behind_a_stalled_one_count_from_when_they_were_due(pair):
    """All are due within 1.5 ms; what is beyond the calls that may be open waits for the stall."""
    ours, theirs = pair
    stall = 0.2
    thread = serve_after(theirs, pacing.MOST_OPEN, stall)
    paced = pacing.at_fixed_rate(ours, Bytes(), rate=100_000, seconds=0.0015)
    ours.shutdown(socket.SHUT_WR)
    thread.join()
    assert len(paced.latencies) == 150
    assert min(paced.latencies) >= stall - 0.0015
    assert max(paced.late[: pacing.MOST_OPEN]) < min(paced.late[pacing.MOST_OPEN :])
    assert min(paced.late[pacing.MOST_OPEN :]) >= stall - 0.0015


def test_calls_that_may_not_be_sent_yet_count_too(pair, monkeypatch):
    monkeypatch.setattr(pacing, "MOST_OPEN", 10)
    ours, theirs = pair
    thread = serve_after(theirs, 10)
    paced = pacing.at_fixed_rate(ours, Bytes(), rate=1000, seconds=0.02)
    ours.shutdown(socket.SHUT_WR)
    thread.join()
    assert len(paced.latencies) == 20
    assert paced.latencies[0] >= 9 / 1000


def test_a_server_that_never_answers_ends_it(pair, monkeypatch):
    monkeypatch.setattr(pacing, "ANSWER_TIMEOUT", 0.01)
    with pytest.raises(WrongAnswer, match="1 calls had no answer"):
        pacing.at_fixed_rate(pair[0], Bytes(), rate=1000, seconds=0.001)


def test_a_server_that_closes_ends_it(pair):
    pair[1].close()
    with pytest.raises((WrongAnswer, OSError)):
        pacing.at_fixed_rate(pair[0], Bytes(), rate=1000, seconds=0.001)
