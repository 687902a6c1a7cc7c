from math import inf

import pytest

from prism.server.http2.shutdown import Shutdown, ShutdownState

LAST = 2**31 - 1


class Codec:
    """Notes what is said."""

    def __init__(self):
        self.said = []
        self.last_stream_id = 7

    def ping(self, payload):
        self.said.append(payload)

    def goaway(self, last_stream_id, code):
        self.said.append(last_stream_id)


@pytest.fixture
def codec():
    return Codec()


@pytest.fixture
def shutdown(codec):
    return Shutdown(codec, grace=1.0)


def test_an_open_connection_has_nothing_to_do(shutdown, codec):
    assert shutdown.due(streams=False) == inf
    shutdown.on_time(1e9)
    shutdown.ping_answered(b"lastcall", 1.0)
    shutdown.stream_ended(1, 1.0, last=True)
    assert (shutdown.state, codec.said) == (ShutdownState.OPEN, [])


def test_warned_serves_until_ping_is_answered(shutdown, codec):
    shutdown.warn(10.0)
    assert (shutdown.state, codec.said) == (ShutdownState.WARNED, [b"lastcall", LAST])
    assert not shutdown.refuses(9)
    shutdown.warn(10.5)
    shutdown.ping_answered(b"another.", 10.5)
    assert shutdown.due(streams=True) == 11.0
    shutdown.ping_answered(b"lastcall", 10.6)
    assert (shutdown.state, codec.said[2:]) == (ShutdownState.LEAVING, [7])
    assert (shutdown.refuses(7), shutdown.refuses(9)) == (False, True)
    assert shutdown.due(streams=True) == inf
    assert shutdown.due(streams=False) == -inf


def test_a_client_that_does_not_answer_has_the_grace(shutdown, codec):
    shutdown.warn(10.0)
    shutdown.on_time(10.9)
    assert shutdown.state is ShutdownState.WARNED
    shutdown.on_time(11.0)
    assert shutdown.state is ShutdownState.LEAVING


def test_a_drain_without_streams_warns_at_once(shutdown, codec):
    shutdown.drain({}, 40.0, 10.0)
    assert shutdown.state is ShutdownState.WARNED


def test_a_drain_finishes_the_open_streams_before_it_says_anything(shutdown, codec):
    shutdown.drain({1: "a", 3: "b"}, 40.0, 10.0)
    assert (shutdown.state, codec.said) == (ShutdownState.FINISHING, [])
    assert shutdown.due(streams=True) == 25.0
    shutdown.stream_ended(1, 12.0, last=False)
    shutdown.stream_ended(3, 13.0, last=False)
    assert shutdown.due(streams=True) == 14.0  # a later stream is open, and waited for shortly
    shutdown.stream_ended(5, 13.5, last=True)
    assert codec.said == [(7).to_bytes(8)]
    shutdown.ping_answered(bytes(8), 13.6)
    assert shutdown.state is ShutdownState.FINISHING
    shutdown.ping_answered((7).to_bytes(8), 13.6)
    assert shutdown.state is ShutdownState.WARNED


def test_a_drain_with_a_stream_that_does_not_end_warns_at_half_the_time(shutdown, codec):
    shutdown.drain({1: "a"}, 40.0, 10.0)
    shutdown.on_time(24.9)
    assert shutdown.state is ShutdownState.FINISHING
    shutdown.on_time(25.0)
    assert shutdown.state is ShutdownState.WARNED


def test_a_closed_connection_is_done(shutdown, codec):
    shutdown.state = ShutdownState.CLOSED
    shutdown.warn(1.0)
    shutdown.drain({1: "a"}, 40.0, 1.0)
    assert (codec.said, shutdown.due(streams=True)) == ([], -inf)
    assert (shutdown.refuses(7), shutdown.refuses(9)) == (True, True)
