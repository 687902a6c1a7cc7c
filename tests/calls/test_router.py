import pytest

from prism.calls.namespace import Namespace
from prism.calls.router import Router
from prism.config.types import NamespaceConfig, NamespaceLimits
from prism.contract.errors import UnknownNamespace
from prism.supervision.slot import Slot


def test_lookup_and_listing(make_namespace):
    first, second = make_namespace(name="b"), make_namespace(name="a")
    router = Router([first, second])
    assert router.find("b") is first
    assert router.namespaces() == [second, first]
    for name in ("", "B", "c", "a "):
        with pytest.raises(UnknownNamespace):
            router.find(name)


def test_replacing_and_removing(make_namespace):
    router = Router([make_namespace()])
    other = make_namespace()
    router.add(other)
    assert router.find("kv") is other
    router.remove("kv", "it was removed")
    with pytest.raises(UnknownNamespace):
        router.find("kv")


def test_it_is_ready_without_those_that_are_not_required():
    config = NamespaceConfig(name="kv", backend="memory", required=False)
    optional = Namespace.from_config(config, Slot("kv"))
    router = Router([optional])
    assert router.is_ready
    optional.update(NamespaceConfig(name="kv", backend="memory"))
    assert not router.is_ready


def test_namespace_from_configuration():
    limits = NamespaceLimits(timeout_seconds=5, max_timeout_seconds=10)
    config = NamespaceConfig(name="kv", backend="memory", description="d", limits=limits)
    namespace = Namespace.from_config(config, Slot("kv"))
    assert (namespace.name, namespace.config, namespace.limits) == ("kv", config, limits)
    assert namespace.deadline(100, None) == 105
    assert namespace.deadline(100, 7) == 107
    assert namespace.deadline(100, 11) == 110
