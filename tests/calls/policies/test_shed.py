import pytest
from msgspec.structs import replace

from prism.calls.overload import HIGH, LOW, NORMAL, Overload
from prism.calls.policies.shed import Shed
from prism.calls.router import Router
from prism.config.types import SheddingConfig
from prism.contract.errors import LoadShed
from prism.observability.collectors import policy_metrics, shedding_metrics


@pytest.fixture
def overload():
    return Overload(SheddingConfig(), rand=lambda: 0.5)


@pytest.fixture
def namespaces(make_namespace, overload):
    """One of each priority, by name."""
    found = {}
    for priority in ("low", "normal", "high"):
        namespace = found[priority] = make_namespace(name=priority)
        namespace.update(replace(namespace.config, priority=priority))
    Router(found.values(), overload=overload)
    return found


def policy_of(namespace):
    return next(one for one in namespace.policies if isinstance(one, Shed))


@pytest.fixture
def passes(ask):
    async def passes(namespace, asked=HIGH):
        try:
            return bool(await ask(namespace, priority=asked))
        except LoadShed:
            return False

    return passes


async def test_the_lowest_first(namespaces, overload, passes):
    for step, expected in [(0, "low normal high"), (2, "normal high"), (4, "high"), (5, "")]:
        overload.step = step
        passed = [name for name, namespace in namespaces.items() if await passes(namespace)]
        assert " ".join(passed) == expected


async def test_a_client_may_only_lower_it(namespaces, overload, passes):
    overload.step = 2
    assert not await passes(namespaces["high"], LOW)
    assert await passes(namespaces["high"], NORMAL)
    assert not await passes(namespaces["low"], HIGH)
    overload.step = 4
    assert not await passes(namespaces["high"], NORMAL)


async def test_what_is_told(namespaces, overload, ask):
    overload.step = 2
    with pytest.raises(LoadShed) as refused:
        await ask(namespaces["low"], body=None)  # before its body is read
    assert str(refused.value) == (
        "the proxy has more to do than it can, and refuses calls of low priority"
    )
    assert refused.value.retry_after == 3
    assert refused.value.retryable
    assert namespaces["low"].in_flight == 0
    assert policy_of(namespaces["low"]).state() == {
        "priority": "low",
        "refusing": "low",
        "loop_lag_seconds": 0.0,
        "memory_bytes": 0,
        "refused": 1,
    }
    samples = {
        (sample.name, sample.labels.get("namespace"), sample.labels.get("priority")): sample.value
        for families in (policy_metrics(namespaces.values()), shedding_metrics(overload))
        for family in families
        for sample in family.samples
    }
    assert samples[("prism_shedding_refused_total", "low", "low")] == 1
    assert samples[("prism_shedding_refused_total", "high", "low")] == 0
    assert samples[("prism_shedding_step", None, None)] == 2


async def test_it_is_there_where_it_is_configured(make_namespace):
    namespace = make_namespace()
    router = Router([namespace])
    assert not any(isinstance(one, Shed) for one in namespace.policies)
    assert not list(shedding_metrics(router.overload))
    router.overload.configure(SheddingConfig())
    namespace.update(namespace.config)
    assert isinstance(namespace.policies[1], Shed)
