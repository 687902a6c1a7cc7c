"""Both ends of the conversation in a rolling restart, in memory."""

import json
import socket

import pytest
import trio

from prism.process.errors import HandoverFailed
from prism.process.predecessor import MAX_LINE, Predecessor, announcement, read_line, take_over


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
        sockets = [("admin", "127.0.0.1:0", listening.detach())]
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
            nursery.start_soon(peer.send_all, sent)
            assert await read_line(stream) == read if sent.endswith(b"\n") else True
            nursery.cancel_scope.cancel()
        if not sent.endswith(b"\n"):
            await peer.send_eof()
            assert await read_line(stream) is None
        if sent.count(b"\n") == 2:
            assert await read_line(stream) == {"b": 2}
