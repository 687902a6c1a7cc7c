from pathlib import Path

import pytest

from prism.contract.status import StatusCode
from prism.sdk import PluginError
from prism.sdk.testing import run_plugin
from prism_plugins.kafka import Config, KafkaPlugin
from prism_plugins.kafka.config import TLS, client_settings

GOOD = {"brokers": ["127.0.0.1:1"], "topic_prefix": "a_"}


@pytest.mark.parametrize(
    ("config", "credentials", "words"),
    [
        ({"topic_prefix": ""}, {}, "`brokers`"),
        ({"brokers": ["k:9092"]}, {}, "`topic_prefix`"),
        ({**GOOD, "brokers": []}, {}, "brokers"),
        ({**GOOD, "brokers": ["kafka://k:9092"]}, {}, "brokers"),
        ({**GOOD, "brokers": ["user:secret@k:9092"]}, {}, "brokers"),
        ({**GOOD, "brokers": ["k:9092,l:9092"]}, {}, "each broker is an item"),
        ({**GOOD, "brokers": ["k:9O92"]}, {}, r'brokers\[0\]: .*found "k:9O92"; the port is a num'),
        ({**GOOD, "brokers": ["k:0"]}, {}, "the port is a number from 1 to 65535"),
        ({**GOOD, "brokers": ["k:65536"]}, {}, "the port is a number from 1 to 65535"),
        ({**GOOD, "brokers": ["k:"]}, {}, "the port is a number from 1 to 65535"),
        ({**GOOD, "brokers": ["http://k:9092"]}, {}, 'without a scheme, .*; write "k:9092"'),
        ({**GOOD, "brokers": ["[localhost]"]}, {}, "only an IPv6 address stands in brackets"),
        ({**GOOD, "brokers": ["[1.2.3.4]:1"]}, {}, "only an IPv6 address stands in brackets"),
        ({**GOOD, "brokers": ["[::1"]}, {}, "an IPv6 address is written"),
        ({**GOOD, "brokers": ["::1"]}, {}, "the port is a number"),
        ({**GOOD, "brokers": [""]}, {}, "a host is a name or an IP address"),
        ({**GOOD, "brokers": [":9092"]}, {}, "a host is a name or an IP address"),
        ({**GOOD, "brokers": ["a b:9092"]}, {}, "a host is a name or an IP address"),
        ({**GOOD, "brokers": ["k/x:9092"]}, {}, "a host is a name or an IP address"),
        ({**GOOD, "brokers": ["good", "-k:1", "k:x"]}, {}, r"brokers\[1\].*; config.brokers\[2\]"),
        ({**GOOD, "topic_prefix": "a/"}, {}, 'digits, dots, underscores and hyphens .*"a/"'),
        ({**GOOD, "topic_prefix": "a" * 201}, {}, "201 characters; 200 leave room"),
        ({**GOOD, "topic_prefx": "a"}, {}, "topic_prefx"),
        ({**GOOD, "sasl_password": "x"}, {}, "sasl_password"),
        ({**GOOD, "session_timeout_seconds": 301}, {}, "session_timeout_seconds"),
        (GOOD, {"user": "Jane Doe"}, "credentials.user: unknown credential; did you mean"),
        (GOOD, {"username": "Jane Doe"}, "'password' is missing"),
        (GOOD, {"password": "s3cret"}, "'username' is missing"),
        (
            {**GOOD, "sasl_mechanism": "PLAIN"},
            {"username": "Jane Doe", "password": "s3cret"},
            "set tls",
        ),
        ({**GOOD, "tls": {"cert": "c.pem"}}, {}, "tls: cert and key go together"),
        ({**GOOD, "tls": {"cert": "c.pem", "key": "k.pem"}}, {}, r"tls: c\.pem: No such file"),
    ],
)
async def test_what_is_refused(config: dict, credentials: dict, words: str) -> None:
    with pytest.raises(PluginError, match=words) as caught:
        async with run_plugin(KafkaPlugin, config=config, credentials=credentials):
            pass
    assert caught.value.status is StatusCode.INVALID_ARGUMENT
    assert "secret" not in caught.value.detail


def test_files_that_any_user_may_change_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {name: tmp_path / f"{name}.pem" for name in ("ca_cert", "cert", "key")}
    for file in files.values():
        file.touch(0o600)
    tls = TLS(**{name: str(file) for name, file in files.items()})
    config = Config(brokers=["h"], topic_prefix="", tls=tls)
    for file in files.values():
        file.chmod(0o602)
        with pytest.raises(PluginError, match=f"tls: {file}: any user may change it"):
            client_settings(config, {})
        file.chmod(0o600)
    client_settings(config, {})
    assert not caplog.records
    files["key"].chmod(0o644)
    client_settings(config, {})
    assert "any user may read the private key" in caplog.text


@pytest.mark.parametrize(
    "broker", ["k", "k:1", "kafka-1.example.com:9092", "10.0.0.1", "[::1]:9092", "[fe80::1]", "a_b"]
)
def test_brokers_that_are_taken(broker: str) -> None:
    assert list(Config(brokers=[broker], topic_prefix="").problems({})) == []
