"""The outlet on real sockets, whose kernel buffers fill."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from prism.streams.outlet import Outlet, at_turn_end, begin_turn, end_turn


class Source:
    """Bytes put there by the test; ``taken`` counts how often they were asked for."""

    def __init__(self):
        self.waiting = bytearray()
        self.taken = []

    def put(self, data):
        self.waiting += data

    def take(self):
        data, self.waiting = self.waiting, bytearray()
        if data:
            self.taken.append(len(data))
        return data


@pytest.fixture
async def pair():
    ours, theirs = trio.socket.socketpair()
    yield trio.SocketStream(ours), trio.SocketStream(theirs)
    ours.close()
    theirs.close()


@pytest.fixture
def make_outlet(pair, nursery):
    def make(*, alone=False, stall=5.0, stream=None):
        source = Source()
        outlet = Outlet(stream or pair[0], source, stall, lambda: alone)
        return outlet, source

    return make


async def test_what_several_put_there_leaves_in_one_send(make_outlet, nursery, pair):
    outlet, source = make_outlet()
    nursery.start_soon(outlet.run)
    await wait_all_tasks_blocked()
    for part in (b"a", b"b", b"c"):
        source.put(part)
        outlet.wake()
    assert await pair[1].receive_some(10) == b"abc"
    assert source.taken == [3]
    outlet.close()


async def test_alone_it_sends_at_once(make_outlet, nursery, pair):
    outlet, source = make_outlet(alone=True)
    nursery.start_soon(outlet.run)
    await wait_all_tasks_blocked()
    source.put(b"x")
    outlet.wake()
    assert source.taken == [1]
    assert pair[1].socket._sock.recv(10) == b"x"
    outlet.close()


async def test_in_a_turn_it_sends_at_the_turns_end(make_outlet, nursery, pair):
    outlet, source = make_outlet(alone=True)
    nursery.start_soon(outlet.run)
    await wait_all_tasks_blocked()
    assert begin_turn()
    assert not begin_turn()  # within one
    source.put(b"a")
    outlet.wake()
    source.put(b"b")
    outlet.wake()
    assert source.taken == []
    end_turn()
    assert source.taken == [2]
    assert pair[1].socket._sock.recv(10) == b"ab"
    outlet.close()


async def test_what_is_flushed_outside_of_turns_is_flushed_at_once():
    class Lines:
        flushed = 0

        def flush(self):
            self.flushed += 1

    lines = Lines()
    at_turn_end(lines)
    assert lines.flushed == 1
    begin_turn()
    at_turn_end(lines)
    assert lines.flushed == 1
    end_turn()
    assert lines.flushed == 2


async def test_more_than_the_kernel_takes_keeps_its_order(make_outlet, nursery, pair):
    outlet, source = make_outlet(alone=True)
    nursery.start_soon(outlet.run)
    await wait_all_tasks_blocked()
    expected = bytearray()
    for number in range(40):
        part = bytes([number]) * 50_000
        expected += part
        source.put(part)
        outlet.wake()
    received = bytearray()
    while len(received) < len(expected):
        received += await pair[1].receive_some(65536)
    assert received == expected
    await outlet.wait_flushed()
    assert not outlet.unsent
    outlet.close()


class PieceSource(Source):
    """Large bytes put there leave as a piece of their own."""

    def take(self):
        data = super().take()
        if len(data) < 1000:
            return data
        return (bytes(data[:10]), data[10:-5], bytes(data[-5:]))


@pytest.mark.parametrize("is_socket", [True, False])
async def test_pieces_leave_in_their_order(nursery, pair, is_socket):
    stream = pair[0] if is_socket else trio.StapledStream(pair[0], pair[0])
    source = PieceSource()
    outlet = Outlet(stream, source, 5.0, lambda: True)
    nursery.start_soon(outlet.run)
    await wait_all_tasks_blocked()
    expected = bytearray()
    for number, size in enumerate((10, 2_000_000, 1, 600_000, 1_000, 300_000)):
        part = bytes([number]) * size
        expected += part
        source.put(part)
        outlet.wake()
        assert outlet.left <= len(expected)
    assert outlet.left + sum(map(len, (source.waiting,))) > 2_500_000
    received = bytearray()
    while len(received) < len(expected):
        received += await pair[1].receive_some(65536)
    assert received == expected
    await outlet.wait_flushed()
    assert outlet.left == 0
    outlet.close()


async def test_who_waits_before_it_runs_waits_for_the_bytes(make_outlet, nursery, pair):
    outlet, source = make_outlet()
    source.put(b"early")
    outlet.wake()
    flushed = trio.Event()

    async def wait():
        await outlet.wait_flushed()
        flushed.set()

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert not flushed.is_set()
    nursery.start_soon(outlet.run)
    await flushed.wait()
    assert await pair[1].receive_some(10) == b"early"
    outlet.close()


async def test_a_peer_that_takes_nothing_is_given_up(make_outlet, autojump_clock):
    ours, _theirs = trio.testing.memory_stream_pair()
    stuck = trio.testing.MemorySendStream(send_all_hook=trio.sleep_forever)
    outlet, source = make_outlet(stall=3, stream=trio.StapledStream(stuck, ours))
    source.put(b"x")
    with pytest.raises(trio.TooSlowError):
        await outlet.run()
    assert trio.current_time() == 3
    assert outlet.closed.is_set()
    await outlet.wait_flushed()  # nothing is sent any more, so nobody waits


async def test_a_peer_that_is_gone_is_told_by_run(make_outlet, pair):
    outlet, source = make_outlet(alone=True)
    await pair[1].aclose()

    async def put():
        await wait_all_tasks_blocked()
        source.put(b"x")
        outlet.wake()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put)
        with pytest.raises(trio.BrokenResourceError):
            await outlet.run()


async def test_close_sends_the_rest(make_outlet, pair):
    outlet, source = make_outlet()
    source.put(b"last")
    outlet.close()
    await outlet.run()
    assert await pair[1].receive_some(10) == b"last"
