"""The monitor alone, on a mock clock that may jump."""

import pytest
import trio
import trio.testing

from prism.config.types import HealthConfig
from prism.contract.errors import ChannelClosed, Overloaded, PluginCrashed
from prism.contract.messages import HealthCheckResponse, HealthStatus
from prism.streams.errors import LaunchError
from prism.supervision.health import HealthMonitor

CONFIG = HealthConfig(interval_seconds=10, timeout_seconds=5, failure_threshold=3)
HEALTHY = HealthCheckResponse(status=HealthStatus.HEALTHY)
DEGRADED = HealthCheckResponse(status=HealthStatus.DEGRADED)


class Checked:
    """A channel whose health checks are answered by the script, its last entry for ever."""

    ended = None

    def __init__(self, *script):
        self.script = list(script)
        self.asked = []

    async def health_check(self, request):
        self.asked.append(trio.current_time())
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if answer == "hang":
            await trio.sleep_forever()
        if isinstance(answer, Exception):
            raise answer
        return answer


async def until_unhealthy(channel, config=CONFIG):
    answers = []
    monitor = HealthMonitor(channel, config, answers.append)
    return await monitor.wait_unhealthy(), answers


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (HealthCheckResponse(), "3 health checks in a row failed: "),  # no status
        (HealthCheckResponse(message="sick"), "failed: sick"),
        (PluginCrashed("gone"), "failed: gone"),
        ("hang", "failed: no answer within 5 seconds"),
    ],
)
async def test_failures_in_a_row_count(autojump_clock, failure, reason):
    channel = Checked(failure, failure, HEALTHY, failure, DEGRADED, failure)
    said, answers = await until_unhealthy(channel)
    assert reason in said
    assert len(channel.asked) == len(answers) == 8


async def test_being_busy_is_not_being_ill(autojump_clock):
    busy, failure = Overloaded("it takes no more calls now"), HealthCheckResponse(message="sick")
    channel = Checked(busy, failure, busy, busy, failure, *[busy] * 9, failure)
    said, answers = await until_unhealthy(channel)
    assert said == "3 health checks in a row failed: sick"
    assert len(answers) == 3
    assert len(channel.asked) == 15


async def test_checks_come_at_the_interval(autojump_clock):
    channel = Checked(HEALTHY, HealthCheckResponse())
    await until_unhealthy(channel)
    assert channel.asked == [10, 20, 30, 40]


async def test_a_plugin_that_says_that_it_is_ill_is_asked_at_once(autojump_clock):
    channel = Checked(HealthCheckResponse())
    monitor = HealthMonitor(channel, CONFIG, lambda _answer: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.wait_unhealthy)
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            monitor.ask_now()
    assert trio.current_time() == 0


@pytest.mark.parametrize("where", ["between two checks", "in a check"])
async def test_after_a_jump_of_the_clock_failures_must_be_fresh(mock_clock, where):
    """A suspended machine: whatever seems late may only be unheard."""
    channel = Checked(HealthCheckResponse(), HealthCheckResponse(), "hang")
    ended = []

    async def watch():
        ended.append(await until_unhealthy(channel))

    async def pass_time(seconds):
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(seconds)
        await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await pass_time(10)
        await pass_time(10)  # two of three have failed
        if where == "in a check":
            await pass_time(10)
        await pass_time(3600)
        jumped_at = trio.current_time()
        while not ended:
            await pass_time(1)
    assert sum(asked > jumped_at for asked in channel.asked) == CONFIG.failure_threshold


async def test_the_first_health_may_take_its_time_and_no_more(autojump_clock):
    monitor = HealthMonitor(Checked(HealthCheckResponse(), DEGRADED), CONFIG, lambda _: None)
    await monitor.wait_serviceable(3)
    monitor = HealthMonitor(Checked(HealthCheckResponse(message="cold")), CONFIG, lambda _: None)
    with pytest.raises(LaunchError, match="not healthy within 3 seconds: cold"):
        await monitor.wait_serviceable(3)


async def test_a_channel_that_ended_is_not_waited_for(autojump_clock):
    channel = Checked(PluginCrashed("gone"))
    channel.ended = ChannelClosed("gone")
    with pytest.raises(LaunchError, match="gone"):
        await HealthMonitor(channel, CONFIG, lambda _: None).wait_serviceable(1000)
    assert trio.current_time() == 0
