"""The scaffold of every answer: how a body is read, and that each call ends once."""

import tracemalloc

import pytest
import trio

from prism.calls.call import BODY_PAUSE, BODY_RATE
from prism.calls.memory import GRACE, Hold, Memory
from prism.calls.router import Router
from prism.config.types import NamespaceLimits
from prism.contract.errors import (
    CallCancelled,
    Draining,
    InternalError,
    InvalidRequest,
    PayloadTooLarge,
)
from prism.contract.messages import ExecuteResponse
from prism.frontends.answering import ExchangeCall, Observer
from prism.observability.access_log import AccessLog
from prism.observability.metrics import Metrics
from prism.server.exchange import Cancelled


class PlainCall(ExchangeCall):
    """A call as a front end would make it, which has nothing of any."""

    def send_result(self, result, content_type):
        self.http_status = 200
        self.respond(200, [(b"content-type", content_type)], result)


@pytest.fixture
def make(nursery, make_namespace, make_exchange):
    """``make(answer)``: a namespace, and a call of it that has begun nothing yet."""

    def make(*answer, limit=1000, timeout=300.0, headers=(), declared=None, target=None):
        namespace = target or make_namespace(
            *answer, limits=NamespaceLimits(max_payload_bytes=limit)
        )
        router = Router([namespace])
        nursery.start_soon(router.deadlines.run)
        call = PlainCall(make_exchange(headers=headers), Observer(Metrics(router), AccessLog()))
        call.identify()
        call.namespace, call.operation, call.target = "kv", "get", namespace
        call.is_call, call.declared = True, declared
        call.deadline = call.started + timeout
        return call

    return make


async def hang(request):
    await trio.sleep_forever()


def answer_of(call):
    exchange = call.exchange
    return exchange.status, b"".join(exchange.written)


# -- the body -----------------------------------------------------------------


async def test_a_body_that_is_there_is_taken_at_once(make):
    call = make()
    call.exchange.feed(b'{"a":1}', ended=True)
    call.proceed()
    await call.exchange.over.wait()
    assert answer_of(call) == (200, b'{"a":1}')
    assert call.bytes_in == 7
    assert call.exchange.wanted == 0


@pytest.mark.parametrize(
    "parts", [[b'{"a":1}'], [b"{", b'"a"', b"", b":1}", b""], [b""] * 3 + [b'{"a":1}']]
)
async def test_a_body_in_parts(make, parts):
    call = make()
    call.proceed()
    assert call.exchange.wanted == 1  # a client that asks is told to send it
    assert call.exchange.told is None  # how long it is, nobody knows
    for part in parts:
        call.exchange.feed(part)
    assert call.target.in_flight == 0  # it may never come whole, and holds no place meanwhile
    assert call.target.requests.used > 0
    call.exchange.feed(b"", ended=True)
    await call.exchange.over.wait()
    assert answer_of(call) == (200, b'{"a":1}')
    assert (call.bytes_in, call.target.in_flight) == (7, 0)
    assert call.target.requests.used == 0


async def test_slow_but_never_pausing_too_long(make, autojump_clock):
    call = make(limit=200_000)
    call.proceed()
    call.exchange.feed(b"{")
    for _ in range(5):
        await trio.sleep(BODY_PAUSE - 1)
        call.exchange.feed(b" " * int(BODY_PAUSE * BODY_RATE))
    await trio.sleep(BODY_PAUSE - 1)
    call.exchange.feed(b'"a":1}', ended=True)
    await call.exchange.over.wait()
    assert answer_of(call)[0] == 200


async def test_a_byte_now_and_then_is_too_slow(make, autojump_clock):
    call = make()
    call.proceed()
    for _ in range(29):
        call.exchange.feed(b" ")
        await trio.sleep(1)
    assert not call.done
    call.exchange.feed(b" ")
    await trio.sleep(1.1)
    assert answer_of(call)[0] == 408
    assert call.reason == "request_timeout"
    assert trio.current_time() - call.started < BODY_PAUSE + 1


async def test_a_place_is_refused_before_the_body_has_come(make):
    call = make()
    call.target.in_flight = call.target.limits.max_in_flight
    call.proceed()
    assert (call.reason, call.exchange.wanted) == ("too_many_in_flight", 0)
    call.target.in_flight = 0


async def test_no_room_for_the_body(make):
    call = make(limit=200_000)
    other = make(target=call.target)
    call.target.requests.limit = 100_000
    call.proceed()
    call.exchange.feed(b" " * 60_000)
    other.proceed()
    other.exchange.feed(b" " * 60_000)
    assert answer_of(other)[0] == 503
    assert other.reason == "memory_full"
    assert b'"retryable":true' in answer_of(other)[1]
    assert 60_000 < call.target.requests.used < 75_000
    call.exchange.feed(b"{}", ended=True)
    await call.exchange.over.wait()
    assert answer_of(call)[0] == 200
    assert call.target.requests.used == 0


async def test_who_is_slow_gives_way_when_there_is_no_room(make, autojump_clock):
    slow = make(limit=200_000)
    slow.target.requests.limit = 100_000
    slow.proceed()
    slow.exchange.feed(b" " * 60_000)
    await trio.sleep(GRACE + 1)
    quick = make(target=slow.target)
    slow.target.requests.limit = 100_000
    slow.target.deadlines.add(slow, slow.deadline)  # the target has another router's now
    quick.proceed()
    quick.exchange.feed(b"{}" + b" " * 60_000, ended=True)
    await quick.exchange.over.wait()
    assert answer_of(quick)[0] == 200
    assert slow.reason == "request_timeout"


async def test_an_answer_that_there_is_no_room_for(make):
    async def answer(request):
        return ExecuteResponse(success=True, result_json='"%s"' % ("x" * 100_000))

    memory = Memory(connection_answers=150_000).for_connection()
    Hold(memory.answers).force(100_000)
    call = make(answer)
    call.exchange.peer = call.exchange.peer._replace(memory=memory)
    call.exchange.feed(b"{}", ended=True)
    call.proceed()
    await call.exchange.over.wait()
    status, body = answer_of(call)
    assert (status, call.reason) == (503, "answer_dropped")
    assert b"the call ran, but its answer of 100002 bytes is dropped" in body
    assert b'"retryable":false' in body
    assert (memory.answers.used, call.target.answers.used) == (100_000, 0)


@pytest.mark.parametrize(
    ("allowed", "seconds", "detail"),
    [
        (300.0, BODY_PAUSE + 5, "paused for more than 30 s"),
        (20.0, 20.0, "did not arrive within the call's deadline"),
    ],
)
async def test_a_pause_too_long(make, autojump_clock, allowed, seconds, detail):
    call = make(timeout=allowed, limit=200_000)
    call.proceed()
    await trio.sleep(5)
    call.exchange.feed(b" " * 10 * BODY_RATE)
    await call.exchange.over.wait()
    assert trio.current_time() == pytest.approx(seconds)
    assert call.exchange.status == 408
    assert detail in answer_of(call)[1].decode()
    assert call.target.in_flight == 0


@pytest.mark.parametrize("parts", [[b"x" * 1001], [b"x" * 999, b"xx"], [b"x"] * 1001])
async def test_too_large_in_sum(make, parts):
    call = make()
    call.proceed()
    for part in parts:
        call.exchange.feed(part)
    await call.exchange.over.wait()
    assert (call.exchange.status, call.reason) == (413, PayloadTooLarge.reason)
    assert call.bytes_in == 1001
    call.exchange.feed(b"x", ended=True)  # the rest is nobody's business any more
    assert call.bytes_in == 1001


async def test_too_large_as_a_whole(make):
    call = make()
    call.exchange.feed(b"x" * 1001, ended=True)
    call.proceed()
    assert call.exchange.status == 413


async def test_too_large_by_its_own_word(make):
    call = make(declared=1001)
    call.proceed()
    assert call.exchange.status == 413
    assert call.exchange.wanted == 0  # nobody tells the client to send it


async def test_a_body_in_tiny_pieces_takes_no_more_memory_than_its_size(make):
    size = 100_000
    call = make(limit=size)
    call.exchange.feed(b"{")
    call.proceed()
    tracemalloc.start()
    try:
        for number in range(size // 2 - 1):
            call.exchange.feed(b"%02d" % (number % 100))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * size
    assert call.bytes_in == size - 1


async def test_what_a_front_end_makes_of_a_body_may_refuse_it(make):
    class Picky(PlainCall):
        def use_body(self, body):
            raise InvalidRequest(f"not {bytes(body).decode()}")

    for whole in (True, False):
        call = make()
        call.__class__ = Picky
        if whole:
            call.exchange.feed(b"this", ended=True)
            call.proceed()
        else:
            call.proceed()
            call.exchange.feed(b"th")
            call.exchange.feed(b"is", ended=True)
        assert call.exchange.status == 400
        assert b"not this" in answer_of(call)[1]


# -- the end ------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before the body", "in the body", "in the plugin", "after"])
@pytest.mark.parametrize(
    ("why", "status", "http_status", "reason", "answered"),
    [
        (Cancelled.CLIENT_LEFT, "CANCELLED", 499, "client_gone", 0),
        (Cancelled.STOPPED, "UNAVAILABLE", 503, "draining", 503),
    ],
)
async def test_a_call_that_nobody_waits_for(
    make, access_lines, when, why, status, http_status, reason, answered
):
    call = make(*([hang] if when != "after" else []))
    call.exchange.feed(b"{" if "body" in when else b"{}", ended="body" not in when)
    if when != "before the body":
        call.proceed()
    await trio.testing.wait_all_tasks_blocked()
    call.exchange.cancel(why)
    call.exchange.cancel(why)
    call.proceed()  # what has ended does not go on
    await trio.testing.wait_all_tasks_blocked()
    instance = call.target.slot.current
    assert (call.target.in_flight, instance.leases, instance.lost) == (0, 0, 0)
    [line] = access_lines
    if when == "after":
        assert (line["status"], line["http_status"]) == ("OK", 200)
    else:
        assert (line["status"], line["http_status"], line["reason"]) == (
            status,
            http_status,
            reason,
        )
        assert call.exchange.status == answered
        assert bool(line["bytes_out"]) == bool(answered)  # nobody took what nobody got


async def test_every_answer_has_the_request_id_and_the_extra_headers(make):
    for body in (b"{}", b"nonsense"):
        call = make()
        call.extra_headers = [(b"vary", b"origin")]
        call.exchange.feed(body, ended=True)
        call.proceed()
        await call.exchange.over.wait()
        headers = dict(call.exchange.response_headers)
        assert headers[b"x-request-id"] == call.request_id.encode()
        assert headers[b"vary"] == b"origin"


async def test_names_that_the_client_gave_are_kept(make):
    call = make()
    made_up = (call.request_id, call.trace_id, call.traceparent)
    assert [len(text) for text in made_up] == [32, 32, 55]
    call.identify("mine", ("t" * 32, "parent", "state=1"))
    assert (call.request_id, call.trace_id, call.tracestate) == ("mine", "t" * 32, "state=1")
    assert call.traceparent == "parent"


@pytest.mark.parametrize(
    ("failure", "reason", "http_status"),
    [(Draining("bye"), "draining", 503), (RuntimeError("hunter2"), "internal", 500)],
)
async def test_work_that_fails_ends_its_call(make, caplog, failure, reason, http_status):
    call = make()

    async def work():
        raise failure

    await call.run(work)
    assert (call.reason, call.exchange.status) == (reason, http_status)
    assert b"hunter2" not in answer_of(call)[1]
    assert ("hunter2" in caplog.text) == (reason == InternalError.reason)


async def test_work_that_answers_ends_its_call_well(make, access_lines):
    call = make()

    async def work():
        call.http_status = 204
        call.respond(204, [], b"")

    await call.run(work)
    call.end(CallCancelled("too late"))
    [line] = access_lines
    assert (line["status"], line["http_status"]) == ("OK", 204)


async def test_a_call_without_an_observer_is_neither_logged_nor_counted(
    make_exchange, access_lines
):
    call = PlainCall(make_exchange(), None)
    call.end(Draining("bye"))
    assert call.exchange.status == 503
    assert access_lines == []


async def test_what_cannot_be_logged_harms_nobody_else(make, caplog):
    call = make()
    caplog.set_level("INFO", "prism.access")
    call.exchange.headers = [(b"user-agent", None)]  # of which the log wants text
    call.exchange.feed(b"{}", ended=True)
    call.proceed()
    await call.exchange.over.wait()
    assert answer_of(call) == (200, b"{}")
    assert "could not be counted and logged" in caplog.text
    assert call.target.in_flight == 0
