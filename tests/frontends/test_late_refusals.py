"""Through every door: a refusal too many is told later, and holds nothing meanwhile."""

import pytest
import trio
from endings import DOORS, Door, House, OverASGI, Request, Told
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked

from prism.calls.refusals import LATEST, TICK, Refusals
from prism.config.types import BreakerConfig, NamespaceLimits
from prism.contract.messages import ExecuteResponse, StreamResponse
from prism.contract.status import StatusCode
from prism.wire.events import Close

OPEN = ("UNAVAILABLE", 503, "circuit_open")


@pytest.fixture
async def house(make_house) -> House:
    """Its breaker is open; one refusal a second is told at once."""
    house: House = await make_house(NamespaceLimits())
    house.namespace.update(replace(house.namespace.config, breaker=BreakerConfig()))
    operate(house, "open")
    house.observer.refusals = Refusals(house.router.deadlines.alarms, 1.0)
    return house


def operate(house: House, action: str) -> None:
    house.namespace.policies[-1].operate(action, "ann")


async def ask(house: House, door: Door, operation: str = "") -> None:
    await door.ask(house, Request(operation=operation))


async def refused_at_once(house: House, door: Door) -> None:
    began = trio.current_time()
    await ask(house, door)
    assert (await door.told())[:3] == expected(door)
    assert trio.current_time() == began


def expected(door: Door) -> Told:
    return door.early(*OPEN)[:3]


SOME = {
    name: door
    for name, door in DOORS.items()
    if name.startswith(("REST", "gRPC stream", "WebSocket"))
}
"""One of each kind; the first test has all."""

every_door = pytest.mark.parametrize("make_door", DOORS.values(), ids=DOORS)
some_doors = pytest.mark.parametrize("make_door", SOME.values(), ids=SOME)


@every_door
async def test_one_too_many_is_told_later(house, autojump_clock, access_lines, make_door):
    await refused_at_once(house, make_door())
    access_lines.clear()
    began = trio.current_time()
    door = make_door()
    await ask(house, door)
    await wait_all_tasks_blocked()
    assert house.observer.refusals.held == 1
    assert house.left_over() == {}
    assert access_lines == []

    assert (await door.told())[:3] == expected(door)
    assert LATEST - TICK <= trio.current_time() - began <= LATEST + TICK
    [line] = access_lines
    assert (line["status"], line["reason"]) == ("UNAVAILABLE", "circuit_open")
    assert LATEST - TICK <= line["duration_ms"] / 1000 <= LATEST + TICK
    assert house.counted() == {"UNAVAILABLE": 2}
    assert house.observer.refusals.held == 0


@some_doors
async def test_a_call_that_is_not_refused_does_not_wait(house, autojump_clock, make_door):
    await refused_at_once(house, make_door())
    late = make_door()
    await ask(house, late)
    await wait_all_tasks_blocked()
    assert house.observer.refusals.held == 1

    operate(house, "close")
    began = trio.current_time()
    door = make_door()
    await ask(house, door)
    call = await house.plugin.called()
    kind = StreamResponse if door.streams else ExecuteResponse
    answer = kind() if door.streams else kind(success=True, result_json="1")
    await house.plugin.send(Close(call.stream, StatusCode.OK, answer))
    assert (await door.told()).code in {"OK", ""}
    assert trio.current_time() == began
    assert house.observer.refusals.held == 1


@some_doors
async def test_a_client_that_leaves_meanwhile(house, autojump_clock, access_lines, make_door):
    await refused_at_once(house, make_door())
    access_lines.clear()
    began = trio.current_time()
    door = make_door()
    await ask(house, door)
    await wait_all_tasks_blocked()
    await door.leave()
    await trio.sleep(0.5)  # HTTP/1.1 lets one that ends its half wait a little
    [line] = access_lines
    assert (line["status"], line["reason"]) == ("UNAVAILABLE", "circuit_open")
    assert trio.current_time() < began + LATEST - TICK

    await trio.sleep(LATEST)
    assert house.observer.refusals.held == 0
    assert len(access_lines) == 1  # and not once more when its time has come
    assert house.counted() == {"UNAVAILABLE": 2}


@some_doors
async def test_a_stop_waits_for_none(house, autojump_clock, make_door):
    await refused_at_once(house, make_door())
    began = trio.current_time()
    late = [make_door() for _ in range(3)]
    for door in late:
        await ask(house, door)
    await wait_all_tasks_blocked()
    assert house.observer.refusals.held == 3
    house.observer.refusals.stop()
    for door in late:
        assert (await door.told())[:3] == expected(door)
    await refused_at_once(house, make_door())
    assert trio.current_time() == began
    assert house.observer.refusals.held == 0


@some_doors
async def test_a_connection_that_can_wait_no_longer(house, autojump_clock, access_lines, make_door):
    door = make_door()
    if isinstance(door.transport, OverASGI):
        pytest.skip("its server cuts calls off")
    await refused_at_once(house, make_door())
    began = trio.current_time()
    house.observer.refusals = Refusals(house.router.deadlines.alarms, 1.0)
    await refused_at_once(house, make_door())
    await ask(house, door)
    await wait_all_tasks_blocked()
    door.stop()  # which waits for half a second
    assert (await door.told())[:3] == expected(door)
    assert trio.current_time() < began + LATEST - TICK
    assert len(access_lines) == 3
