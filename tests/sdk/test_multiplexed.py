"""The multiplexed connection, against a server of lines on a real socket, on both event loops."""

import math
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest

from prism.contract.errors import PluginError
from prism.contract.status import StatusCode
from prism.sdk.multiplexed import (
    AnswerLost,
    Limits,
    Multiplexed,
    NotSent,
    QueueFull,
    State,
)
from prism.sdk.turns import Turns, turns

QUICK = Limits(first_backoff=0.001, last_backoff=0.01)


class Lines:
    """A transport of lines: the answer to a line is the line."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self._out = bytearray()
        self._in = bytearray()

    def write(self, request: bytes) -> None:
        self._out += request + b"\n"

    def flush_nowait(self) -> bool:
        return False

    async def flush(self) -> None:
        data, self._out = bytes(self._out), bytearray()
        await self._stream.send(data)

    async def read(self) -> list[bytes]:
        self._in += await self._stream.receive(65536)
        *lines, rest = bytes(self._in).split(b"\n")
        self._in = bytearray(rest)
        return lines

    async def aclose(self) -> None:
        await self._stream.aclose()


class Prompt(Lines):
    """One that sends at once: all, or up to ``takes`` bytes."""

    takes = 1_000_000

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        super().__init__(stream)
        self.flushed = self.flushed_at_once = 0

    def flush_nowait(self) -> bool:
        self.flushed_at_once += 1
        descriptor = self._stream.extra(anyio.abc.SocketAttribute.raw_socket).fileno()
        sent = os.write(descriptor, self._out[: self.takes])
        del self._out[:sent]
        return not self._out

    async def flush(self) -> None:
        self.flushed += 1
        await super().flush()


class Server:
    """Answers each line with itself, in order, as long as it is not ``held``."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.accepted = 0
        self.received: list[bytes] = []
        self.answered = 0
        self.refuse = False
        self.extra = b""
        self._held: anyio.Event | None = None
        self._streams: set[anyio.abc.SocketStream] = set()
        self._changed = anyio.Event()

    def hold(self) -> None:
        self._held = anyio.Event()

    def release(self) -> None:
        assert self._held is not None
        held, self._held = self._held, None
        held.set()

    async def cut(self) -> None:
        """Close every connection."""
        for stream in list(self._streams):
            await stream.aclose()

    async def wait_received(self, number: int) -> None:
        while len(self.received) < number:
            self._changed = anyio.Event()
            await self._changed.wait()

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        self.accepted += 1
        async with stream:
            if self.refuse:
                return
            self._streams.add(stream)
            rest = b""
            try:
                while True:
                    *lines, rest = (rest + await stream.receive()).split(b"\n")
                    self.received += lines
                    self._changed.set()
                    while self._held is not None:
                        await self._held.wait()
                    # In pieces that end anywhere: an answer may arrive in two of them.
                    data = b"".join(line + b"\n" for line in lines) + self.extra
                    middle = len(data) // 3
                    await stream.send(data[:middle])
                    await stream.send(data[middle:])
                    self.answered += len(lines)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
            finally:
                self._streams.discard(stream)


@asynccontextmanager
async def serving(
    limits: Limits = QUICK, transport: Callable[[anyio.abc.SocketStream], Lines] = Lines
) -> AsyncIterator[tuple[Server, Multiplexed[bytes, bytes]]]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        server = Server(listener.extra(anyio.abc.SocketAttribute.local_port))

        async def connect() -> Lines:
            return transport(await anyio.connect_tcp("127.0.0.1", server.port))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, server.serve)
            calls: Multiplexed[bytes, bytes] = Multiplexed(connect, "the server", limits)
            await calls.start()
            await until(lambda: server.accepted == 1)
            try:
                yield server, calls
            finally:
                with anyio.CancelScope(shield=True):
                    await calls.aclose()
                tasks.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - states that have no event of their own
        await anyio.sleep(0.001)


@pytest.mark.parametrize("cuts", [0, 5])
def test_no_answer_ever_reaches_another_caller(run, cuts):
    """A storm of calls with values of their own, cancelled at any moment, with lost connections."""
    number = 10_000
    dice = random.Random(7)

    async def storm() -> None:
        async with serving() as (server, calls):
            outcomes: dict[str, int] = {"answered": 0, "cancelled": 0, "lost": 0, "not sent": 0}
            room = anyio.Semaphore(500)

            async def one(name: int) -> None:
                value = f"value {name}".encode()
                patience = dice.choice([0.0, 0.0005, 0.002, math.inf, math.inf])
                outcome = "cancelled"
                async with room:
                    with anyio.move_on_after(patience):
                        try:
                            if name % 10:
                                assert await calls.call(value, len(value)) == value
                            else:
                                both = value + b" a\n" + value + b" b"
                                found = await calls.call_many(both, 2, len(both))
                                assert found == [value + b" a", value + b" b"]
                            outcome = "answered"
                        except AnswerLost:
                            outcome = "lost"
                        except NotSent:
                            outcome = "not sent"
                outcomes[outcome] += 1
                if cuts and name % (number // cuts) == 100:
                    await server.cut()

            async with anyio.create_task_group() as tasks:
                for name in range(number):
                    tasks.start_soon(one, name)
            # The places of cancelled calls are given up as their answers come.
            await until(lambda: calls.in_flight == 0)
            assert calls.queued_bytes == 0
            assert await calls.call(b"last") == b"last"
            assert sum(outcomes.values()) == number
            assert outcomes["answered"] > number / 10
            assert outcomes["cancelled"] > number / 10
            assert len(server.received) < number * 1.1  # what was cancelled in the queue never left
            if cuts:
                assert server.accepted == calls.connects > 1
            else:
                assert outcomes["lost"] == outcomes["not sent"] == 0
                assert server.accepted == calls.connects == 1

    run(storm)


def test_the_place_of_a_cancelled_call_is_kept_until_its_answer_is_there(run):
    async def check() -> None:
        async with serving() as (server, calls):
            server.hold()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(calls.call, b"cancelled")
                await server.wait_received(1)
                tasks.cancel_scope.cancel()
            assert calls.in_flight == 1
            server.release()
            assert await calls.call(b"mine") == b"mine"
            assert calls.in_flight == 0

    run(check)


def test_a_call_that_is_cancelled_before_it_was_written_is_never_sent(run):
    async def check() -> None:
        async with serving() as (server, calls):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(calls.call, b"cancelled")
                tasks.start_soon(calls.call, b"cancelled too")
                tasks.cancel_scope.cancel()
            assert await calls.call(b"mine") == b"mine"
            assert server.received == [b"mine"]

    run(check)


def test_calls_of_one_moment_leave_together(run):
    async def check() -> None:
        async with serving() as (server, calls):
            flushes = 0
            flush = Lines.flush

            async def counted(self: Lines) -> None:
                nonlocal flushes
                flushes += 1
                await flush(self)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Lines, "flush", counted)
                async with anyio.create_task_group() as tasks:
                    for number in range(50):
                        tasks.start_soon(calls.call, b"%d" % number)
            assert len(server.received) == 50
            assert flushes < 10

    run(check)


def test_the_answer_that_a_lost_connection_owes_is_an_error_or_repeated(run):
    async def check() -> None:
        async with serving() as (server, calls):
            server.hold()
            errors: list[PluginError] = []
            answers: list[bytes] = []

            async def fails() -> None:
                with pytest.raises(AnswerLost, match="may have run") as failed:
                    await calls.call(b"once")
                errors.append(failed.value)

            async def repeated() -> None:
                answers.append(await calls.call(b"twice", repeatable=True))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fails)
                tasks.start_soon(repeated)
                await server.wait_received(2)
                await server.cut()
                await server.wait_received(3)
                server.release()
            assert errors[0].status is StatusCode.UNAVAILABLE
            assert answers == [b"twice"]
            assert server.received.count(b"once") == 1
            assert calls.connects == 2

    run(check)


def test_calls_fail_at_once_while_nothing_can_be_reached_and_work_again_after(run):
    async def check() -> None:
        async with serving() as (server, calls):
            port, server.port = server.port, 1
            await server.cut()
            await until(lambda: calls.state is State.UNREACHABLE)
            with pytest.raises(NotSent) as refused:
                await calls.call(b"early")
            assert refused.value.detail.startswith(f"{calls.name} cannot be reached: ")
            assert refused.value.detail.endswith("; the call was not sent")
            assert "Errno" not in refused.value.detail
            server.port = port
            await until(lambda: calls.state is State.CONNECTED)
            assert await calls.call(b"late") == b"late"
            assert server.received == [b"late"]

    run(check)


def test_a_server_that_only_takes_connections_is_asked_less_and_less(run):
    async def check() -> None:
        limits = Limits(first_backoff=0.01, last_backoff=60)
        async with serving(limits) as (server, _):
            server.refuse = True
            await server.cut()
            await until(lambda: server.accepted >= 4)
            before = anyio.current_time()
            await until(lambda: server.accepted >= 5)
            assert anyio.current_time() - before > 0.03  # of 0.08, less what is random in it

    run(check)


def test_a_connection_that_owes_answers_and_is_silent_is_given_up(run):
    async def check() -> None:
        limits = Limits(silence=0.05, first_backoff=0.001, last_backoff=0.01)
        async with serving(limits) as (server, calls):
            server.hold()
            with pytest.raises(AnswerLost, match=r"no answer came for 0\.05 seconds"):
                await calls.call(b"into the void")
            server.release()
            await until(lambda: calls.state is State.CONNECTED)
            assert await calls.call(b"again") == b"again"

    run(check)


def test_a_connection_that_owes_nothing_may_be_silent(run):
    async def check() -> None:
        limits = Limits(silence=0.01)
        async with serving(limits) as (_, calls):
            assert await calls.call(b"one") == b"one"
            await anyio.sleep(0.05)
            assert calls.connects == 1

    run(check)


def test_how_many_calls_wait_is_bounded(run):
    async def check() -> None:
        async with serving(Limits(calls=2)) as (server, calls):
            server.hold()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(calls.call, b"1")
                tasks.start_soon(calls.call, b"2")
                await server.wait_received(2)
                with pytest.raises(QueueFull, match="2 calls to the server are waiting") as refused:
                    await calls.call(b"3")
                assert refused.value.status is StatusCode.RESOURCE_EXHAUSTED
                server.release()
            assert await calls.call(b"4") == b"4"

    run(check)


def test_how_many_bytes_wait_is_bounded(run):
    async def check() -> None:
        async with serving(Limits(queued_bytes=20)) as (_, calls):
            with pytest.raises(QueueFull, match="the limit is 20"):
                await calls.call(b"1", 21)
            assert await calls.call(b"2", 20) == b"2"
            assert calls.queued_bytes == 0

    run(check)


def test_an_answer_that_nobody_asked_for_ends_the_connection(run):
    async def check() -> None:
        async with serving() as (server, calls):
            server.extra = b"more\n"
            assert await calls.call(b"one") == b"one"
            await until(lambda: calls.connects == 2)
            server.extra = b""
            assert await calls.call(b"two") == b"two"

    run(check)


def test_one_that_is_replaced_makes_another_connection(run):
    async def check() -> None:
        async with serving() as (_, calls):
            assert await calls.call(b"one") == b"one"
            calls.replace("it became a replica")
            await until(lambda: calls.connects == 2)
            assert await calls.call(b"two") == b"two"

    run(check)


def test_closing_fails_what_waits(run):
    async def check() -> None:
        async with serving() as (server, calls):
            server.hold()

            async def waits() -> None:
                with pytest.raises(AnswerLost, match="is closed"):
                    await calls.call(b"one")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(waits)
                await server.wait_received(1)
                await calls.aclose()
            assert calls.state is State.CLOSED
            assert calls.in_flight == 0
            with pytest.raises(NotSent, match="is closed"):
                await calls.call(b"two")

    run(check)


def test_a_first_connection_that_fails_is_told(run):
    async def check() -> None:
        async def connect() -> Lines:
            raise OSError("nobody is there")

        with pytest.raises(OSError, match="nobody is there"):
            await Multiplexed(connect, "the server").start()

    run(check)


def test_calls_wait_for_a_first_attempt_that_nobody_waits_for(run):
    async def check() -> None:
        async with serving() as (server, _):
            attempts = 0

            async def connect() -> Lines:
                nonlocal attempts
                attempts += 1
                await anyio.lowlevel.checkpoint()
                if attempts == 1:
                    raise OSError("nobody is there")
                return Lines(await anyio.connect_tcp("127.0.0.1", server.port))

            later = Multiplexed(connect, "the server", QUICK)
            later.begin()
            with pytest.raises(NotSent, match="nobody is there"):
                await later.call(b"one")
            await until(lambda: later.state is State.CONNECTED)
            assert await later.call(b"two") == b"two"
            await later.aclose()

    run(check)


def test_what_diverts_a_call_sees_its_outcome_first_and_may_settle_it_itself(run):
    async def check() -> None:
        seen = []

        def divert(call, answer, error):
            seen.append((answer, type(error)))
            if answer == [b"elsewhere"] or error is not None:
                tasks.start_soon(settle, call)
                return True
            return False

        async def settle(call) -> None:
            await anyio.lowlevel.checkpoint()
            call.settle([b"from there"])

        async with serving() as (server, calls), anyio.create_task_group() as tasks:
            assert await calls.later(b"here", bytes.upper, divert=divert) == b"HERE"
            assert await calls.later(b"elsewhere", bytes.upper, divert=divert) == b"FROM THERE"
            server.hold()
            lost = calls.later(b"lost", bytes.upper, divert=divert)
            await server.wait_received(3)
            await server.cut()
            assert await lost == b"FROM THERE"
        assert seen == [
            ([b"here"], type(None)),
            ([b"elsewhere"], type(None)),
            (None, AnswerLost),
        ]

    run(check)


@asynccontextmanager
async def in_turns(
    takes: int = Prompt.takes,
) -> AsyncIterator[tuple[Server, Multiplexed[bytes, bytes], Turns, list[Prompt]]]:
    """A connection of a session's, whose task this is."""
    transports: list[Prompt] = []

    def transport(stream: anyio.abc.SocketStream) -> Prompt:
        transports.append(Prompt(stream))
        transports[-1].takes = takes
        return transports[-1]

    turn = Turns()
    token = turns.set(turn)
    try:
        async with serving(transport=transport) as (server, calls):
            await until(lambda: calls._idle)
            yield server, calls, turn, transports
    finally:
        turns.reset(token)


def test_what_is_asked_in_a_turn_leaves_at_its_end_without_the_task_that_writes(run):
    async def check() -> None:
        async with in_turns() as (_, calls, turn, (transport,)):
            turn.begin()
            asked = [calls.later(b"%d" % number, bytes.upper) for number in range(3)]
            assert transport.flushed_at_once == 0
            turn.end()
            assert transport.flushed_at_once == 1
            assert calls.queued_bytes == 0
            assert [await later for later in asked] == [b"0", b"1", b"2"]
            assert transport.flushed == 0

    run(check)


def test_what_does_not_leave_at_once_is_left_to_the_task_that_writes(run):
    async def check() -> None:
        async with in_turns(takes=2) as (_, calls, turn, (transport,)):
            turn.begin()
            asked = [calls.later(b"call %d" % number, bytes.upper) for number in range(3)]
            turn.end()
            turn.begin()  # the task that writes has yet to send the rest
            asked.append(calls.later(b"one more", bytes.upper))
            turn.end()
            assert transport.flushed_at_once == 1
            assert [await later for later in asked] == [
                b"CALL 0",
                b"CALL 1",
                b"CALL 2",
                b"ONE MORE",
            ]
            assert transport.flushed >= 1

    run(check)


def test_what_is_asked_by_another_task_is_written_by_the_task_that_writes(run):
    async def check() -> None:
        async with in_turns() as (_, calls, _, (transport,)):
            assert await calls.call(b"no turn runs") == b"no turn runs"
            assert (transport.flushed_at_once, transport.flushed) == (0, 1)

    run(check)


def test_a_turn_that_ends_without_a_connection_leaves_what_was_asked_to_the_next(run):
    async def check() -> None:
        async with in_turns() as (server, calls, turn, _):
            await server.cut()
            await until(lambda: calls._transport is None or server.accepted > 1)
            turn.begin()
            later = calls.later(b"whichever has it", bytes.upper)
            turn.end()
            assert await later == b"WHICHEVER HAS IT"

    run(check)


def test_a_cancelled_call_of_a_turn_is_not_written(run):
    async def check() -> None:
        async with in_turns() as (server, calls, turn, _):
            turn.begin()
            dropped = calls.later(b"dropped", bytes.upper)
            kept = calls.later(b"kept", bytes.upper)
            dropped.abandoned = True
            turn.end()
            assert await kept == b"KEPT"
            assert server.received == [b"kept"]

    run(check)


def test_answers_that_come_together_are_settled_in_one_turn(run):
    async def check() -> None:
        async with in_turns() as (server, calls, turn, _):
            ended = []

            def settled() -> None:
                assert turn.run
                turn.at_end(lambda: ended.append(len(ended)))

            server.hold()
            turn.begin()
            asked = [calls.later(b"%d" % number, bytes.upper) for number in range(3)]
            turn.end()
            for later in asked:
                later.when_settled(settled)
            server.release()
            await until(lambda: len(ended) == 3)
            assert not turn.run

    run(check)
