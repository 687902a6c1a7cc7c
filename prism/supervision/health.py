"""Watches an instance's health: asks at intervals, and counts failures in a row."""

from collections.abc import Callable

import trio

from prism.channels.channel import PluginChannel
from prism.config.types import HealthConfig
from prism.contract.errors import CallError, Overloaded
from prism.contract.messages import HealthCheckRequest, HealthCheckResponse, HealthStatus
from prism.streams.errors import LaunchError

FIRST_CHECKS = 0.2
"""Seconds between the checks of an instance that is not healthy yet."""

OnAnswer = Callable[[HealthCheckResponse], None]


class HealthMonitor:
    """Checks one instance. A reply without a status is UNHEALTHY by the contract's default.

    A check that could not be made, since the plugin takes no more calls now, says nothing:
    being busy is not being ill.

    A failure counts only if it is fresh: when the clock has jumped (the machine slept,
    the process was stopped), what seems late may only be unheard, so the count begins
    anew and the check that the jump fell into does not count.
    """

    def __init__(self, channel: PluginChannel, config: HealthConfig, on_answer: OnAnswer) -> None:
        self._channel = channel
        self._config = config
        self._on_answer = on_answer
        self._asked = trio.Event()

    def ask_now(self) -> None:
        """Do not wait for the interval: the plugin said that its health changed."""
        self._asked.set()

    async def wait_serviceable(self, limit: float) -> None:
        """Wait for the first answer that is not UNHEALTHY.

        Raises:
            LaunchError: there was none within ``limit`` seconds.
            CallError: the channel broke.
        """
        answer = HealthCheckResponse(message="it gave no answer")
        with trio.move_on_after(limit):
            while True:
                answer = await self._check() or answer
                self._on_answer(answer)
                if answer.status is not HealthStatus.UNHEALTHY or self._channel.ended:
                    break
                await trio.sleep(FIRST_CHECKS)
        if answer.status is HealthStatus.UNHEALTHY:
            raise LaunchError(f"it was not healthy within {limit:g} seconds: {answer.message}")

    async def wait_unhealthy(self) -> str:
        """Check for ever; returns the reason after too many failures in a row."""
        config = self._config
        failures = 0
        while True:
            self._asked = trio.Event()
            due = trio.current_time() + config.interval_seconds
            with trio.move_on_at(due):
                await self._asked.wait()
            began = trio.current_time()
            answer = await self._check()
            if answer is None:
                continue
            jumped = (
                began - due > config.interval_seconds
                or trio.current_time() - began > config.timeout_seconds + config.interval_seconds
            )
            if jumped:
                failures = 0
                if answer.status is HealthStatus.UNHEALTHY:
                    continue
            self._on_answer(answer)
            failures = failures + 1 if answer.status is HealthStatus.UNHEALTHY else 0
            if failures >= config.failure_threshold:
                many = f"{failures} health checks in a row" if failures > 1 else "a health check"
                return f"{many} failed: {answer.message}"

    async def _check(self) -> HealthCheckResponse | None:
        limit = self._config.timeout_seconds
        try:
            with trio.fail_after(limit):
                return await self._channel.health_check(HealthCheckRequest())
        except trio.TooSlowError:
            return HealthCheckResponse(message=f"no answer within {limit:g} seconds")
        except Overloaded:
            return None
        except CallError as error:
            return HealthCheckResponse(message=str(error))
