import ast
from pathlib import Path

import pytest

import prism_plugins.kafka
from prism.contract.status import StatusCode
from prism.sdk import PluginError
from prism.sdk.testing import run_plugin
from prism_plugins.kafka import KafkaPlugin

GOOD = {"brokers": ["127.0.0.1:1"], "topic_prefix": "a_"}


@pytest.mark.parametrize(
    ("config", "credentials", "words"),
    [
        ({"topic_prefix": ""}, {}, "`brokers`"),
        ({"brokers": ["k:9092"]}, {}, "`topic_prefix`"),
        ({**GOOD, "brokers": []}, {}, "brokers"),
        ({**GOOD, "brokers": ["kafka://k:9092"]}, {}, "brokers"),
        ({**GOOD, "brokers": ["user:secret@k:9092"]}, {}, "brokers"),
        ({**GOOD, "brokers": ["k:9092,l:9092"]}, {}, "brokers"),
        ({**GOOD, "topic_prefix": "a/"}, {}, "topic_prefix"),
        ({**GOOD, "topic_prefx": "a"}, {}, "topic_prefx"),
        ({**GOOD, "sasl_password": "x"}, {}, "sasl_password"),
        ({**GOOD, "session_timeout_seconds": 301}, {}, "session_timeout_seconds"),
        (GOOD, {"user": "Jane Doe"}, "'user' means nothing"),
        (GOOD, {"username": "Jane Doe"}, "'password' is missing"),
        (GOOD, {"password": "s3cret"}, "'username' is missing"),
        (
            {**GOOD, "sasl_mechanism": "PLAIN"},
            {"username": "Jane Doe", "password": "s3cret"},
            "set tls",
        ),
        ({**GOOD, "tls": {"cert": "c.pem"}}, {}, "cert and key"),
        ({**GOOD, "tls": {"cert": "c.pem", "key": "k.pem"}}, {}, r"tls: c\.pem: No such file"),
    ],
)
async def test_what_is_refused(config: dict, credentials: dict, words: str) -> None:
    with pytest.raises(PluginError, match=words) as caught:
        async with run_plugin(KafkaPlugin, config=config, credentials=credentials):
            pass
    assert caught.value.status is StatusCode.INVALID_ARGUMENT


def test_the_plugin_uses_the_sdk_and_nothing_else_of_prism() -> None:
    modules = set()
    for file in Path(prism_plugins.kafka.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module)
            elif isinstance(node, ast.Import):
                modules.update(alias.name for alias in node.names)
    assert {module for module in modules if module.split(".")[0] == "prism"} == {"prism.sdk"}
    assert "trio" not in modules
