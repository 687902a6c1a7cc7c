import msgspec
import pytest

from prism.config.types import Config, Launch, NamespaceConfig, PluginConfig, PluginForm


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
    assert (config.admin.address, config.admin.port) == ("127.0.0.1", 50052)
    assert config.drain_timeout_seconds == 30
    assert not config.insecure
    namespace = NamespaceConfig(name="a", backend="sqlite")
    assert namespace.limits.max_payload_bytes == 1024 * 1024
    assert namespace.limits.max_in_flight == 1024
    assert (namespace.limits.timeout_seconds, namespace.limits.max_timeout_seconds) == (30, 300)
    assert namespace.plugin.max_frame_bytes == 16 * 1024 * 1024
    assert namespace.plugin.health.failure_threshold == 3


@pytest.mark.parametrize("name", ["a", "7", "user-profiles", "a" * 63])
def test_a_good_name(name: str) -> None:
    assert msgspec.convert({"name": name, "backend": "b"}, NamespaceConfig).name == name


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a.b", "a/b", "a" * 64, "a\n", "ä"])
def test_a_bad_name(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": name, "backend": "b"}, NamespaceConfig)


@pytest.mark.parametrize(
    ("plugin", "form"),
    [
        (PluginConfig(), PluginForm.CATALOGUE),
        (PluginConfig(name="a"), PluginForm.CATALOGUE),
        (PluginConfig(type="in_process", module="a:B"), PluginForm.MODULE),
        (PluginConfig(type="in_process", library="a.so"), PluginForm.LIBRARY),
        (PluginConfig(type="sidecar", command="a"), PluginForm.COMMAND),
        (PluginConfig(type="sidecar", socket="a"), PluginForm.SOCKET),
        (PluginConfig(type="grpc", endpoint="a:1"), PluginForm.ENDPOINT),
    ],
)
def test_the_form_follows_from_the_keys(plugin: PluginConfig, form: PluginForm) -> None:
    assert plugin.form is form
    assert (plugin.unsupported is not None) == (form is PluginForm.LIBRARY)


def test_a_command_line_is_split_as_a_shell_would() -> None:
    assert Launch(command="python3 'my plugin.py' -v").argv == ["python3", "my plugin.py", "-v"]
    assert Launch(command=["python3", "my plugin.py"]).argv == ["python3", "my plugin.py"]
    assert Launch().argv == []


def test_the_socket_is_private_unless_a_group_is_named() -> None:
    assert PluginConfig(socket="s").socket_mode == 0o600
    assert PluginConfig(socket="s", group="kafka").socket_mode == 0o660
    assert PluginConfig(socket="s", group="kafka", mode="0600").socket_mode == 0o600


def test_an_endpoint_is_split() -> None:
    assert Launch(endpoint="[::1]:50100").address == ("::1", 50100)
