import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from prism.contract.errors import CallCancelled
from prism.server.exchange import Cancelled, Exchange, Peer, Phase, content_length, date_header


class Recorder(Exchange):
    """An exchange whose client is the test; a handler that keeps what it is told."""

    def __init__(self, *, received_all=False):
        super().__init__(Peer("http"), None, b"POST", b"/", [], received_all=received_all)
        self.body = b""
        self.wanted = 0
        self.told = []

    @property
    def received(self):
        return len(self.body)

    def take(self):
        body, self.body = self.body, b""
        return body

    def feed(self, data=b"", *, ended=False):
        self.body += data
        self.received_all = ended
        self._tell_received()

    def want_body(self, declared=0):
        self.wanted += 1

    def respond(self, status, headers, body, trailers=None):
        self.phase = Phase.DONE

    async def begin(self, status, headers):
        self.phase = Phase.BODY

    async def write(self, data): ...
    async def finish(self, trailers=None): ...
    def abort(self): ...


class Handler:
    def __init__(self):
        self.told = []

    def received(self):
        self.told.append("received")

    def cancelled(self, why):
        self.told.append(why)


async def test_a_body_is_read_as_it_comes():
    exchange, read = Recorder(), []

    async def reader():
        while data := await exchange.read():
            read.append(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        for part in (b"a", b"b"):
            await wait_all_tasks_blocked()
            exchange.feed(part)
        exchange.feed(b"c", ended=True)
    assert read == [b"a", b"bc"]
    assert exchange.wanted == 2  # not for what was there already


async def test_a_read_that_is_cancelled_loses_nothing():
    exchange = Recorder()
    with trio.move_on_after(0):
        await exchange.read()
    exchange.feed(b"a")
    assert await exchange.read() == b"a"


async def test_every_task_that_reads_hears_of_a_client_that_left():
    exchange = Recorder()

    async def read():
        with pytest.raises(CallCancelled):
            await exchange.read()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        exchange.cancel(Cancelled.CLIENT_LEFT)


async def test_a_stop_does_not_keep_a_body_from_being_read():
    exchange = Recorder()
    exchange.cancel(Cancelled.STOPPED)
    exchange.feed(b"a", ended=True)
    assert await exchange.read() == b"a"


def test_the_handler_is_told_of_what_happens():
    exchange, handler = Recorder(), Handler()
    exchange.watch(handler)
    exchange.feed(b"a")
    exchange.cancel(Cancelled.STOPPED)
    exchange.cancel(Cancelled.CLIENT_LEFT)
    assert handler.told == ["received", Cancelled.STOPPED]


def test_an_answered_request_is_not_stopped_but_its_client_may_leave():
    exchange, handler = Recorder(), Handler()
    exchange.watch(handler)
    exchange.respond(200, [], b"")
    exchange.cancel(Cancelled.STOPPED)
    assert handler.told == []
    assert exchange.cancelled is None
    exchange.cancel(Cancelled.CLIENT_LEFT)
    assert exchange.is_gone


@pytest.mark.parametrize("size", [0, 7, 4095, 4096, 2**40])
def test_content_length(size):
    assert content_length(size) == (b"content-length", str(size).encode())


def test_the_date_is_formatted_once_a_second(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 784111777.5)
    name, value = date_header()
    assert (name, value) == (b"date", b"Sun, 06 Nov 1994 08:49:37 GMT")
    assert date_header()[1] is value
