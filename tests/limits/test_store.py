"""The task of a limits store, and the arithmetic of its script. With proxies and a real one:
tests/calls/policies/test_shared_rate_limit.py."""

from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prism.config.types import LimitsStoreConfig, SecretsConfig
from prism.limits.gcra import Rate
from prism.limits.leases import HOLD_SECONDS
from prism.limits.store import SCRIPT, LimitsStore
from tests.limits.test_leases import Model
from tests.services.redis import Redis


class Breaking(LimitsStore):
    """One whose connection breaks in the moment in which it is cancelled."""

    async def _load(self) -> Any:
        return None

    async def _use(self, *_: object) -> NoReturn:
        try:
            await trio.sleep_forever()
        finally:
            raise ConnectionError("it broke")


async def test_a_connection_that_breaks_as_the_store_is_exchanged_ends_nothing() -> None:
    store = Breaking()
    store.configure(LimitsStoreConfig(url="redis://127.0.0.1:1/0"), SecretsConfig())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        await trio.testing.wait_all_tasks_blocked()
        store.configure(None, SecretsConfig())
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


BURSTS = st.integers(1, 1000)
ASKS = st.fixed_dictionaries(
    {
        "demand": st.integers(1, 300),
        "least": st.integers(1, 30),
        "extra": st.integers(0, 250),
        "level": st.floats(0, 1200),
    }
)
AGES = st.integers(-(10**6), -(10**4)) | st.integers(0, 10**7)
KEPT = st.none() | st.tuples(st.floats(0, 1200), AGES)
"""What the store has of a key: a level, and how many microseconds ago that was."""
LIMITS = st.tuples(st.floats(0.01, 5000), BURSTS, ASKS, KEPT)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.lists(LIMITS, min_size=1, max_size=3))
def test_the_script_counts_as_the_model_of_leases_does(
    redis_server: Redis, limits: list[tuple[float, int, dict[str, Any], Any]]
) -> None:
    """What is proven of leases is proven of the model."""
    redis_server.ask("FLUSHALL")
    seconds, micros = redis_server.ask("TIME").split(b"\r\n")[2::2]
    clock = int(seconds) * 10**6 + int(micros)
    keys, arguments = ["epoch"], ["an id", "", repr(HOLD_SECONDS)]
    for number, (rate, burst, ask, kept) in enumerate(limits):
        keys.append(f"key-{number}")
        named = (ask["demand"], min(ask["least"], ask["demand"]), ask["extra"], ask["level"])
        arguments += map(repr, (rate, burst, *named))
        if kept is not None:
            redis_server.ask("SET", keys[-1], f"{kept[0]:.17g} {clock - kept[1]}")
    reply = redis_server.ask("EVAL", SCRIPT, str(len(keys)), *keys, *arguments)
    answers = reply.split(b"\r\n")[3:-1]
    for number, (per_second, burst, ask, kept) in enumerate(limits):
        granted, held, _, left = answers[4 * number : 4 * number + 4]
        level, now = redis_server.ask("GET", keys[number + 1]).split(b"\r\n")[1].split()
        model = Model(Rate(per_second, burst))
        model.level, model.at = (0.0, 0.0) if kept is None else (kept[0], 0.0)
        passed = 0.0 if kept is None else max(0, int(now) - clock + kept[1]) / 1_000_000
        asked = SimpleNamespace(**ask | {"least": min(ask["least"], ask["demand"])})
        expected = model.count(asked, passed)
        assert (int(granted[1:]), int(held[1:])) == expected[:2]
        assert float(left) == pytest.approx(expected[2], abs=1e-6)
        assert float(level) == pytest.approx(model.level, abs=1e-6)
