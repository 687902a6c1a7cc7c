import re
from pathlib import Path

from prism.app import Ready
from prism.cli.serve import demo_config, greeting
from prism.contract.config import Config, NamespaceConfig
from prism.frontends.server import Address

READY = Ready([Address("http", "127.0.0.1", 1234)], [Address("http", "127.0.0.1", 1235)])


def test_the_demo_is_one_namespace_in_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (demo,) = demo_config().namespaces
    assert (demo.name, demo.backend) == ("demo", "sqlite")
    assert Path(demo.config["path"]) == tmp_path / "prism.db"


def test_the_greeting_of_the_demo_says_what_to_try(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = greeting(demo_config(), READY, demo=True)
    first, second, *_ = text.splitlines()
    assert first == "Prism serves 1 namespace on http://127.0.0.1:1234"
    assert second == "Metrics and health on http://127.0.0.1:1235/metrics, /readyz"
    commands = re.findall(r"^  curl .+ http://127\.0\.0\.1:1234/v1/demo/(\w+)$", text, re.MULTILINE)
    assert commands == ["set", "get"]


def test_the_greeting_without_an_admin_port():
    namespaces = [NamespaceConfig(name=name, backend="sqlite") for name in ("a", "b")]
    config = Config(namespaces=namespaces)
    text = greeting(config, Ready(READY.data, []), demo=False)
    assert text == "Prism serves 2 namespaces on http://127.0.0.1:1234"
