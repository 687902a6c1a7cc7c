"""The walk and msgspec must accept the same; what the walk says is tested in test_loading."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.config.nodes import Entry, Node
from prism.config.report import Report
from prism.config.typecheck import check_types
from prism.config.types import (
    CataloguePlugin,
    Config,
    HealthConfig,
    ListenConfig,
    NamespaceConfig,
    PluginConfig,
)

BLOCKS = [Config, NamespaceConfig, PluginConfig, CataloguePlugin, ListenConfig, HealthConfig]
KEYS = sorted({name for block in BLOCKS for name in block.__struct_fields__} | {"v1.2", "other"})

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 3, 1023, 1024, 65535, 65536, 86_400, 86_401])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["a", "a:B", "sidecar", "in_process", "0660", "json", "a\n", "", "0" * 64])
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def nodes_of(value: Any) -> Node:
    if isinstance(value, dict):
        return Node({key: Entry(Node(key), nodes_of(item)) for key, item in value.items()})
    if isinstance(value, list):
        return Node([nodes_of(item) for item in value])
    return Node(value)


def accepted_by_walk(value: Any, block: type[msgspec.Struct]) -> bool:
    report = Report("f")
    check_types(nodes_of(value), block, report)
    assert report.sound(()) == (not report.errors)
    return not report.errors


def accepted_by_msgspec(value: Any, block: type[msgspec.Struct]) -> bool:
    try:
        msgspec.convert(value, block)
    except msgspec.ValidationError:
        return False
    return True


@given(value=anything, block=st.sampled_from(BLOCKS))
def test_the_walk_agrees_with_msgspec(value: Any, block: type[msgspec.Struct]) -> None:
    assert accepted_by_walk(value, block) == accepted_by_msgspec(value, block)


@st.composite
def one_key(draw: st.DrawFn) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    """A valid block with one of its keys set to anything: half of them fit."""
    block = draw(st.sampled_from(BLOCKS))
    required = {"name": "a", "backend": "b", "type": "sidecar"}
    value = {key: required[key] for key in block.__struct_fields__ if key in required}
    key = draw(st.sampled_from(block.__struct_fields__))
    return block, {**value, key: draw(anything)}


@given(one_key())
def test_the_walk_agrees_with_msgspec_key_by_key(
    case: tuple[type[msgspec.Struct], dict[str, Any]],
) -> None:
    block, value = case
    assert accepted_by_walk(value, block) == accepted_by_msgspec(value, block)


@pytest.mark.parametrize(
    "value",
    [
        {"namespaces": [{"name": "a", "backend": "b", "config": {"deep": [{"x": None}]}}]},
        {"plugins": [{"name": "a", "type": "grpc", "versions": {"v1": {"endpoint": "a:1"}}}]},
        {"listen": {"tls": {"cert": "a", "key": "b"}}, "drain_timeout_seconds": 5},
    ],
)
def test_valid_blocks_are_accepted_by_both(value: Any) -> None:
    assert accepted_by_walk(value, Config)
    assert accepted_by_msgspec(value, Config)
