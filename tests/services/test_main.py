"""What ``make services-up`` prints."""

from urllib.parse import quote

from tests.services.__main__ import shown
from tests.services.postgres import PASSWORD, USER


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
