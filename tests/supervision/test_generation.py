"""One generation: what ends its service, and that it always comes to an end."""

import logging
from dataclasses import replace
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from supervised_plugin import ScriptedConnector, eventually

from prism.config.errors import ConfigError
from prism.contract.errors import ChannelAged, ChannelBroken, Draining, PluginCrashed
from prism.contract.messages import HealthCheckResponse, HealthStatus, PluginMetrics
from prism.streams.errors import LaunchError
from prism.supervision.events import EventFeed, Journal
from prism.supervision.generation import CANCEL_GRACE, Generation
from prism.supervision.lifecycle import FIRST, OVER, SERVING, TRANSITIONS, State
from prism.wire.events import GoAway, LogRecord, Note

GOOD = HealthCheckResponse(status=HealthStatus.HEALTHY)
SO_SO = HealthCheckResponse(status=HealthStatus.DEGRADED, message="so so")
SICK = HealthCheckResponse(status=HealthStatus.UNHEALTHY, message="sick")
HEALTH = {"interval_seconds": 10, "timeout_seconds": 5, "failure_threshold": 2}


async def no_credentials():
    return {}


@pytest.fixture
def begin(make_spec, monkeypatch):
    """Make a generation whose plugin is scripted; ``left`` gets its state as it leaves."""

    def make(connector=None, *, credentials=no_credentials, delay=0.0, **plugin):
        connector = connector or ScriptedConnector()
        monkeypatch.setattr("prism.supervision.generation.Connector", connector.bind)
        spec = make_spec(health=HEALTH, drain_timeout_seconds=5, **plugin)
        spec = replace(spec, credentials=credentials)
        generation = Generation(
            spec,
            1,
            Journal("ns", EventFeed()),
            delay=delay,
            on_leaving=lambda one: make.left.append((one.lifecycle.state, one.end_reason)),
        )
        return generation, connector

    make.left = []
    return make


def states(generation):
    return [event.state for event in generation._journal.events.recent()]


UP = [State.STARTING, State.INITIALIZING, State.READY]
DOWN = [State.DRAINING, State.STOPPING, State.STOPPED]


async def test_from_its_start_to_its_end(begin, autojump_clock):
    generation, connector = begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation.run)
        assert await generation.wait_settled()
        assert (generation.instance.id, generation.version) == ("ns/1", "1.0")
        assert (generation.served, generation.in_flight, generation.over) == (0.0, 0, False)
        await trio.sleep(7)
        assert generation.served == 7
        generation.retire("enough", replaced=True)
        generation.retire("again")
    assert states(generation) == UP + DOWN
    assert begin.left == [(State.DRAINING, "enough")]
    assert connector.said == ["initialize", "go_away", "shutdown: replaced", "closed"]
    assert (generation.over, generation.failure) == (True, None)
    assert str(generation.error) == "enough"
    assert generation.served == 7


async def test_it_waits_before_it_starts_after_a_failure(begin, autojump_clock):
    generation, _ = begin(delay=3.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation.run)
        await generation.wait_settled()
        assert trio.current_time() == 3
        generation.retire("enough")
    assert states(generation)[:2] == [State.BACKING_OFF, State.STARTING]


# -- what ends its service --------------------------------------------------------------


async def test_a_channel_that_breaks_ends_it_in_the_same_moment(begin, autojump_clock):
    """It gets no calls before its process has ended, which is known only then to be failed."""
    connector = ScriptedConnector(explanation="its process exited with status 3", closing=2.0)
    generation, _ = begin(connector)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation.run)
        await generation.wait_settled()
        connector.channel.end(ChannelBroken("it closed the connection"))
        await generation.wait_leaving()
        assert trio.current_time() == 0
        assert begin.left == [(State.STOPPING, "it closed the connection")]
        assert (generation.serving, generation.over) == (False, False)
        await generation.wait_ended()
        assert trio.current_time() == 2
    assert states(generation) == [*UP, State.STOPPING, State.FAILED]
    assert str(generation.failure) == "it closed the connection; its process exited with status 3"
    assert generation.failure.crashed


async def test_its_goaway_retires_it_and_what_follows_is_its_end(begin, autojump_clock):
    """A plugin that says that it stops, and then closes, has not failed, busy or idle."""
    generation, connector = begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation.run)
        await generation.wait_settled()
        connector.on_goaway(GoAway(0, "SIGTERM"))
        assert begin.left == [(State.DRAINING, "it said that it stops")]
        connector.channel.end(ChannelBroken("it closed the connection"))
    assert states(generation) == UP + DOWN
    assert generation.failure is None


async def test_a_connection_that_ended_as_a_matter_of_routine_is_no_failure(begin, autojump_clock):
    generation, connector = begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation.run)
        await generation.wait_settled()
        connector.channel.end(ChannelAged("the connection was closed with 1001"))
        await generation.wait_leaving()
        assert begin.left == [(State.DRAINING, "the connection was closed with 1001")]
    assert states(generation) == UP + DOWN
    assert generation.failure is None
    assert generation.routine


@pytest.mark.parametrize("failed", [False, True])
async def test_a_goaway_that_names_an_error_is_no_routine(begin, autojump_clock, failed):
    generation, connector = begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation.run)
        await generation.wait_settled()
        connector.on_goaway(GoAway(0, "ENHANCE_YOUR_CALM", failed))
    assert generation.routine is not failed


async def test_failed_health_checks_retire_it(begin, autojump_clock):
    generation, connector = begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation.run)
        await generation.wait_settled()
        connector.channel.health = SICK
    assert begin.left == [(State.DRAINING, "2 health checks in a row failed: sick")]
    assert states(generation) == UP + DOWN
    assert generation.instance.health is SICK


async def test_checks_that_fail_with_the_channel_are_not_the_reason(begin, autojump_clock):
    generation, connector = begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation.run)
        await generation.wait_settled()
        connector.channel.health = PluginCrashed("gone")
        await trio.sleep(15)
        connector.channel.end_at_check = ChannelBroken("it closed the connection")
    assert begin.left == [(State.STOPPING, "it closed the connection")]
    assert states(generation)[-1] is State.FAILED


# -- what it says meanwhile -------------------------------------------------------------


async def test_its_health_and_metrics_are_kept_from_checks_and_notes(begin, autojump_clock):
    generation, connector = begin()
    metrics = PluginMetrics(requests_total=3)
    connector.on_note(Note(logs=[LogRecord("early")], metrics=metrics, health=GOOD))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation.run)
        await generation.wait_settled()
        instance = generation.instance
        assert (instance.health, instance.metrics) == (GOOD, None)
        connector.on_note(Note(metrics=metrics, health=SO_SO))
        assert generation.lifecycle.state is State.DEGRADED
        assert (instance.health, instance.metrics) == (SO_SO, metrics)
        connector.on_note(Note(health=GOOD))
        assert generation.lifecycle.state is State.READY
        checks = connector.channel.checks
        await trio.testing.wait_all_tasks_blocked()
        connector.on_note(Note(health=SICK))
        assert (generation.lifecycle.state, instance.health) == (State.READY, SICK)
        await trio.testing.wait_all_tasks_blocked()
        assert connector.channel.checks == checks + 1, "it is asked at once whether that is so"
        generation.retire("enough")
        connector.on_note(Note(health=SO_SO))
    assert generation._journal.lines.recent()[0].text == "early"


async def test_health_that_it_pushes_before_the_first_check_does_not_settle_it(
    begin, autojump_clock
):
    connector = ScriptedConnector(health=SICK)
    generation, _ = begin(connector, start_timeout_seconds=30)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation.run)
        await eventually(lambda: generation.lifecycle.state is State.INITIALIZING)
        await trio.testing.wait_all_tasks_blocked()
        connector.on_note(Note(health=GOOD))
        assert generation.lifecycle.state is State.INITIALIZING
        connector.channel.health = GOOD
        assert await generation.wait_settled()
        generation.retire("enough")


# -- starts that fail -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connector", "message", "crashed"),
    [
        (ScriptedConnector(refuses=LaunchError("no such program")), "no such program", False),
        (ScriptedConnector(refuses=ChannelBroken("no HELLO")), "no HELLO", True),
        (ScriptedConnector(health=SICK), "not healthy within 3 seconds: sick", False),
        (ScriptedConnector(refuses=ZeroDivisionError()), "internal error; the proxy's log", False),
    ],
)
async def test_why_it_could_not_start(begin, autojump_clock, caplog, connector, message, crashed):
    generation, _ = begin(connector, start_timeout_seconds=3)
    await generation.run()
    assert states(generation)[-1] is State.FAILED
    assert not await generation.wait_settled()
    assert message in str(generation.error)
    assert generation.error.crashed == crashed
    assert begin.left == []
    assert ("bug while running" in caplog.text) == ("internal" in message)


async def test_a_secret_that_is_missing_is_no_crash(begin, autojump_clock):
    async def missing():
        raise ConfigError(["no secret 'db'"])

    generation, _ = begin(credentials=missing)
    await generation.run()
    assert generation.credentials is None
    assert not generation.error.crashed
    assert str(generation.error) == "no secret 'db'; it starts as soon as that can be read"


@pytest.mark.parametrize("when", ["before it runs", "as it waits", "as it starts", "as it is sick"])
async def test_one_that_is_retired_before_it_serves_ends_at_once(begin, autojump_clock, when):
    connector = ScriptedConnector(
        opening=trio.sleep_forever if when == "as it starts" else trio.lowlevel.checkpoint,
        health=SICK if when == "as it is sick" else GOOD,
    )
    generation, _ = begin(connector, delay=1000.0 if when == "as it waits" else 0.0)
    async with trio.open_nursery() as nursery:
        if when == "before it runs":
            generation.retire("not needed")
        nursery.start_soon(generation.run)
        await trio.testing.wait_all_tasks_blocked()
        generation.retire("not needed")
        assert not await generation.wait_settled()
    assert trio.current_time() == 0
    assert states(generation)[-2:] == [State.STOPPING, State.STOPPED]
    assert str(generation.error) == "not needed"
    assert begin.left == []


# -- its end ----------------------------------------------------------------------------


async def test_calls_that_do_not_end_are_told_and_one_that_still_does_not_is_left(
    begin, autojump_clock, caplog
):
    generation, connector = begin(kill_timeout_seconds=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation.run)
        await generation.wait_settled()
        generation.instance.acquire()
        generation.retire("enough")
    assert trio.current_time() == 5 + CANCEL_GRACE
    assert generation.seconds({State.DRAINING}, {State.STOPPING}) == 5 + CANCEL_GRACE
    assert generation.in_flight == 1
    (error,) = connector.channel.given_up
    assert isinstance(error, Draining)
    assert "1 calls did not end within 5 s" in caplog.text


@pytest.mark.parametrize("how", ["hangs", "fails", "is not clean"])
async def test_a_shutdown_that_goes_wrong_ends_all_the_same(begin, autojump_clock, caplog, how):
    generation, connector = begin(kill_timeout_seconds=1)
    connector.shuts_down = how
    with caplog.at_level(logging.DEBUG):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(generation.run)
            await generation.wait_settled()
            generation.retire("enough")
    assert trio.current_time() == (3 if how == "hangs" else 0)
    assert states(generation) == UP + DOWN
    said = {"hangs": "did not answer Shutdown", "fails": "could not be told to shut down"}
    assert said.get(how, "did not shut down cleanly: a reason") in caplog.text


async def test_errors_of_a_connection_that_ends_anyway_are_nobody_s_failure(begin, autojump_clock):
    connector = ScriptedConnector(closes_with=ChannelBroken("torn"))
    generation, _ = begin(connector)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation.run)
        await generation.wait_settled()
        generation.retire("enough")
    assert states(generation)[-1] is State.STOPPED


async def test_cancelled_as_a_whole_it_still_ends_in_its_own_order(begin, autojump_clock):
    generation, connector = begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(generation.run)
        await generation.wait_settled()
        nursery.cancel_scope.cancel()
    assert states(generation) == UP + DOWN
    assert connector.said[-1] == "closed"
    assert begin.left == [(State.DRAINING, "it ended")]


EVENTS = ["retire", "replace", "goaway", "break", "sick", "degraded", "wait", "step"]


@given(st.lists(st.sampled_from(EVENTS), max_size=12), st.sampled_from([0.0, 3.0]))
def test_whatever_happens_it_leaves_once_and_ends(events, delay):
    left = []

    async def main():
        connector = ScriptedConnector()
        generation = connector.generation(left.append, delay=delay)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(generation.run)
            for event in events:
                match event:
                    case "retire":
                        generation.retire("enough")
                    case "replace":
                        generation.retire("replaced", replaced=True)
                    case "goaway":
                        connector.on_goaway(GoAway(0, ""))
                    case "break" if connector.channel is not None:
                        connector.channel.end(ChannelBroken("gone"))
                    case "sick" if connector.channel is not None:
                        connector.channel.health = SICK
                    case "degraded":
                        connector.on_note(Note(health=SO_SO))
                    case "wait":
                        await trio.sleep(4)
                    case _:
                        await trio.lowlevel.checkpoint()
                assert generation.serving == (generation.lifecycle.state in SERVING)
            generation.retire("the test is over")
        walked = states(generation)
        assert walked[0] in FIRST
        assert walked[-1] in OVER
        for before, after in pairwise(walked):
            assert after in TRANSITIONS[before].values()
        assert len(left) == bool(SERVING & set(walked))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
