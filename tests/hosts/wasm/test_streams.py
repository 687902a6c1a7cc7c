"""Streams, for which a guest keeps its thread: they wait for the client, and end when it goes."""

from contextlib import aclosing

import pytest
import trio

from prism.contract.errors import PluginError
from prism.contract.messages import StreamRequest
from prism.contract.status import StatusCode
from prism.hosts.wasm import jobs
from prism.hosts.wasm import plugin as host
from prism.hosts.wasm.jobs import MAX_WAITING
from tests.hosts.wasm.conftest import LIMIT, wait_until
from tests.hosts.wasm.modules import wat

SEND = '(import "prism" "send" (func $send (param i32 i32) (result i32)))'
RECEIVE = '(import "prism" "receive" (func $receive (result i32)))'
GOOD = "(return (call $say (i32.const 1024) (i32.const 3)))"
ENDLESS = f"""(loop $again
  (global.set $counter (i64.add (global.get $counter) (i64.const 1)))
  (br_if $again (i32.eq (call $send (i32.const 1025) (i32.const 2)) (i32.const 1)))) {GOOD}"""


async def test_a_guest_waits_for_a_client_that_does_not_read(run, monkeypatch):
    made = []

    def make_job(*arguments):
        made.append(jobs.StreamJob(*arguments))
        return made[0]

    monkeypatch.setattr(host, "StreamJob", make_job)
    async with run(wat(imports=SEND, pour=ENDLESS)) as plugin:
        pool = plugin.plugin._pool
        async with aclosing(plugin.stream("pour")) as stream:
            assert await anext(stream) == {}
            await wait_until(lambda: made[0]._room._value == 0)  # it waits
            assert len(made[0]._messages) <= MAX_WAITING
            with trio.fail_after(LIMIT):
                for _ in range(3 * MAX_WAITING):
                    assert await anext(stream) == {}
            assert pool.busy == 1
        await wait_until(lambda: pool.busy == 0)
        assert pool.traps == 0
        assert await plugin.call("other") == {}


async def test_a_guest_that_does_not_hear_that_nobody_wants_more_is_interrupted(run):
    deaf = "(loop $again (drop (call $send (i32.const 1025) (i32.const 2))) (br $again))"
    async with run(wat(imports=SEND, pour=deaf), instances=1) as plugin:
        async with aclosing(plugin.stream("pour")) as stream:
            await anext(stream)
        await wait_until(lambda: plugin.plugin._pool.busy == 0)
        with trio.fail_after(LIMIT):
            assert await plugin.call("other") == {}


async def test_a_trap_ends_the_stream_after_what_was_sent(run):
    pour = "(drop (call $send (i32.const 1025) (i32.const 2))) unreachable"
    async with run(wat(imports=SEND, pour=pour)) as plugin:
        stream = plugin.stream("pour")
        assert await anext(stream) == {}
        with pytest.raises(PluginError) as caught:
            await anext(stream)
        assert caught.value.status is StatusCode.INTERNAL


async def test_a_message_that_is_not_json_ends_the_stream(run, caplog):
    pour = "(drop (call $send (i32.const 1025) (i32.const 1)))" + GOOD
    async with run(wat(imports=SEND, pour=pour)) as plugin:
        with pytest.raises(PluginError) as caught:
            [message async for message in plugin.stream("pour")]
        assert caught.value.status is StatusCode.INTERNAL
        assert "its result is not JSON" in caplog.text


async def test_waiting_for_the_client_ends_with_the_stream(run):
    """The client says nothing and stays; then the call is cancelled."""
    pour = f"(loop $again (br_if $again (i32.ne (call $receive) (i32.const -1)))) {GOOD}"
    module = wat(imports=RECEIVE, pour=pour)

    class Silent:
        """A client whose first message is all that comes."""

        def __init__(self):
            self.said = False

        def __aiter__(self):
            return self

        async def __anext__(self):
            if self.said:
                await trio.sleep_forever()
            self.said = True
            return StreamRequest(operation="pour")

    async with run(module, instances=1) as plugin:
        pool = plugin.plugin._pool

        async def read():
            async for _ in plugin.plugin.execute_stream(Silent()):
                raise AssertionError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_until(lambda: pool.busy == 1)
            nursery.cancel_scope.cancel()
        await wait_until(lambda: pool.busy == 0)
        assert await plugin.call("other") == {}


async def test_streams_leave_instances_to_calls(run):
    async with run(wat(imports=SEND, pour=ENDLESS), instances=4) as plugin:
        streams = [plugin.stream("pour") for _ in range(4)]
        for stream in streams[:3]:
            assert await anext(stream) == {}
        with pytest.raises(PluginError, match="3 streams run") as caught:
            await anext(streams[3])
        assert caught.value.status is StatusCode.RESOURCE_EXHAUSTED
        assert await plugin.call("other") == {}
        for stream in streams:
            await stream.aclose()
        again = plugin.stream("pour")
        assert await anext(again) == {}
        await again.aclose()


async def test_what_is_sent_in_a_call_that_is_no_stream_goes_nowhere(run):
    run_it = f"""(if (call $send (i32.const 1025) (i32.const 2)) (then unreachable))
      (if (i32.ne (call $receive) (i32.const -1)) (then unreachable)) {GOOD}"""
    async with run(wat(imports=SEND + RECEIVE, run=run_it)) as plugin:
        assert await plugin.call("run") == {}


async def test_a_module_that_declares_streams_and_has_none(run):
    module = wat().replace('(export "prism_stream")', "$nobody_calls_it")
    async with run(module) as plugin:
        with pytest.raises(PluginError, match="exports no prism_stream") as caught:
            await anext(plugin.stream("pour"))
        assert caught.value.status is StatusCode.UNIMPLEMENTED
