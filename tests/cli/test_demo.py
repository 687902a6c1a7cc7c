import socket
import subprocess
from importlib import import_module
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from prism.cli import demo as module
from prism.cli.demo import BACKENDS, KINDS, demo, make_token
from prism.cli.main import prism
from prism.cli.output import CommandError
from prism.contract.settings import settings_problems
from prism.secrets.files import read_token

CONFIGS = {"postgres": "PostgresConfig", "redis": "RedisConfig", "kafka": "KafkaConfig"}


def block(backend, server=None, **environment):
    (namespace,) = demo(backend, server, environment).config.namespaces
    assert (namespace.name, namespace.backend) == ("demo", backend)
    return namespace.config, namespace.credentials


def test_sqlite_is_in_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert block("sqlite") == ({"path": str(tmp_path / "prism.db")}, {})


def test_it_can_be_operated_with_the_token_that_it_makes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    admin = demo("redis", None, {}).config.admin
    assert Path(admin.token_file) == tmp_path / "prism.token"
    assert admin.without_token == "read"
    made = make_token()
    assert made.stat().st_mode & 0o777 == 0o600
    token = read_token(made)
    assert make_token() is None, "that of an earlier demo stays"
    assert read_token(made) == token


def test_what_its_first_message_says_to_start_is_where_it_looks():
    config, credentials = block("postgres")
    assert config == {"connection_string": "postgresql://127.0.0.1:5432/prism?sslmode=prefer"}
    assert credentials == {"username": "prism", "password": "prism"}
    assert "-p 127.0.0.1:5432:5432" in KINDS["postgres"].starts[0]
    assert block("redis") == ({"url": "redis://127.0.0.1:6379/0"}, {})
    assert "-p 127.0.0.1:6379:6379" in KINDS["redis"].starts[0]
    assert block("kafka") == ({"brokers": ["127.0.0.1:9092"], "topic_prefix": "demo."}, {})
    assert "-p 127.0.0.1:9092:9092" in KINDS["kafka"].starts[0]


def test_postgresql_is_found_as_psql_finds_it():
    config, credentials = block(
        "postgres", PGHOST="::1", PGPORT="5433", PGDATABASE="a b", PGUSER="ada", PGPASSWORD="s p"
    )
    assert config == {"connection_string": "postgresql://[::1]:5433/a%20b?sslmode=prefer"}
    assert credentials == {"username": "ada", "password": "s p"}
    config, _ = block("postgres", PGHOST="/run/postgresql")
    expected = "postgresql:///prism?host=%2Frun%2Fpostgresql&port=5432&sslmode=prefer"
    assert config == {"connection_string": expected}
    assert demo("postgres", None, {"PGHOST": "/run/postgresql"}).addresses == ()


def test_a_port_of_the_environment_that_is_none_is_named():
    with pytest.raises(CommandError, match="PGPORT is 'abc'"):
        demo("postgres", None, {"PGPORT": "abc"})
    assert block("postgres", PGHOST="", PGPORT="") == block("postgres")


def test_credentials_of_a_url_go_where_they_belong():
    config, credentials = block("postgres", "postgresql://ada:p%40%3A@db.example.com/shop")
    assert config == {"connection_string": "postgresql://db.example.com/shop"}, "TLS is verified"
    assert credentials == {"username": "ada", "password": "p@:"}
    assert block("redis", "rediss://ada:p%40@redis.example.com:6380/2") == (
        {"url": "rediss://redis.example.com:6380/2"},
        {"username": "ada", "password": "p@"},
    )


def test_tls_elsewhere_is_as_the_url_says():
    for url in (
        "postgresql://127.0.0.1/shop?sslmode=require",
        "postgresql://db.example.com/shop?sslmode=disable",
    ):
        assert block("postgres", url)[0] == {"connection_string": url}


@pytest.mark.parametrize("backend", KINDS)
def test_its_plugin_takes_its_configuration(backend):
    config, credentials = block(backend)
    kind = getattr(import_module(f"prism_plugins.{backend}.config"), CONFIGS[backend])
    assert list(settings_problems(kind, msgspec.convert(config, kind), credentials)) == []


@pytest.mark.parametrize(
    ("backend", "server"),
    [
        ("postgres", "mysql://ada:secret@h/d"),
        ("postgres", "postgresql://ada:secret@h:x/d"),
        ("redis", "ada:secret@h:6379"),
        ("kafka", "ada:secret@h"),
        ("kafka", "ada:secret@h:9092"),
        ("kafka", "kafka://h:9092"),
        ("kafka", "h:99999"),
    ],
)
def test_a_server_that_cannot_be_read_is_not_quoted(backend, server):
    with pytest.raises(CommandError, match="cannot be read: it is ") as raised:
        demo(backend, server, {})
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("backend", KINDS)
def test_where_no_server_is_it_says_what_starts_one(backend):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        at = f"127.0.0.1:{bound.getsockname()[1]}"
        scheme = {"postgres": "postgresql://", "redis": "redis://"}.get(backend, "")
        with pytest.raises(CommandError) as raised:
            demo(backend, scheme + at, {}).check()
    said = str(raised.value)
    assert f"{at}: Connection refused" in said
    for start in KINDS[backend].starts:
        assert f"\n  {start}" in said


@pytest.mark.parametrize(
    ("backend", "server"), [("postgres", "postgresql://a..b/d"), ("kafka", "a..b:9092")]
)
def test_what_is_no_name_of_a_host_cannot_be_reached(backend, server):
    with pytest.raises(CommandError, match=r"a\.\.b:\d+: no name of a host"):
        demo(backend, server, {}).check()


def test_one_broker_of_several_is_enough():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there = f"127.0.0.1:{listening.getsockname()[1]}"
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            demo("kafka", f"127.0.0.1:{bound.getsockname()[1]},{there}", {}).check()


def test_a_driver_that_is_missing_is_named_before_anything(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(CommandError, match=r"PostgreSQL needs psycopg.*make serve DEMO=postgres"):
        demo("postgres", None, {}).check()


def test_make_says_at_once_which_demos_there_are(tmp_path):
    def make(*arguments):
        command = ["make", "--dry-run", "--no-print-directory", f"VENV={tmp_path}", *arguments]
        root = Path(__file__).parents[2]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)

    refused = make("serve", "DEMO=postgresql")
    assert refused.returncode != 0
    assert f"DEMO=postgresql is not one of {', '.join(BACKENDS)}." in refused.stderr
    assert refused.stdout == ""
    for backend in BACKENDS:
        assert f"--demo {backend}" in make("serve", f"DEMO={backend}").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "x.yaml", "--demo", "redis"], "--demo is for a demo, and --config names x"),
        (["--config", "x.yaml", "--server", "h:1"], "--server is for a demo"),
        (["--server", "redis://h"], "--server is for the demos on servers"),
    ],
)
def test_options_that_do_not_go_together(arguments, said):
    result = CliRunner().invoke(prism, ["serve", *arguments])
    assert result.exit_code != 0
    assert said in result.output + str(result.exception)
