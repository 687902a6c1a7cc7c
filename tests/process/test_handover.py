"""Both ends of a rolling restart, each against the other played by hand."""

import gc
import json
import os
import signal
import socket
import sys

import pytest
import trio

from prism.process.handover import (
    MAX_LINE,
    HandoverFailed,
    PassedSocket,
    Predecessor,
    announcement,
    hand_over,
    read_line,
    take_over,
)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Predecessor(ours), theirs


def test_a_process_that_takes_nobodys_place():
    assert take_over({}) is None


def test_sockets_and_the_socket_to_talk_over_are_taken_once():
    ours, theirs = socket.socketpair()
    with theirs, socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        sockets = [PassedSocket("admin", "127.0.0.1:0", listening.detach())]
        environment = {"PRISM_HANDOVER": announcement(ours.detach(), sockets)}
        handover = take_over(environment)
        assert environment == {}
        predecessor, [given] = handover
        predecessor.failed("a reason")
        assert json.loads(theirs.recv(100)) == {"failed": "a reason"}
        assert (given.role, given.place) == ("admin", "127.0.0.1:0")
        assert given.socket.getsockname()[1] == port
        given.socket.close()
        predecessor.serving()


async def test_it_reports_and_is_let_in(pair):
    predecessor, theirs = pair
    theirs.sendall(b'{"verdict": "go"}\n')
    await predecessor.wait_for_verdict({"kv": "", "other": "no plugin"})
    predecessor.serving()
    lines = theirs.recv(1000).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"prepared": {"kv": "", "other": "no plugin"}},
        {"serving": True},
    ]


async def test_it_is_not_let_in(pair):
    predecessor, theirs = pair
    theirs.sendall(b'{"verdict": "stop"}\n')
    with pytest.raises(HandoverFailed, match="goes on"):
        await predecessor.wait_for_verdict({})


async def test_a_predecessor_that_died_cannot_object(pair):
    predecessor, theirs = pair
    theirs.close()
    await predecessor.wait_for_verdict({})
    predecessor.serving()


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b'{"a": 1}\n{"b": 2}\n', {"a": 1}),
        (b"", None),
        (b'{"a"', None),
        (b"nonsense\n", None),
        (b"[]\n", None),
        (b"\xff\n", None),
        (b"x" * (MAX_LINE + 2), None),
    ],
)
async def test_a_line_is_read_and_no_more(sent, read):
    ours, theirs = trio.socket.socketpair()
    async with trio.SocketStream(ours) as stream, trio.SocketStream(theirs) as peer:
        async with trio.open_nursery() as nursery:

            async def send():
                await peer.send_all(sent)
                await peer.send_eof()

            nursery.start_soon(send)
            assert await read_line(stream) == read
            nursery.cancel_scope.cancel()
        if sent.count(b"\n") == 2:
            assert await read_line(stream) == {"b": 2}


SUCCESSOR = """
import json, os, signal, socket, sys
handover = json.loads(os.environ["PRISM_HANDOVER"])
talk = socket.socket(fileno=handover["talk"])
[[role, place, descriptor]] = handover["sockets"]
assert (role, place) == ("data", "127.0.0.1:0")
assert socket.socket(fileno=descriptor).getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
assert "LISTEN_FDS" not in os.environ
def say(**message): talk.sendall(json.dumps(message).encode() + b"\\n")
def told(): return json.loads(talk.recv(1000))["verdict"]
"""


OURS = {"a": "", "b": "no plugin"}
"""The predecessor's namespaces, and why they are not ready."""


@pytest.fixture
def hand_over_to(monkeypatch):
    """Hands over to a program; returns its pid once it serves."""
    monkeypatch.setenv("LISTEN_FDS", "1")

    async def run(program, ready_within=60):
        command = [sys.executable, "-c", SUCCESSOR + program]
        with socket.create_server(("127.0.0.1", 0)) as listening:
            passed = [PassedSocket("data", "127.0.0.1:0", listening.fileno())]
            return await hand_over(command, passed, lambda: OURS, ready_within)

    return run


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_successor_that_is_no_worse_off_is_let_in(hand_over_to):
    pid = await hand_over_to(
        'say(prepared={"a": "", "b": "still none", "new": "none yet"}); told();say(serving=True);'
        "os.kill(os.getpid(), signal.SIGSTOP)"
    )
    gc.collect()  # it runs on without us, of which Python warns; one that had ended it reaps
    await trio.to_thread.run_sync(os.waitpid, pid, os.WUNTRACED)
    os.kill(pid, signal.SIGCONT)
    assert (await trio.to_thread.run_sync(os.waitpid, pid, 0))[1] == 0


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("sys.exit(3)", "exited with status 3"),
        ("os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ('say(failed="the port is taken")', "^the port is taken$"),
        ("say(nonsense=1)", "it made no sense"),
        ('say(prepared={"a": "no memory"}); told()', "'a' is not ready: no memory"),
        ("say(prepared={}); told(); say(serving=False)", "did not begin to serve"),
        ("say(prepared={}); told(); sys.exit(1)", "exited with status 1"),
    ],
)
async def test_a_successor_that_fails_has_ended_when_that_is_said(hand_over_to, program, reason):
    with pytest.raises(HandoverFailed, match=reason):
        await hand_over_to(program)


async def test_a_successor_that_takes_too_long_is_ended(hand_over_to):
    with pytest.raises(HandoverFailed, match=r"not ready within 0\.2 seconds"):
        await hand_over_to("talk.recv(1)", ready_within=0.2)


async def test_a_program_that_is_not_there():
    with pytest.raises(HandoverFailed, match=r"/no/prism cannot be run: No such file"):
        await hand_over(["/no/prism"], [], dict, 1)
