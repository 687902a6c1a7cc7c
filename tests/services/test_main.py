"""What ``make services-up`` prints."""

from urllib.parse import quote

from tests.services.__main__ import serve_command, shown
from tests.services.kafka import Kafka
from tests.services.postgres import PASSWORD, USER, PostgreSQL18
from tests.services.redis import Valkey


def test_credentials_are_shown_apart_as_the_plugin_takes_them() -> None:
    url = f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:5432/prism"
    assert shown({"port": 5432, "url": url}) == {
        "port": 5432,
        "url": "postgresql://127.0.0.1:5432/prism",
        "username": USER,
        "password": PASSWORD,
    }
    redis = {"port": 6379, "url": "redis://127.0.0.1:6379/0"}
    assert shown(redis) == redis
    assert shown({"port": 9092, "sasl_port": 9093}) == {"port": 9092, "sasl_port": 9093}


def test_a_demo_on_each_server_is_one_command() -> None:
    url = f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:5432/prism"
    assert serve_command(PostgreSQL18, {"port": 5432, "url": url}) == (
        f"PGPASSWORD='{PASSWORD}' prism serve --demo postgres "
        f"--server postgresql://{USER}@127.0.0.1:5432/prism"
    )
    redis = {"port": 6379, "url": "redis://127.0.0.1:6379/0"}
    assert serve_command(Valkey, redis).endswith("--demo redis --server redis://127.0.0.1:6379/0")
    kafka = {"port": 9092, "sasl_port": 9093}
    assert serve_command(Kafka, kafka) == "prism serve --demo kafka --server 127.0.0.1:9092"
