import msgspec
import pytest
from msgspec.structs import replace

from prism.config.plugin_types import HttpGrant, WasmConfig, WasmGrants
from prism.config.types import ClientTLS, Launch, PluginConfig, PluginForm
from prism.hosts.wasm.http import Origin
from prism.hosts.wasm.plugin import Settings


@pytest.mark.parametrize(
    ("plugin", "form"),
    [
        (PluginConfig(), PluginForm.CATALOGUE),
        (PluginConfig(name="a"), PluginForm.CATALOGUE),
        (PluginConfig(type="in_process", module="a:B"), PluginForm.MODULE),
        (PluginConfig(type="in_process", library="a.so"), PluginForm.LIBRARY),
        (PluginConfig(type="wasm", file="a.wasm"), PluginForm.WASM),
        (PluginConfig(type="sidecar", command="a"), PluginForm.COMMAND),
        (PluginConfig(type="sidecar", socket="a"), PluginForm.SOCKET),
        (PluginConfig(type="grpc", endpoint="a:1"), PluginForm.ENDPOINT),
    ],
)
def test_the_form_follows_from_the_keys(plugin: PluginConfig, form: PluginForm) -> None:
    assert plugin.form is form
    assert plugin.shares_process == (form is PluginForm.MODULE)


def test_a_library_has_a_process_of_its_own_unless_that_is_not_wanted() -> None:
    library = PluginConfig(type="in_process", library="a.so")
    assert not library.shares_process
    assert replace(library, isolation="none").shares_process


def test_a_command_line_is_split_as_a_shell_would() -> None:
    assert Launch(command="python3 'my plugin.py' -v").argv == ["python3", "my plugin.py", "-v"]
    assert Launch(command=["python3", "my plugin.py"]).argv == ["python3", "my plugin.py"]
    assert Launch().argv == []


def test_the_socket_is_private_unless_a_group_is_named() -> None:
    assert PluginConfig(socket="s").socket_mode == 0o600
    assert PluginConfig(socket="s", group="kafka").socket_mode == 0o660
    assert PluginConfig(socket="s", group="kafka", mode="0600").socket_mode == 0o600


def test_an_endpoint_is_split() -> None:
    assert Launch(endpoint="[::1]:20100").address == ("::1", 20100)


@pytest.mark.parametrize(
    ("launch", "url"),
    [
        (Launch(endpoint="wss://a/b?c"), "wss://a/b?c"),
        (Launch(endpoint="a:1"), "ws://a:1/"),
        (Launch(endpoint="a:1", tls=ClientTLS(enabled=False)), "ws://a:1/"),
        (Launch(endpoint="a:1", tls=ClientTLS()), "wss://a:1/"),
    ],
)
def test_an_endpoint_as_a_url(launch: Launch, url: str) -> None:
    assert launch.websocket_url == url


def test_the_settings_of_webassembly_are_those_that_its_host_knows() -> None:
    grants = WasmGrants(
        log=True,
        http=["https://a.example", HttpGrant(origin="http://b", networks=["10.0.0.0/8"])],
    )
    settings = WasmConfig(instances=3, grants=grants).settings()
    known = msgspec.json.decode(settings, type=Settings)
    assert known.instances == 3
    assert known.grants.http == [
        Origin("https://a.example"),
        Origin("http://b", networks=["10.0.0.0/8"]),
    ]
    assert msgspec.json.decode(WasmConfig().settings(), type=Settings) == Settings()
