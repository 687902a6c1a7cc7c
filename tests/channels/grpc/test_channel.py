"""The gRPC channel against a server that says what no gRPC server would, over memory streams.

What every kind of channel promises is in ../test_channel.py, on stock grpcio servers.
"""

import json
from contextlib import asynccontextmanager
from functools import partial

import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest
import trio
import trio.testing
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from prism.calls.memory import Account, AnswerHold, Hold
from prism.channels.channel import MAX_CHECKED
from prism.channels.frames.channel import ChannelSettings
from prism.channels.grpc import GrpcChannel
from prism.channels.grpc.channel import SMALL
from prism.channels.grpc.link import WINDOW
from prism.contract.errors import (
    AnswerDropped,
    AnswerTooLarge,
    ChannelBroken,
    HandshakeFailed,
    Overloaded,
    PluginCrashed,
    PluginError,
    PluginMisbehaved,
    PluginUnavailable,
    RemoteProtocolError,
)
from prism.contract.messages import (
    ExecuteRequest,
    ExecuteResponse,
    HealthCheckRequest,
    HealthStatus,
    StreamRequest,
    StreamResponse,
)
from prism.contract.status import StatusCode
from prism.grpc.framing import Encoding, pack
from prism.grpc.protobuf import decode, encode
from prism.wire.events import GoAway

LIMIT = 100_000
CALL = ExecuteRequest(operation="get")
OK = pack(encode(ExecuteResponse(success=True, result_json="1")))
HEADERS = {":status": "200", "content-type": "application/grpc"}
DONE = {"grpc-status": "0"}


class Server:
    """A server's end of the connection, played by hand."""

    def __init__(self, stream):
        self.stream = stream
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self.events = []

    async def handshake(self, **settings):
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings({SettingCodes[name]: value for name, value in settings.items()})
        await self.flush()

    async def flush(self):
        await self.stream.send_all(self.h2.data_to_send())

    async def expect(self, kind):
        """The next event of ``kind``; others before it are passed over."""
        with trio.fail_after(60):
            while True:
                while self.events:
                    event = self.events.pop(0)
                    if isinstance(event, kind):
                        return event
                data = await self.stream.receive_some(65536)
                assert data, f"the connection ended before {kind.__name__}"
                self.events += self.h2.receive_data(data)
                await self.flush()

    async def call(self):
        """Take a whole request; its headers and stream id."""
        request = await self.expect(h2.events.RequestReceived)
        return dict(request.headers), request.stream_id

    async def answer(self, stream_id, *data, headers=HEADERS, trailers=DONE):
        only_headers = not data and trailers is None
        self.h2.send_headers(stream_id, headers.items(), end_stream=only_headers)
        for chunk in data:
            self.h2.send_data(stream_id, chunk, end_stream=trailers is None)
        if trailers is not None:
            self.h2.send_headers(stream_id, trailers.items(), end_stream=True)
        await self.flush()


@asynccontextmanager
async def opened(settings=None, server_settings=None, pair=None, **callbacks):
    ours, theirs = pair or trio.testing.memory_stream_pair()
    server = Server(theirs)
    channel = GrpcChannel(
        ours,
        settings or ChannelSettings(max_frame=LIMIT),
        authority="plugin.test:1",
        namespace="ns",
        version="9",
        **callbacks,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(server.handshake, **(server_settings or {})))
        await channel.handshake()
        nursery.start_soon(channel.run)
        yield channel, server
        await channel.aclose()


async def outcome(call):
    """What the awaited call returned or raised."""
    try:
        return await call
    except Exception as error:
        return error


async def executed(channel, script):
    """The outcome of one Execute whose server follows ``script(stream_id)``."""
    results = []

    async def call():
        results.append(await outcome(channel.execute(CALL)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await script()
    return results[0]


async def test_a_call_is_what_grpc_says_it_is():
    async with opened() as (channel, server):

        async def script():
            headers, stream_id = await server.call()
            assert {name: headers[name] for name in headers if name != "grpc-timeout"} == {
                ":method": "POST",
                ":scheme": "http",
                ":authority": "plugin.test:1",
                ":path": "/prism.plugin.BackendPlugin/Execute",
                "te": "trailers",
                "content-type": "application/grpc",
                "user-agent": "prism/9",
                "grpc-accept-encoding": "identity,gzip",
                "prism-namespace": "ns",
            }
            assert headers["grpc-timeout"].endswith("u")
            body = (await server.expect(h2.events.DataReceived)).data
            assert decode(ExecuteRequest, body[5:]) == CALL
            await server.expect(h2.events.StreamEnded)
            await server.answer(stream_id, OK[:3], OK[3:])

        with trio.fail_after(50):
            answer = await executed(channel, script)
        assert answer.result_json == "1"
        assert channel.open_calls == 0


@pytest.mark.parametrize(
    ("data", "headers", "trailers", "status", "detail"),
    [
        (
            (),
            {**HEADERS, "grpc-status": "5", "grpc-message": "no%20key"},
            None,
            "NOT_FOUND",
            "no key",
        ),
        ((), HEADERS, {"grpc-status": "14"}, "UNAVAILABLE", ""),
        ((), HEADERS, {"grpc-status": "99"}, "UNKNOWN", ""),
        ((b"nginx",), {":status": "503"}, None, "UNAVAILABLE", "HTTP 503"),
        ((), {":status": "404"}, None, "UNIMPLEMENTED", "HTTP 404"),
    ],
)
async def test_statuses_are_answers(data, headers, trailers, status, detail):
    async with opened() as (channel, server):

        async def script():
            _headers, stream_id = await server.call()
            await server.answer(stream_id, *data, headers=headers, trailers=trailers)

        answer = await executed(channel, script)
        assert (answer.success, answer.error_code) == (False, StatusCode[status])
        assert detail in answer.error


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (pack(bytes(LIMIT + 1))[:9], {}),
        (pack(bytes(10_000_000), Encoding.GZIP), {"grpc-encoding": "gzip"}),
    ],
)
async def test_an_answer_over_the_limit_fails_its_call_only(data, encoding):
    async with opened() as (channel, server):

        async def script():
            _headers, stream_id = await server.call()
            await server.answer(stream_id, data, headers=HEADERS | encoding)

        assert isinstance(await executed(channel, script), AnswerTooLarge)
        assert channel.ended is None


@pytest.mark.parametrize(
    ("data", "headers", "trailers", "why"),
    [
        ((OK,), HEADERS, None, "without a grpc-status"),
        ((), HEADERS, DONE, "without a message"),
        ((OK, OK), HEADERS, DONE, "two messages"),
        ((OK[:-1],), HEADERS, DONE, "middle of a message"),
        ((b"\x05" + OK,), HEADERS, DONE, "begins with 5"),
        ((pack(b"\xff"),), HEADERS, DONE, "not a ExecuteResponse"),
        ((OK,), {**HEADERS, "grpc-encoding": "br"}, DONE, "encoding 'br'"),
        ((pack(b"x", Encoding.GZIP),), HEADERS, DONE, "no grpc-encoding"),
        (
            (b"<html>",),
            {":status": "200", "content-type": "text/html"},
            None,
            "not application/grpc",
        ),
    ],
)
async def test_what_is_no_grpc_fails_its_call_only(data, headers, trailers, why):
    async with opened() as (channel, server):

        async def script():
            _headers, stream_id = await server.call()
            await server.answer(stream_id, *data, headers=headers, trailers=trailers)

        error = await executed(channel, script)
        assert isinstance(error, PluginMisbehaved), error
        assert why in str(error)

        async def good():
            _headers, stream_id = await server.call()
            await server.answer(stream_id, OK)

        assert (await executed(channel, good)).success


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
async def test_a_result_that_is_no_json_fails_its_call_and_is_told(streaming, strict):
    faults = []
    settings = ChannelSettings(max_frame=LIMIT, strict=strict)
    async with opened(settings, on_fault=faults.append) as (channel, server):

        async def ask(text):
            async def script():
                _headers, stream_id = await server.call()
                kind = {} if streaming else {"success": True}
                answer = StreamResponse if streaming else ExecuteResponse
                data = pack(encode(answer(result_json=text, **kind)))
                parts = [data[at : at + 8192] for at in range(0, len(data), 8192)]  # in frames
                await server.answer(stream_id, *parts)

            if not streaming:
                return await executed(channel, script)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(script)
                async with channel.execute_stream(StreamRequest(operation="s")) as call:
                    return await outcome(call.receive())

        long = "[" + " " * MAX_CHECKED
        if not strict:
            assert (await ask(long)).result_json == long
        error = await ask(long if strict else "{'a': 1}")
        assert isinstance(error, PluginMisbehaved)
        assert "no JSON: " in str(error)
        assert [fault.rule for fault in faults] == ["not_json"]
        assert (channel.ended is not None) is strict
        assert not strict or str(channel.ended).startswith("strict: ")


async def test_a_health_check_that_fails_is_no_health():
    async with opened() as (channel, server), trio.open_nursery() as nursery:
        answers = []

        async def check():
            answers.append(await channel.health_check(HealthCheckRequest()))

        nursery.start_soon(check)
        _headers, stream_id = await server.call()
        await server.answer(stream_id, trailers={"grpc-status": "13", "grpc-message": "sick"})
        await trio.testing.wait_all_tasks_blocked()
        assert (answers[0].status, answers[0].message) == (HealthStatus.UNHEALTHY, "sick")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (ErrorCodes.REFUSED_STREAM, Overloaded),
        (ErrorCodes.INTERNAL_ERROR, PluginMisbehaved),
        (ErrorCodes.NO_ERROR, PluginMisbehaved),
    ],
)
async def test_a_reset_call_fails_and_the_next_is_served(code, kind):
    async with opened() as (channel, server):

        async def script():
            _headers, stream_id = await server.call()
            server.h2.reset_stream(stream_id, code)
            await server.flush()

        error = await executed(channel, script)
        assert isinstance(error, kind), error
        assert channel.open_calls == 0


async def test_goaway_fails_what_was_not_begun_and_serves_the_rest():
    said = []
    async with opened(on_goaway=said.append) as (channel, server):
        results = {}

        async def call(name):
            results[name] = await outcome(channel.execute(CALL))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, "served")
            _headers, first = await server.call()
            nursery.start_soon(call, "refused")
            await server.call()
            server.h2.close_connection(last_stream_id=first, additional_data=b"max_age")
            await server.flush()
            await trio.testing.wait_all_tasks_blocked()
            assert isinstance(results["refused"], Overloaded)
            assert [goaway.reason for goaway in said] == ["max_age"]
            with pytest.raises(Overloaded, match="drains"):
                await channel.execute(CALL)
            # h2 as a server sends nothing after its own GOAWAY: its frames by hand.
            server.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
            await server.answer(first, OK)
        assert results["served"].success


@pytest.mark.parametrize("code", list(h2.errors.ErrorCodes)[:3])
async def test_goaway_with_an_error_is_told_as_one(code):
    said = []
    async with opened(on_goaway=said.append) as (_channel, server):
        server.h2.close_connection(code, additional_data=b"too_many_pings")
        await server.flush()
        await trio.testing.wait_all_tasks_blocked()
    fault = "" if code == 0 else f"{code.name} "
    assert said == [GoAway(0, f"{fault}too_many_pings", failed=code != 0)]


async def test_the_end_of_the_connection_ends_its_calls():
    async with opened() as (channel, server):

        async def script():
            await server.call()
            await server.stream.aclose()

        error = await executed(channel, script)
        assert isinstance(error, PluginCrashed)
        assert isinstance(await channel.wait_broken(), ChannelBroken)
        with pytest.raises(PluginUnavailable):
            await channel.execute(CALL)


async def test_bytes_that_are_no_http2_break_the_channel():
    async with opened() as (channel, server):

        async def script():
            await server.call()
            await server.stream.send_all(b"\x00\x00\x05\x00\x00\x00\x00\x00\x00hello")

        assert isinstance(await executed(channel, script), PluginCrashed)
        assert isinstance(await channel.wait_broken(), RemoteProtocolError)


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_a_peer_that_is_no_http2_server_is_left(said):
    ours, theirs = trio.testing.memory_stream_pair()
    channel = GrpcChannel(ours, authority="a")
    await theirs.send_all(said)
    await theirs.send_eof()
    with pytest.raises(HandshakeFailed):
        await channel.handshake()
    await channel.aclose()


async def test_a_silent_peer_is_left(autojump_clock):
    ours, _theirs = trio.testing.memory_stream_pair()
    channel = GrpcChannel(ours, ChannelSettings(handshake_timeout=3), authority="a")
    with pytest.raises(HandshakeFailed, match="within 3 seconds"):
        await channel.handshake()
    assert trio.current_time() == 3


async def test_a_peer_that_does_not_read_breaks_the_channel(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    channel = GrpcChannel(ours, ChannelSettings(send_timeout=4), authority="a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server(theirs).handshake)
        await channel.handshake()
        ours.send_stream.send_all_hook = trio.sleep_forever
        nursery.start_soon(channel.run)
        with pytest.raises(PluginCrashed, match="read nothing for 4 seconds"):
            await channel.execute(CALL)


async def test_the_servers_limit_on_calls_is_kept():
    async with opened(server_settings={"MAX_CONCURRENT_STREAMS": 1}) as (channel, server):

        async def script():
            _headers, stream_id = await server.call()
            with pytest.raises(Overloaded):
                await channel.execute(CALL)
            await server.answer(stream_id, OK)

        assert (await executed(channel, script)).success


async def test_a_full_server_is_asked_for_its_health():
    async with opened(server_settings={"MAX_CONCURRENT_STREAMS": 3}) as (channel, server):

        async def script():
            _headers, first = await server.call()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.execute, CALL)
                _headers, second = await server.call()
                with pytest.raises(Overloaded):
                    await channel.execute(CALL)
                nursery.start_soon(channel.health_check, HealthCheckRequest())
                headers, third = await server.call()
                assert headers[":path"].endswith("/HealthCheck")
                await server.answer(third, pack(b""))
                await server.answer(second, OK)
            await server.answer(first, OK)

        assert (await executed(channel, script)).success


async def test_a_cancelled_call_is_reset_and_forgotten():
    async with opened() as (channel, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.execute, CALL)
            _headers, stream_id = await server.call()
            nursery.cancel_scope.cancel()
        assert channel.open_calls == 0
        reset = await server.expect(h2.events.StreamReset)
        assert (reset.stream_id, reset.error_code) == (stream_id, ErrorCodes.CANCEL)


async def test_an_answer_before_the_request_was_sent_ends_both():
    async with opened(server_settings={"INITIAL_WINDOW_SIZE": 10}) as (channel, server):
        big = ExecuteRequest(operation="x" * 5000)
        results = []

        async def call():
            results.append(await channel.execute(big))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            _headers, stream_id = await server.call()
            await server.answer(stream_id, trailers={"grpc-status": "8", "grpc-message": "no"})
        assert results[0].error_code == StatusCode.RESOURCE_EXHAUSTED
        assert (await server.expect(h2.events.StreamReset)).stream_id == stream_id


async def test_a_request_waits_for_the_servers_window():
    async with opened(server_settings={"INITIAL_WINDOW_SIZE": 10}) as (channel, server):

        async def script():
            _headers, stream_id = await server.call()
            body = b""
            while not body.endswith(b"xx!"):
                event = await server.expect(h2.events.DataReceived)
                body += event.data
                server.h2.acknowledge_received_data(event.flow_controlled_length, stream_id)
                server.h2.increment_flow_control_window(1000, stream_id)
                await server.flush()
            await server.answer(stream_id, OK)

        results = []

        async def call():
            results.append(await channel.execute(ExecuteRequest(operation="x" * 5000 + "!")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await script()
        assert results[0].success


async def test_a_large_request_leaves_whole_when_the_window_is_large():
    size = 16 * 2**20
    async with opened(server_settings={"INITIAL_WINDOW_SIZE": 2 * size}) as (channel, server):
        server.h2.increment_flow_control_window(2 * size)
        await server.flush()
        await trio.testing.wait_all_tasks_blocked()

        async def script():
            _headers, stream_id = await server.call()
            received = 0
            while received < size:
                received += len((await server.expect(h2.events.DataReceived)).data)
            await server.answer(stream_id, OK)

        results = []

        async def call():
            results.append(await channel.execute(ExecuteRequest(operation="x" * size)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await script()
        assert results[0].success


async def test_a_stream_that_ends_before_its_window_comes_is_sent_whole():
    """Its messages, queued one by one while the window is closed, count once."""
    async with opened(server_settings={"INITIAL_WINDOW_SIZE": 10}) as (channel, server):
        async with channel.execute_stream(StreamRequest(operation="total")) as call:
            _headers, stream_id = await server.call()
            for _ in range(110):
                await call.send(StreamRequest(params_json="x" * 1500))
            await call.end()
            assert 110 * 1500 < channel._link.unsent < 120 * 1500
            server.h2.increment_flow_control_window(2**20, stream_id)
            server.h2.increment_flow_control_window(2**20)
            await server.flush()
            await server.expect(h2.events.StreamEnded)
            await server.answer(stream_id, pack(encode(StreamResponse(result_json="1"))))
            assert (await call.receive()).result_json == "1"
        assert channel._link.unsent == 0


async def test_a_call_left_before_its_window_came_is_forgotten():
    """Its bytes count no more, and hold up no other call."""
    large = ExecuteRequest(operation="x" * 6_000_000)
    async with opened() as (channel, server):
        with trio.CancelScope() as left:
            async with trio.open_nursery() as nursery:

                async def call():
                    await channel.execute(large)

                nursery.start_soon(call)
                await server.call()
                await trio.testing.wait_all_tasks_blocked()
                assert channel._link.unsent > 5_000_000
                left.cancel()
        assert channel._link.unsent == 0

        async def script():
            await server.expect(h2.events.StreamReset)
            _headers, stream_id = await server.call()
            await server.answer(stream_id, OK)

        assert (await executed(channel, script)).success


async def test_an_early_answer_together_with_more_window_is_the_calls_answer():
    """As servers do that refuse what is large: window, status and RST_STREAM in one."""
    async with opened() as (channel, server):
        results = []

        async def call():
            results.append(await outcome(channel.execute(ExecuteRequest(operation="x" * 200_000))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            _headers, stream_id = await server.call()
            await trio.testing.wait_all_tasks_blocked()
            server.h2.increment_flow_control_window(2**20)
            server.h2.increment_flow_control_window(2**20, stream_id)
            refused = HEADERS | {"grpc-status": "8", "grpc-message": "too large"}
            server.h2.send_headers(stream_id, refused.items(), end_stream=True)
            server.h2.reset_stream(stream_id, ErrorCodes.NO_ERROR)
            await server.flush()
        (answer,) = results
        assert (answer.success, answer.error) == (False, "too large")

        async def script():
            _headers, stream_id = await server.call()
            await server.answer(stream_id, OK)

        assert (await executed(channel, script)).success


async def test_closing_takes_no_longer_than_its_goaway(autojump_clock):
    pair = [trio.SocketStream(end) for end in trio.socket.socketpair()]
    async with opened(pair=pair) as (channel, server):
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        await channel.aclose()
        assert trio.current_time() == began
        await server.expect(h2.events.ConnectionTerminated)
        await server.stream.aclose()


async def test_a_call_while_it_closes_is_refused():
    async with opened() as (channel, _server), trio.open_nursery() as nursery:
        nursery.start_soon(channel.aclose)
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(await outcome(channel.execute(CALL)), Overloaded | PluginUnavailable)


@pytest.mark.parametrize("status", [b"\xb2", b"9" * 5000, b""])
async def test_a_status_that_is_none_fails_its_call_only(status):
    async with opened() as (channel, server):

        async def script():
            _headers, stream_id = await server.call()
            server.h2.config.validate_outbound_headers = False
            server.h2.send_headers(stream_id, [(b":status", status)], end_stream=True)
            await server.flush()

        assert "no HTTP status" in str(await executed(channel, script))

        async def good():
            _headers, stream_id = await server.call()
            await server.answer(stream_id, OK)

        assert (await executed(channel, good)).success


async def test_a_stream_that_nobody_reads_is_not_sent_more_than_its_window():
    item = pack(encode(StreamResponse(result_json="[%s]" % ("1" * 998))))
    async with opened() as (channel, server):
        async with channel.execute_stream(StreamRequest(operation="flood")) as call:
            _headers, stream_id = await server.call()
            server.h2.send_headers(stream_id, HEADERS.items())
            sent = 0
            while server.h2.local_flow_control_window(stream_id) >= len(item):
                server.h2.send_data(stream_id, item)
                await server.flush()
                sent += 1
                await trio.testing.wait_all_tasks_blocked()
            assert WINDOW * 0.9 < sent * len(item) <= WINDOW
            for _ in range(sent):
                assert len((await call.receive()).result_json) == 1000
            await server.expect(h2.events.WindowUpdated)
        assert (await server.expect(h2.events.StreamReset)).stream_id == stream_id


async def test_errors_inside_a_stream_and_a_final_message_end_it():
    async with opened() as (channel, server):
        for last, kind in [
            (StreamResponse(error="lost", error_code=15), PluginError),
            (StreamResponse(is_final=True), trio.EndOfChannel),
        ]:
            async with channel.execute_stream(StreamRequest(operation="s")) as call:
                _headers, stream_id = await server.call()
                server.h2.send_headers(stream_id, HEADERS.items())
                server.h2.send_data(stream_id, pack(encode(StreamResponse(result_json="1"))))
                server.h2.send_data(stream_id, pack(encode(last)))
                await server.flush()
                assert (await call.receive()).result_json == "1"
                for _ in range(2):
                    with pytest.raises(kind):
                        await call.receive()


async def test_compressed_answers_of_a_stock_server(compressed_grpc):
    params = json.dumps({"n": 200_000})
    answer = await compressed_grpc.execute(ExecuteRequest(operation="big", params_json=params))
    assert json.loads(answer.result_json) == "x" * 200_000
    params = json.dumps({"n": 300_000})
    with pytest.raises(AnswerTooLarge):
        await compressed_grpc.execute(ExecuteRequest(operation="big", params_json=params))
    first = StreamRequest(operation="flood", params_json=json.dumps({"n": 1000}))
    async with compressed_grpc.execute_stream(first) as call:
        for _ in range(1000):
            assert len((await call.receive()).result_json) == 1002


async def test_a_stock_server_learns_the_namespace_and_refuses_what_is_too_large(compressed_grpc):
    answer = await compressed_grpc.execute(ExecuteRequest(operation="metadata"))
    assert json.loads(answer.result_json)["prism-namespace"] == "n"
    big = ExecuteRequest(operation="echo", params_json=json.dumps({"text": "x" * 400_000}))
    answer = await compressed_grpc.execute(big)
    assert answer.error_code == StatusCode.RESOURCE_EXHAUSTED
    assert "400" in answer.error


async def test_an_answer_without_room_for_what_has_come_is_dropped():
    """Few bytes have room in any case; the rest of a large answer is not awaited."""
    part = pack(encode(ExecuteResponse(success=True, result_json="x" * (LIMIT - 100))))[:-1]
    account = Account("all answers", LIMIT)
    other = Hold(account)
    other.resize(LIMIT // 2)
    async with opened(settings=ChannelSettings(max_frame=LIMIT)) as (channel, server):
        results = []

        async def call():
            results.append(await outcome(channel.execute(CALL, AnswerHold(account))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            _headers, stream_id = await server.call()
            server.h2.send_headers(stream_id, HEADERS.items())
            for begin in range(0, SMALL, 16_000):
                server.h2.send_data(stream_id, part[begin : min(begin + 16_000, SMALL)])
            await server.flush()
            await trio.testing.wait_all_tasks_blocked()
            assert (results, account.used) == ([], LIMIT // 2)
            for begin in range(SMALL, len(part), 16_000):
                server.h2.send_data(stream_id, part[begin : begin + 16_000])
            await server.flush()
        assert isinstance(results[0], AnswerDropped)
        assert (await server.expect(h2.events.StreamReset)).stream_id == stream_id
        assert account.used == LIMIT // 2


async def test_an_answer_that_arrives_is_counted_until_it_is_there():
    answer = pack(encode(ExecuteResponse(success=True, result_json='"%s"' % ("x" * 90_000))))
    account = Account("all answers", LIMIT)
    async with opened() as (channel, server):
        results = []

        async def call():
            results.append(await outcome(channel.execute(CALL, AnswerHold(account))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            _headers, stream_id = await server.call()
            server.h2.send_headers(stream_id, HEADERS.items())
            for begin in range(0, len(answer), 16_000):
                server.h2.send_data(stream_id, answer[begin : begin + 16_000])
            await server.flush()  # whole, but its status is still to come
            await trio.testing.wait_all_tasks_blocked()
            assert account.used == len(answer)
            server.h2.send_headers(stream_id, DONE.items(), end_stream=True)
            await server.flush()
        assert results[0].success
        assert account.used == 0


async def test_a_large_message_of_a_stream_without_room_ends_it():
    account = Account("all answers", 10_000)
    Hold(account).resize(9_000)
    message = pack(encode(StreamResponse(result_json="x" * (WINDOW + 50_000))))
    async with opened(settings=ChannelSettings(max_frame=2 * WINDOW)) as (channel, server):
        first = StreamRequest(operation="flood")
        async with channel.execute_stream(first, AnswerHold(account)) as call:
            received = []

            async def receive():
                received.append(await outcome(call.receive()))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                _headers, stream_id = await server.call()
                server.h2.send_headers(stream_id, HEADERS.items())
                while message and not received:
                    room = server.h2.local_flow_control_window(stream_id)
                    size = min(room, 16_000, len(message))
                    server.h2.send_data(stream_id, message[:size])
                    message = message[size:]
                    await server.flush()
                    await trio.testing.wait_all_tasks_blocked()
                    if message and room < 16_000 and not received:
                        await server.expect(h2.events.WindowUpdated)
            assert isinstance(received[0], AnswerDropped)
        assert account.used == 9_000
