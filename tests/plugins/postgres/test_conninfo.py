"""Connection strings without libpq, beside what libpq itself makes of them."""

import sys

import pytest
from psycopg import pq

from prism.config import parse_config
from prism.config.errors import ConfigError
from prism_plugins.postgres.config import parameters
from prism_plugins.postgres.conninfo import KEYWORDS, parameters_without_libpq


def test_the_parameters_are_those_of_libpq() -> None:
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    assert known <= KEYWORDS


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://h/d",
        "postgres://h:5433/d?sslmode=disable&application_name=a%20b",
        "postgresql:///d?host=/run/postgresql",
        "postgresql://h1:1,h2:2,[::1]:3/d?ssl=true",
        "postgresql://",
        "postgresql://u:p%40@h/d",
        "postgresql://%2Frun%2Fx/d",
        "host=h port=5433 dbname=d",
        "host = h  dbname='a b\\'c' ",
        "user=u password='p w'",
    ],
)
def test_it_reads_as_libpq_does(text: str) -> None:
    assert parameters_without_libpq(text) == parameters(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("postgresql://h/d?sslmod=disable", 'no parameter "sslmod"; did you mean "sslmode"?'),
        ("host=h colour=red", 'no parameter "colour"'),
        ("mysql://h/d", "cannot be read"),
        ("postgresql://h:x/d", "cannot be read"),
        ("postgresql://u:p@CANARY@h/d", "cannot be read"),
        ("host=h CANARY", "cannot be read"),
        ("host='h", "cannot be read"),
        ("postgresql://[::1/d", "cannot be read"),
    ],
)
def test_it_refuses_what_libpq_refuses(text: str, said: str) -> None:
    for read in (parameters, parameters_without_libpq):
        with pytest.raises(ValueError, match=r"cannot be read|no parameter") as raised:
            read(text)
        assert said in str(raised.value)
        assert "CANARY" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("postgresql://u:p@h/d", "it has a username, which belongs into credentials.username"),
        ("postgresql://h/d?sslmod=disable", 'there is no parameter "sslmod"'),
    ],
)
def test_a_file_is_judged_without_the_driver(
    text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    config = f"config: {{connection_string: '{text}'}}"
    with pytest.raises(ConfigError, match=said):
        parse_config(f"namespaces: [{{name: a, backend: postgres, {config}}}]", "f")
