import pytest

from prism.config.types import ClientTLS, Launch, PluginConfig, PluginForm


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
