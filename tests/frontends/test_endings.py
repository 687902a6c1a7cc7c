"""Every door, and every way for a call to end: what its client is told, what the log and the
metrics say, and that nothing is held after it.

One ending is the same through every door: that REST and gRPC each had its own way to end a call
once made them log the same ending differently.
"""

from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import trio
from endings import DOORS, NOTHING, Door, House, Request, Socket, Told
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked

from prism.calls.call import SMALL_ANSWER
from prism.calls.stream import ClientStream
from prism.config.types import (
    BreakerConfig,
    LimitsStoreConfig,
    NamespaceLimits,
    RateLimitConfig,
    SecretsConfig,
    SheddingConfig,
)
from prism.contract.errors import Draining
from prism.contract.messages import ExecuteResponse, StreamResponse
from prism.contract.status import StatusCode
from prism.frontends import websocket
from prism.frontends.grpc import execute
from prism.frontends.rest.streams import HTTPStream
from prism.supervision.instance import Instance
from prism.wire.events import Close, Data, Open


class Case(NamedTuple):
    """A call under way. ``call`` is what its plugin has of it, if it has come so far."""

    house: House
    door: Door
    call: Open | None


class Ending(NamedTuple):
    """How a call ends, and what everybody is told.

    ``act`` ends it, once the plugin has it (``reaches_plugin``), or it waits for something else.
    ``lease`` is how its instance counts it. ``cancels``: the plugin is told to stop, with this
    status.
    """

    code: str
    http: int
    reason: str
    act: Callable[[Case], Awaitable[None]]
    lease: str = ""
    cancels: str = ""
    request: Request = Request()
    limits: NamespaceLimits = NamespaceLimits()
    prepare: Callable[[House], None] = lambda house: None
    reaches_plugin: bool = True
    only: str = ""
    """``streams`` or ``unary``, if not both."""
    only_early: bool = False


async def nothing(case: Case) -> None:
    """It ends by itself."""


async def answer(case: Case) -> None:
    message = (
        StreamResponse() if case.door.streams else ExecuteResponse(success=True, result_json="1")
    )
    await case.house.plugin.send(Close(case.call.stream, StatusCode.OK, message))


async def refuse(case: Case) -> None:
    kind = StreamResponse if case.door.streams else ExecuteResponse
    message = kind(error="no such key", error_code=StatusCode.NOT_FOUND)
    await case.house.plugin.send(Close(case.call.stream, StatusCode.NOT_FOUND, message))


async def do_not_start(case: Case) -> None:
    close = Close(case.call.stream, StatusCode.RESOURCE_EXHAUSTED, not_started=True)
    await case.house.plugin.send(close)


async def crash(case: Case) -> None:
    await case.house.plugin.stream.aclose()


async def talk_nonsense(case: Case) -> None:
    await case.house.plugin.stream.send_all(bytes(64))


async def replace_plugin(case: Case) -> None:
    case.house.channel.cancel_calls(Draining("the instance is replaced"))


async def end_streams(case: Case) -> None:
    case.house.namespace.end_streams(Draining("the proxy is stopping"))


async def leave(case: Case) -> None:
    await wait_all_tasks_blocked()
    await case.door.leave()


async def stop(case: Case) -> None:
    await wait_all_tasks_blocked()
    case.door.stop()


async def lose_hope(case: Case) -> None:
    await wait_all_tasks_blocked()
    assert case.house.slot.waiting == 1
    case.house.slot.say_absent("it will not start")


def take_plugin_away(house: House) -> None:
    house.slot.clear(house.instance, "it crashed")


def replace_on_purpose(house: House) -> None:
    house.slot.say_absent("it restarts", held=True)
    house.slot.clear(house.instance)


def open_breaker(house: House) -> None:
    house.namespace.update(replace(house.namespace.config, breaker=BreakerConfig()))
    house.namespace.policies[-1].operate("open", "ann")


def lose_store(house: House) -> None:
    """What counts for several proxies is down."""
    store = house.namespace.limits_store
    store.configure(LimitsStoreConfig(url="redis://127.0.0.1"), SecretsConfig())
    store.down = "it does not answer"


def shed_all(house: House) -> None:
    house.router.overload.configure(SheddingConfig())
    house.namespace.update(house.namespace.config)
    house.router.overload.step = 5


class BrokenChannel:
    """A plugin's channel that cannot even be asked whether it is there."""

    @property
    def ended(self) -> None:
        raise RuntimeError("hunter2")


def break_slot(house: House) -> None:
    house.slot.canary = Instance("kv", 99, "it", "2", BrokenChannel(), {})


def waiting(ending: Ending, **changes: object) -> Ending:
    """The same ending for a call that waits for its plugin."""
    return ending._replace(
        prepare=replace_on_purpose,
        reaches_plugin=False,
        only_early=True,
        lease="",
        cancels="",
        **changes,
    )


def in_body(ending: Ending, **changes: object) -> Ending:
    """The same ending for a call whose body has not come whole."""
    return ending._replace(
        request=ending.request._replace(whole=False),
        reaches_plugin=False,
        only_early=True,
        lease="",
        cancels="",
        **changes,
    )


QUEUED = NamespaceLimits(max_in_flight=0, max_queued=1)
"""Calls wait for a place, and there will be none."""


def queued(ending: Ending) -> Ending:
    """The same ending for a call that waits for a place."""
    return ending._replace(
        limits=QUEUED, only="unary", reaches_plugin=False, only_early=True, lease="", cancels=""
    )


LEAVES = Ending("CANCELLED", 499, "client_gone", leave, "cancelled", "CANCELLED")
STOPS = Ending("UNAVAILABLE", 503, "draining", stop, "cancelled", "CANCELLED")
IN_TIME = Request(seconds=2)
LARGE = b'{"a":"' + b"x" * 200 + b'"}'
NOT_REACHED = {"reaches_plugin": False, "only_early": True}

ENDINGS = {
    "answer": Ending("OK", 200, "", answer, "finished"),
    "plugin error": Ending("NOT_FOUND", 404, "plugin_error", refuse, "finished"),
    "overloaded": Ending(
        "UNAVAILABLE", 503, "overloaded", do_not_start, "refused", only_early=True
    ),
    "plugin crashed": Ending("UNAVAILABLE", 502, "plugin_crashed", crash, "failed"),
    "plugin broke the protocol": Ending(
        "UNAVAILABLE", 502, "protocol_error", talk_nonsense, "failed"
    ),
    "plugin replaced": Ending(
        "UNAVAILABLE", 503, "draining", replace_plugin, "cancelled", "UNAVAILABLE"
    ),
    "streams ended": Ending(
        "UNAVAILABLE", 503, "draining", end_streams, "cancelled", "CANCELLED", only="streams"
    ),
    "deadline": Ending(
        "DEADLINE_EXCEEDED",
        504,
        "deadline_exceeded",
        nothing,
        "cancelled",
        "DEADLINE_EXCEEDED",
        request=IN_TIME,
    ),
    "nothing moves": Ending(
        "DEADLINE_EXCEEDED",
        504,
        "deadline_exceeded",
        nothing,
        "cancelled",
        "CANCELLED",
        limits=NamespaceLimits(stream_idle_timeout_seconds=5),
        only="streams",
    ),
    "client leaves": LEAVES,
    "proxy stops": STOPS,
    "client leaves while the plugin restarts": waiting(LEAVES),
    "proxy stops while the plugin restarts": waiting(STOPS),
    "client leaves within its body": in_body(LEAVES),
    "proxy stops within the body": in_body(STOPS),
    "body is late": in_body(
        Ending("DEADLINE_EXCEEDED", 408, "request_timeout", nothing, request=IN_TIME)
    ),
    "plugin restarts for too long": waiting(
        Ending("UNAVAILABLE", 503, "plugin_unavailable", nothing, request=IN_TIME)
    ),
    "plugin does not come back": waiting(
        Ending("UNAVAILABLE", 503, "plugin_unavailable", lose_hope)
    ),
    "no plugin": Ending(
        "UNAVAILABLE", 503, "plugin_unavailable", nothing, prepare=take_plugin_away, **NOT_REACHED
    ),
    "circuit open": Ending(
        "UNAVAILABLE", 503, "circuit_open", nothing, prepare=open_breaker, **NOT_REACHED
    ),
    "proxy overloaded": Ending(
        "UNAVAILABLE", 503, "overloaded_proxy", nothing, prepare=shed_all, **NOT_REACHED
    ),
    "unknown namespace": Ending(
        "NOT_FOUND",
        404,
        "unknown_namespace",
        nothing,
        request=Request(namespace="nope"),
        **NOT_REACHED,
    ),
    "unknown operation": Ending(
        "UNIMPLEMENTED",
        404,
        "unknown_operation",
        nothing,
        request=Request(operation="nope"),
        **NOT_REACHED,
    ),
    "no stream": Ending(
        "INVALID_ARGUMENT",
        400,
        "invalid_request",
        nothing,
        request=Request(operation="get"),
        only="streams",
        **NOT_REACHED,
    ),
    "bad params": Ending(
        "INVALID_ARGUMENT",
        400,
        "invalid_request",
        nothing,
        request=Request(params=b"[]"),
        **NOT_REACHED,
    ),
    "too large": Ending(
        "RESOURCE_EXHAUSTED",
        413,
        "payload_too_large",
        nothing,
        request=Request(params=LARGE),
        limits=NamespaceLimits(max_payload_bytes=100),
        **NOT_REACHED,
    ),
    "too many calls": Ending(
        "RESOURCE_EXHAUSTED",
        429,
        "too_many_in_flight",
        nothing,
        limits=NamespaceLimits(max_in_flight=0),
        only="unary",
        **NOT_REACHED,
    ),
    "deadline in the queue": Ending(
        "RESOURCE_EXHAUSTED",
        429,
        "queue_too_long",
        nothing,
        request=IN_TIME,
        limits=QUEUED,
        only="unary",
        **NOT_REACHED,
    ),
    "client leaves the queue": queued(LEAVES),
    "proxy stops in the queue": queued(STOPS),
    "too many a second": Ending(
        "RESOURCE_EXHAUSTED",
        429,
        "rate_limited",
        nothing,
        limits=NamespaceLimits(rate=RateLimitConfig(calls_per_second=1, burst=0)),
        **NOT_REACHED,
    ),
    "limits store down": Ending(
        "UNAVAILABLE",
        503,
        "limits_unavailable",
        nothing,
        limits=NamespaceLimits(rate=RateLimitConfig(calls_per_second=1, when_store_is_down="deny")),
        prepare=lose_store,
        **NOT_REACHED,
    ),
    "too many streams": Ending(
        "RESOURCE_EXHAUSTED",
        429,
        "too_many_streams",
        nothing,
        limits=NamespaceLimits(max_streams=0),
        only="streams",
        **NOT_REACHED,
    ),
    "too many streams of a client": Ending(
        "RESOURCE_EXHAUSTED",
        429,
        "too_many_streams",
        nothing,
        limits=NamespaceLimits(max_streams_per_client=0),
        only="streams",
        **NOT_REACHED,
    ),
    "bug": Ending("INTERNAL", 500, "internal", nothing, prepare=break_slot, **NOT_REACHED),
}


def cases() -> list[object]:
    found = []
    for door_name, make_door in DOORS.items():
        streams = make_door().streams
        for ending_name, ending in ENDINGS.items():
            if ending.only == ("unary" if streams else "streams"):
                continue
            phases = ["late"] if streams and not ending.only_early else []
            found += [
                pytest.param(make_door, ending, late, id=f"{door_name}-{ending_name}{suffix}")
                for late, suffix in [(False, ""), *((True, ", late") for _ in phases)]
            ]
    return found


@pytest.mark.parametrize(("make_door", "ending", "late"), cases())
async def test_how_a_call_ends(make_house, autojump_clock, access_lines, make_door, ending, late):
    house = await make_house(ending.limits)
    ending.prepare(house)
    door = make_door()
    await door.ask(house, ending.request)
    call, begun = None, late
    if ending.reaches_plugin:
        begun = late or (door.streams and ending.code == "DEADLINE_EXCEEDED")  # after a while
        call = await house.plugin.called()
        if late:
            message = StreamResponse(result_json="1")
            await house.plugin.send(Data(call.stream, message))
            await door.first_message()
    await ending.act(Case(house, door, call))

    if ending.reason != "client_gone":
        assert await door.told() == expected(door, ending, begun)
    await settle(house)
    http = logged_http_status(door, ending, begun)
    assert logged(access_lines) == (ending.code, http, ending.reason)
    assert house.counted() == {ending.code: 1}
    assert house.left_over() == {}
    assert house.leases() == ({ending.lease: 1} if ending.lease else {})
    assert house.plugin.cancels() == ([ending.cancels] if ending.cancels else [])


def is_refused_handshake(door: Door, ending: Ending) -> bool:
    return isinstance(door, Socket) and ending.reason == "unknown_namespace"


def expected(door: Door, ending: Ending, begun: bool) -> Told:
    """What the client is told. ``begun``: something of its stream has come before."""
    told = (ending.code, ending.http, ending.reason)
    if is_refused_handshake(door, ending):
        return Door.early(door, *told)
    if ending.act is stop and begun:
        return door.broken_off()
    if ending.act is stop and not door.waits_for_stop:
        return NOTHING
    return door.late(*told) if begun else door.early(*told)


def logged_http_status(door: Door, ending: Ending, begun: bool) -> int:
    if is_refused_handshake(door, ending):
        return ending.http
    return door.http_status(ending.http, begun=begun)


def logged(access_lines: list[dict[str, Any]]) -> tuple[str, int, str]:
    """What the access log says, in its one line."""
    [line] = access_lines
    return line["status"], line["http_status"], line.get("reason", "")


async def settle(house: House) -> None:
    """Wait until all that follows from the end has happened."""
    await trio.sleep(2)
    await wait_all_tasks_blocked()


# -- what one kind of door has to itself ------------------------------------------

SOCKETS = {name: door for name, door in DOORS.items() if isinstance(door(), Socket)}


@pytest.mark.parametrize("make_door", SOCKETS.values(), ids=SOCKETS)
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (1000, ("OK", 101, "")),
        (1001, ("OK", 101, "")),
        (1011, ("CANCELLED", 499, "client_gone")),
    ],
)
@pytest.mark.parametrize("when", ["first message", "restart", "early", "late", "last message"])
async def test_a_websocket_that_its_client_closes(
    make_house, autojump_clock, access_lines, make_door, when, code, expected
):
    house = await make_house(NamespaceLimits())
    door = make_door()
    if when == "restart":
        replace_on_purpose(house)
    await door.ask(house, Request(whole=when != "first message"))
    reaches_plugin = when in {"early", "late", "last message"}
    if reaches_plugin:
        call = await house.plugin.called()
        if when == "late":
            await house.plugin.send(Data(call.stream, StreamResponse(result_json="1")))
            await door.first_message()
        elif when == "last message":
            await door.say("")
    await wait_all_tasks_blocked()
    began = trio.current_time()
    await door.close(code)
    while not door.transport.response.over:
        await door.transport.read()
    assert door.transport.code == code
    await door.leave()
    await wait_all_tasks_blocked()
    assert logged(access_lines) == expected
    assert trio.current_time() == began
    assert house.counted() == {expected[0]: 1}
    assert house.left_over() == {}
    assert house.plugin.cancels() == ["CANCELLED"] * reaches_plugin


def has_bug(*_arguments: object) -> None:
    raise RuntimeError("hunter2")


async def has_async_bug(*_arguments: object) -> None:
    raise RuntimeError("hunter2")


@pytest.mark.parametrize("make_door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
async def test_a_bug_in_the_answer(
    make_house, autojump_clock, access_lines, caplog, monkeypatch, make_door, late
):
    """It costs the call that meets it, and neither the plugin's channel nor other calls."""
    house = await make_house(NamespaceLimits())
    door = make_door()
    if late and not door.streams:
        pytest.skip("it has no late answers")
    await door.ask(house, Request())
    call = await house.plugin.called()
    message = StreamResponse(result_json="1")
    if late:
        await house.plugin.send(Data(call.stream, message))
        await door.first_message()
    for stream in (HTTPStream, type_of_stream(execute), type_of_stream(websocket)):
        monkeypatch.setattr(stream, "send_some", has_async_bug)
    if door.streams:
        await house.plugin.send(Data(call.stream, message))
    else:
        answers = house.namespace.answers
        answers.used = answers.limit = 1
        answers.parent.reclaim = has_bug
        large = ExecuteResponse(success=True, result_json="1" * (SMALL_ANSWER + 1))
        await house.plugin.send(Close(call.stream, StatusCode.OK, large))
    told = ("INTERNAL", 500, "internal")
    assert await door.told() == (door.late(*told) if late else door.early(*told))
    await settle(house)
    http = door.http_status(500, begun=late)
    assert logged(access_lines) == ("INTERNAL", http, "internal")
    assert house.counted() == {"INTERNAL": 1}
    assert house.left_over() == {}
    assert house.channel.ended is None
    assert "hunter2" in caplog.text


def type_of_stream(module: ModuleType) -> type[ClientStream]:
    """The class of ``module`` that carries its messages."""
    [found] = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, ClientStream) and each is not ClientStream
    ]
    return found


UNARY = {name: door for name, door in DOORS.items() if not door().streams}


@pytest.mark.parametrize("make_door", UNARY.values(), ids=UNARY)
@pytest.mark.parametrize(
    ("operation", "ends", "lease"), [("get", crash, "failed"), ("set", do_not_start, "refused")]
)
async def test_a_call_that_is_made_again(
    make_house, autojump_clock, access_lines, make_door, operation, ends, lease
):
    """It is one call, however many instances have had it."""
    house = await make_house(NamespaceLimits())
    first, plugin = house.instance, house.plugin
    door = make_door()
    await door.ask(house, Request(operation=operation))
    call = await house.plugin.called()
    replace_on_purpose(house)
    await ends(Case(house, door, call))
    await wait_all_tasks_blocked()
    assert house.slot.waiting == 1
    await house.start_plugin()
    await answer(Case(house, door, await house.plugin.called()))
    assert await door.told() == door.early("OK", 200, "")
    await settle(house)
    assert logged(access_lines) == ("OK", 200, "")
    assert access_lines[0]["attempts"] == 2
    response = door.transport.response
    assert (response.trailers or response.headers)[b"prism-attempts"] == b"2"
    assert access_lines[0]["instance"] == house.instance.id != first.id
    assert house.counted() == {"OK": 1}
    assert house.left_over() == {}
    assert (getattr(first, lease), first.leases, first.lost) == (1, 0, 0)
    assert house.leases() == {"finished": 1}
    assert plugin.cancels() == house.plugin.cancels() == []
