"""The relay between a client and a plugin, both played by hand on a mock clock."""

from math import inf

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from prism.calls.memory import Account, AnswerHold, Hold
from prism.calls.relay import FIRST_MESSAGE_WAIT, OpenStream, relay
from prism.calls.stream import ClientStream
from prism.channels.channel import COPIES, StreamCall
from prism.contract.errors import (
    AnswerDropped,
    CallCancelled,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    PluginError,
    Unauthenticated,
)
from prism.contract.messages import StreamRequest, StreamResponse
from prism.contract.status import StatusCode

BROKEN = PluginError(StatusCode.DATA_LOSS, "broken")


class Call(StreamCall):
    """A plugin's stream: ``script`` has messages, pauses in seconds, and errors."""

    def __init__(self, *script):
        self.script = list(script)
        self.got = []
        self.finished = False

    async def send(self, request):
        await trio.lowlevel.checkpoint()
        if self.finished:
            raise PluginError(StatusCode.CANCELLED, "the plugin has finished the stream")
        self.got.append(request.params_json)

    async def end(self):
        await trio.lowlevel.checkpoint()
        self.got.append("END")

    async def receive(self):
        await trio.lowlevel.checkpoint()
        while self.script:
            step = self.script[0]
            if isinstance(step, (int, float)):
                started = trio.current_time()
                try:
                    await trio.sleep(step)
                except trio.Cancelled:
                    self.script[0] = step - (trio.current_time() - started)
                    raise
                self.script.pop(0)
            elif isinstance(step, Exception):
                raise step
            else:
                return StreamResponse(result_json=self.script.pop(0))
        self.finished = True
        raise trio.EndOfChannel


class Client(ClientStream):
    """A client that sends ``says`` (messages, pauses, errors) and keeps what it sees."""

    def __init__(self, *says, heartbeat=inf, slow=0):
        self.one_way = not says
        self.heartbeat = heartbeat
        self.says = list(says)
        self.slow = slow
        self.seen = []

    async def begin(self):
        if not self.seen:
            self.seen.append("BEGIN")

    async def send(self, response):
        await self.begin()
        await trio.sleep(self.slow)
        self.seen.append(response.result_json)

    async def beat(self):
        self.seen.append("BEAT")

    async def end(self, error):
        raise AssertionError("the relay leaves that to its caller")

    async def receive(self):
        for step in iter(lambda: self.says.pop(0) if self.says else None, None):
            if isinstance(step, (int, float)):
                await trio.sleep(step)
            elif isinstance(step, Exception):
                raise step
            else:
                return StreamRequest(params_json=step)
        return None


async def run(call, client, stream=None, idle=100):
    await relay(call, client, stream or OpenStream("i"), idle)


async def test_messages_pass_in_order_and_the_end_is_told(autojump_clock):
    call, client = Call("1", "2", 50, "3"), Client()
    await run(call, client)
    assert client.seen == ["BEGIN", "1", "2", "3"]
    assert call.got == ["END"]


async def test_an_empty_stream_begins_and_ends():
    client = Client()
    await run(Call(), client)
    assert client.seen == ["BEGIN"]


async def test_an_early_error_comes_before_the_beginning(autojump_clock):
    client = Client()
    with pytest.raises(PluginError, match="broken"):
        await run(Call(FIRST_MESSAGE_WAIT / 2, BROKEN), client)
    assert client.seen == []


async def test_a_quiet_stream_begins_after_a_while_and_beats(autojump_clock):
    client = Client(heartbeat=15)
    await run(Call(40, "late", 10, "next"), client)
    assert client.seen == ["BEGIN", "BEAT", "BEAT", "late", "next"]


async def test_a_late_error_ends_what_has_begun(autojump_clock):
    client = Client()
    with pytest.raises(PluginError):
        await run(Call("1", BROKEN), client)
    assert client.seen == ["BEGIN", "1"]


@pytest.mark.parametrize("says", [(), (500, "late")], ids=["one way", "both ways"])
async def test_a_stream_on_which_nothing_moves_is_ended(autojump_clock, says):
    client = Client(*says)
    with pytest.raises(DeadlineExceeded, match="for 100 s"):
        await run(Call("1", 500), client)
    assert client.seen == ["BEGIN", "1"]
    assert trio.current_time() == 100


async def test_every_message_puts_the_idle_deadline_off(autojump_clock):
    client = Client()
    await run(Call(*["x", 80] * 5), client)
    assert client.seen.count("x") == 5
    assert trio.current_time() == 400


async def test_both_sides_talk_at_the_same_time(autojump_clock):
    call = Call("hello", 3, "world", 10)
    client = Client("a", 1, "b", 1, "c")
    await run(call, client)
    assert call.got == ["a", "b", "c", "END"]
    assert client.seen == ["BEGIN", "hello", "world"]


async def test_the_plugin_may_end_while_the_client_talks_on(autojump_clock):
    call, client = Call("only"), Client(5, "late", 5, "later")
    await run(call, client)
    assert client.seen == ["BEGIN", "only"]


@pytest.mark.parametrize("error", [InvalidRequest("no JSON"), CallCancelled("gone")])
async def test_what_is_wrong_with_the_client_ends_the_stream(autojump_clock, error):
    client = Client("good", 1, error)
    with pytest.raises(type(error)) as caught:
        await run(Call("1", 500), client)
    assert caught.value is error


async def test_a_plugins_error_ends_a_stream_of_both_ways(autojump_clock):
    client = Client(500, "late")
    with pytest.raises(PluginError):
        await run(Call("1", 1, BROKEN), client)


async def test_an_ended_stream_is_not_torn_within_a_message(autojump_clock):
    stream, client = OpenStream("i"), Client(slow=10)
    reason = Draining("the proxy is stopping")
    async with trio.open_nursery() as nursery:

        async def end():
            await trio.sleep(5)
            stream.end(reason)
            stream.end(Draining("again"))

        nursery.start_soon(end)
        with pytest.raises(Draining) as caught:
            await run(Call("1", "2"), client, stream)
        assert caught.value is reason
    assert client.seen == ["BEGIN", "1"]


async def test_a_waiting_stream_is_ended_at_once(autojump_clock, nursery):
    stream, outcomes = OpenStream("i"), []

    async def go():
        try:
            await run(Call("1", 50), Client(), stream)
        except Draining as error:
            outcomes.append((error, trio.current_time()))

    nursery.start_soon(go)
    await trio.sleep(7)
    reason = Draining("stop")
    stream.end(reason)
    await wait_all_tasks_blocked()
    assert outcomes == [(reason, 7)]


async def test_a_slow_client_holds_the_plugin_back(autojump_clock):
    call, client = Call(*"abcdef"), Client(slow=10)
    with trio.move_on_after(25):
        await run(call, client)
    assert client.seen == ["BEGIN", "a", "b"]
    assert call.script == ["d", "e", "f"]


async def test_no_stream_begins_whose_credential_went_while_it_waited(make_namespace, make_call):
    namespace = make_namespace()
    call = make_call(namespace, "watch", None, stream=Client())
    call.proceed()
    namespace.is_good = lambda identity: identity is not call.identity
    namespace.review_streams()
    call.deliver(b"{}")
    with pytest.raises(Unauthenticated, match="not good any more"):
        await call.outcome()
    assert not namespace.open_streams


class Counted:
    """What the relay needs of a call whose answer is counted in ``account``."""

    def __init__(self, account):
        self.account = account

    def new_answer_memory(self):
        return AnswerHold(self.account)

    def stream_opened(self):
        """It has no instance, whose breaker would be told."""


async def test_what_is_being_sent_is_counted_until_the_client_has_it(autojump_clock):
    account = Account("all", 100_000)
    stream, client = OpenStream("i", Counted(account)), Client(slow=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, Call("x" * 20_000, 5, "y"), client, stream)
        await trio.sleep(5)
        assert account.used == COPIES * 20_000
    assert account.used == 0
    assert len(client.seen) == 3


async def test_a_large_message_without_room_ends_its_stream(autojump_clock):
    account = Account("all", 1_000_000)
    Hold(account).resize(900_000)
    client = Client()
    with pytest.raises(AnswerDropped):
        await run(Call("1", "x" * 200_000), client, OpenStream("i", Counted(account)))
    assert client.seen == ["BEGIN", "1"]
    assert account.used == 900_000


async def test_a_short_message_waits_for_room(autojump_clock):
    account = Account("all", 100_000)
    other = Hold(account)
    other.resize(90_000)
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, Call("x" * 20_000), client, OpenStream("i", Counted(account)))
        await trio.sleep(50)
        assert client.seen == []
        other.release()
    assert client.seen == ["BEGIN", "x" * 20_000]


async def test_a_stream_that_waits_for_room_is_ended_at_once(autojump_clock):
    account = Account("all", 100_000)
    Hold(account).resize(90_000)
    stream = OpenStream("i", Counted(account))

    async def end():
        await trio.sleep(50)
        stream.end(Draining("the proxy is stopping"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        with pytest.raises(Draining):
            await run(Call("x" * 20_000), Client(), stream)
    assert account.used == 90_000
