import msgspec
import pytest

from prism.config.types import Config, NamespaceConfig


def structs_below(kind: msgspec.inspect.Type) -> list[msgspec.inspect.StructType]:
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            return structs_below(inner)
        case msgspec.inspect.UnionType(types=members):
            return [found for member in members for found in structs_below(member)]
        case msgspec.inspect.ListType(item_type=inner) | msgspec.inspect.DictType(value_type=inner):
            return structs_below(inner)
        case msgspec.inspect.StructType(fields=fields):
            return [kind, *(found for field in fields for found in structs_below(field.type))]
        case _:
            return []


ALL_BLOCKS = {block.cls: block for block in structs_below(msgspec.inspect.type_info(Config))}


@pytest.mark.parametrize("block", ALL_BLOCKS.values(), ids=lambda block: block.cls.__name__)
def test_every_block_is_closed_frozen_and_described(block: msgspec.inspect.StructType) -> None:
    assert block.forbid_unknown_fields
    assert block.cls.__struct_config__.frozen
    assert block.cls.__doc__
    for field in block.fields:
        assert isinstance(field.type, msgspec.inspect.Metadata), field.name
        description = (field.type.extra_json_schema or {}).get("description", "")
        assert description.endswith("."), field.name
        assert "|" not in description, "it would break the reference page's table"


def test_an_empty_configuration_has_the_documented_defaults() -> None:
    config = Config()
    assert (config.listen.address, config.listen.port) == ("127.0.0.1", 50051)
    assert config.listen.server == "prism"
    assert (config.admin.address, config.admin.port) == ("127.0.0.1", 50052)
    assert config.drain_timeout_seconds == 35
    assert not config.insecure
    namespace = NamespaceConfig(name="a", backend="sqlite")
    assert namespace.limits.max_payload_bytes == 1024 * 1024
    assert namespace.limits.max_in_flight == 1024
    assert (namespace.limits.timeout_seconds, namespace.limits.max_timeout_seconds) == (30, 300)
    assert namespace.plugin.max_frame_bytes == 16 * 1024 * 1024
    assert namespace.plugin.health.failure_threshold == 3
