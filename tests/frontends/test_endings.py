"""Every door, and every way for a call to end: what its client is told, what the log and the
metrics say, and that nothing is held after it.

One ending is the same through every door: that REST and gRPC each had its own way to end a call
once made them log the same ending differently.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest
import trio
from endings import DOORS, NOTHING, Door, House, Request, Socket, Told
from trio.testing import wait_all_tasks_blocked

from prism.config.types import NamespaceLimits
from prism.contract.errors import Draining
from prism.contract.messages import ExecuteResponse, StreamResponse
from prism.contract.status import StatusCode
from prism.wire.events import Close, Data, Open


class Case(NamedTuple):
    """A call under way. ``call`` is what its plugin has of it, if it has come so far."""

    house: House
    door: Door
    call: Open | None


class Ending(NamedTuple):
    """How a call ends, and what everybody is told.

    ``act`` ends it, once the plugin has it (``reaches_plugin``), or it waits for something else.
    ``cancels``: the plugin is told to stop, with this status.
    """

    code: str
    http: int
    reason: str
    act: Callable[[Case], Awaitable[None]]
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
    case.house.channel.give_up_calls(Draining("the instance is replaced"))


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


def break_slot(house: House) -> None:
    def choose() -> None:
        raise RuntimeError("hunter2")

    house.slot.choose = choose


def waiting(ending: Ending, **changes: object) -> Ending:
    """The same ending for a call that waits for its plugin."""
    return ending._replace(
        prepare=replace_on_purpose, reaches_plugin=False, only_early=True, cancels="", **changes
    )


def in_body(ending: Ending, **changes: object) -> Ending:
    """The same ending for a call whose body has not come whole."""
    return ending._replace(
        request=ending.request._replace(whole=False),
        reaches_plugin=False,
        only_early=True,
        cancels="",
        **changes,
    )


LEAVES = Ending("CANCELLED", 499, "client_gone", leave, cancels="CANCELLED")
STOPS = Ending("UNAVAILABLE", 503, "draining", stop, cancels="CANCELLED")
IN_TIME = Request(seconds=2)
LARGE = b'{"a":"' + b"x" * 200 + b'"}'
NOT_REACHED = {"reaches_plugin": False, "only_early": True}

ENDINGS = {
    "answer": Ending("OK", 200, "", answer),
    "plugin error": Ending("NOT_FOUND", 404, "plugin_error", refuse),
    "overloaded": Ending("UNAVAILABLE", 503, "overloaded", do_not_start, only_early=True),
    "plugin crashed": Ending("UNAVAILABLE", 502, "plugin_crashed", crash),
    "plugin broke the protocol": Ending("UNAVAILABLE", 502, "protocol_error", talk_nonsense),
    "plugin replaced": Ending(
        "UNAVAILABLE", 503, "draining", replace_plugin, cancels="UNAVAILABLE"
    ),
    "streams ended": Ending(
        "UNAVAILABLE", 503, "draining", end_streams, cancels="CANCELLED", only="streams"
    ),
    "deadline": Ending(
        "DEADLINE_EXCEEDED",
        504,
        "deadline_exceeded",
        nothing,
        cancels="DEADLINE_EXCEEDED",
        request=IN_TIME,
    ),
    "nothing moves": Ending(
        "DEADLINE_EXCEEDED",
        504,
        "deadline_exceeded",
        nothing,
        cancels="CANCELLED",
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


@pytest.fixture
async def make_house(nursery):
    houses = []

    async def make(limits):
        house = House(nursery, limits)
        houses.append(house)
        await house.start_plugin()
        return house

    yield make
    for house in houses:
        for sock in house.sockets:
            sock.close()


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
    [line] = access_lines
    told = (line["status"], line["http_status"], line.get("reason", ""))
    assert told == (ending.code, logged_http_status(door, ending, begun), ending.reason)
    assert house.counted() == {ending.code: 1}
    assert house.left_over() == {}
    assert [cancel.status.name for cancel in house.plugin.cancelled] == (
        [ending.cancels] if ending.cancels else []
    )


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


async def settle(house: House) -> None:
    """Wait until all that follows from the end has happened."""
    await trio.sleep(2)
    await wait_all_tasks_blocked()
