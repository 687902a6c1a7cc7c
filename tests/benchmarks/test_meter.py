"""What callers in processes of their own share."""

import os

import msgspec
import pytest
import trio

from benchmarks.callers.meter import Meter
from benchmarks.samples import PACED, RATE, Load, Sample


@pytest.mark.parametrize("load", [Load(3), PACED])
async def test_calls_are_counted_and_reported(load, capsys):
    made = 0

    async def call() -> None:
        nonlocal made
        made += 1
        await trio.lowlevel.checkpoint()

    meter = Meter(os.getpid(), 0.05)
    await meter.make_calls(load.in_flight, call)
    meter.report()
    sample = msgspec.json.decode(capsys.readouterr().out, type=Sample)
    assert sample.calls == len(meter.latencies) == made > 0
    assert all(latency > 0 for latency in meter.latencies)
    if load == PACED:
        assert made == RATE * 0.05


def test_a_fixed_rate_is_called_so():
    assert str(PACED) == "1,000 a second"
