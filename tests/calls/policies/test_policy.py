"""Every policy: when it is in the list, what of it stays, that a call leaves what it entered."""

from collections import Counter

import msgspec
import pytest

from prism.calls import policies
from prism.calls.policies import POLICIES
from prism.calls.policies.policy import Measure, Policy
from prism.observability.collectors import policy_metrics

INSIDE = Measure("prism_test_inside", "gauge", "Calls inside", ("operation",))


class Counting(Policy):
    """In the list while the description says so; counts who is inside."""

    name = "counting"
    measures = (INSIDE,)

    @classmethod
    def applies(cls, namespace):
        return namespace.config.description == "counted"

    def __init__(self, namespace):
        self.inside = Counter()
        self.configured = 0
        super().__init__(namespace)

    def configure(self):
        self.configured += 1

    def state(self):
        return {"inside": self.inside.total()}

    def measure(self):
        for operation, number in self.inside.items():
            yield INSIDE, (operation,), number

    def enter(self, call):
        self.inside[call.operation] += 1

    def leave(self, call):
        self.inside[call.operation] -= 1


@pytest.fixture
def counted(make_namespace, monkeypatch):
    """A namespace, whose ``describe`` sets its description, and which may have the policy."""
    monkeypatch.setattr(policies, "POLICIES", (*POLICIES, Counting))
    monkeypatch.setattr("prism.observability.collectors.POLICIES", (*POLICIES, Counting))
    return make_namespace()


def describe(namespace, description):
    namespace.update(msgspec.structs.replace(namespace.config, description=description))
    return next((one for one in namespace.policies if isinstance(one, Counting)), None)


def test_it_is_in_the_list_while_it_applies_and_keeps_what_it_knows(counted):
    before = counted.policies
    policy = describe(counted, "counted")
    policy.inside["get"] = 7
    assert describe(counted, "counted") is policy
    assert (policy.configured, policy.inside["get"]) == (2, 7)
    assert describe(counted, "") is None
    assert counted.policies == before  # the same ones
    assert describe(counted, "counted").inside["get"] == 0


async def test_a_call_leaves_what_it_entered_whatever_the_list_is_by_then(counted, make_call):
    policy = describe(counted, "counted")
    late = make_call(counted, "get", body=None)
    late.proceed()  # waits for its body; the policy comes after that
    describe(counted, "")
    early = make_call(counted, "get", body=None)
    early.proceed()
    again = describe(counted, "counted")
    late.deliver(b"{}")
    early.deliver(b"{}")
    assert await late.outcome()
    assert await early.outcome()
    assert policy.inside == Counter(get=0)  # ``late`` was in it, and left it
    assert not again.inside  # ``early`` came when there was none


def test_its_state_is_measured(counted):
    describe(counted, "counted").inside.update(get=2, set=1)
    (family,) = [each for each in policy_metrics([counted]) if each.name == INSIDE.name]
    assert {
        (sample.labels["namespace"], sample.labels["operation"], sample.value)
        for sample in family.samples
    } == {("kv", "get", 2), ("kv", "set", 1)}
