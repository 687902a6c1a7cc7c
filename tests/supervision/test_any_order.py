"""Whatever operators do, in any order and at the same time, and whatever fails meanwhile: no call
is lost, nothing is left behind, and a restart or a change of the configuration brings all back."""

import random
from dataclasses import replace as replace_spec

import pytest
import trio
from msgspec.structs import replace
from supervised_plugin import held, supervised

from prism.contract.errors import CallError
from prism.supervision.canary import Canary
from prism.supervision.replicas import Replicas

STEPS = 25
ACTIONS = ("reload", "canary", "restart", "drain", "abort", "reset", "apply", "apply", "leave")


class Operator:
    """Does what the dice say with one namespace, whose plugin starts as they say."""

    def __init__(self, seed, several, model, monkeypatch):
        self.dice = random.Random(seed)
        self.seconds = self.failing = 0.0
        self._several = several
        self.supervisor = None

        async def start(_plugin):
            await trio.sleep(self.dice.random() * self.seconds)
            if self.dice.random() < self.failing:
                raise ValueError("no luck")

        monkeypatch.setattr(model, "start", start)

    @property
    def keeper(self):
        return self.supervisor._keepers["ns"]

    def spec(self, processes, version="1"):
        spec = self._several(processes)

        def at_version(version):
            number = self.dice.choice([2, 3, 4]) if processes > 1 else 1
            return replace(spec.plugin, version=version, processes=number)

        plugin = replace(spec.plugin, version=version)
        return replace_spec(spec, plugin=plugin, at_version=at_version)

    async def act(self, action):
        supervisor, dice = self.supervisor, self.dice
        version = dice.choice([None, "1", "2"])
        receipts = []
        try:
            match action:
                case "reload":
                    receipts = [await supervisor.reload("ns", version)]
                case "canary":
                    canary = Canary(share=0.5, min_calls=1, min_seconds=0, max_seconds=2)
                    receipts = [await supervisor.reload("ns", version, canary)]
                case "restart" | "drain" | "abort":
                    receipts = [await getattr(supervisor, action)("ns")]
                case "reset":
                    supervisor.reset("ns")
                case "apply":
                    spec = self.spec(dice.choice([1, 2, 3, 4]), dice.choice(["1", "2"]))
                    receipts = (await supervisor.apply([spec])).receipts
                case "leave":
                    for generation in self.keeper.serving[:1]:
                        generation.retire("it is tired")
        except CallError:
            pass  # something else is done with it, or there is no such version
        assert not any(receipt.calls.lost for receipt in receipts)

    async def call(self):
        while True:
            await trio.sleep(0.05)
            slot = self.supervisor.slots["ns"]
            if slot.current is not None:
                with held(slot):
                    await trio.sleep(self.dice.random() / 5)

    def check(self):
        """What holds at every moment."""
        keeper, slot = self.keeper, self.supervisor.slots["ns"]
        assert keeper.slot is slot
        shares = [one.share for one in self.supervisor.status_of("ns").replicas]
        if isinstance(keeper, Replicas):
            present = slot.instances()
            assert slot.current in present or not (slot.current or present)
            assert set(keeper.balance.replicas) == set(keeper.members)
            assert len(slot.members) == len(keeper.members)
            assert sum(shares) == pytest.approx(1.0 if present else 0.0)


@pytest.mark.parametrize("seed", range(10))
async def test_nothing_is_lost_and_all_comes_back(
    several, model, autojump_clock, monkeypatch, seed
):
    operator = Operator(seed, several, model, monkeypatch)
    dice = operator.dice
    async with (
        supervised(operator.spec(dice.choice([1, 3]))) as operator.supervisor,
        trio.open_nursery() as calls,
    ):
        supervisor = operator.supervisor
        calls.start_soon(operator.call)
        async with trio.open_nursery() as actions:
            for _ in range(STEPS):
                operator.seconds, operator.failing = dice.choice([0, 0.5, 3]), dice.choice([0, 0.3])
                actions.start_soon(operator.act, dice.choice(ACTIONS))
                await trio.sleep(dice.choice([0, 0.1, 1, 5]))
                operator.check()
        operator.seconds = operator.failing = 0.0
        await trio.sleep(60)
        operator.check()
        assert operator.keeper.operation is None
        for member in operator.keeper.keepers():
            assert member.paused or member.current
            assert len(member.generations) <= 1
        receipt = await supervisor.restart("ns")
        assert (receipt.outcome, receipt.calls.lost) == ("swapped", 0)
        assert len(operator.keeper.serving) == supervisor.slots["ns"].size
        wanted = operator.spec(3, "9")
        assert (await supervisor.apply([wanted])).applied
        assert [each.spec.plugin.version for each in operator.keeper.serving] == ["9"] * 3
        assert [change.action for change in supervisor.plan([wanted])] == ["stay"]
        calls.cancel_scope.cancel()
