"""The demos of ``prism serve``: one namespace, ``demo``, on SQLite or on a server that runs.

Whoever asks for one has no configuration yet. So the server is looked for before anything
starts: where none answers, what starts one is said, and nothing has been made.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlencode, urlsplit

from prism.cli.output import CommandError

if TYPE_CHECKING:
    from prism.config.types import Config

DATABASE = "prism.db"
"""The file of the demo on SQLite, in the current directory."""
TOKEN = "prism.token"  # noqa: S105 - a file
"""The file beside it with the token that operates the demo."""

SERVER = "PRISM_DEMO_SERVER"
"""The environment variable for ``--server``: what is in it, ``ps`` does not show."""
LONGEST_CONNECT = 2.0
"""Seconds that a server may take to accept a connection."""

SQL = (
    ("execute", '{"sql":"CREATE TABLE IF NOT EXISTS book (title text, year int)"}'),
    ("execute", '{"sql":"INSERT INTO book VALUES ($1, $2)","params":["Emma",1815]}'),
    ("query", '{"sql":"SELECT * FROM book WHERE year < :year","params":{"year":1900}}'),
)
KEYS = (
    ("set", '{"key":"user:123","value":{"name":"Ada"}}'),
    ("get", '{"key":"user:123"}'),
)
TOPIC = (
    ("create_topic", '{"topic":"orders"}'),
    ("publish", '{"topic":"orders","value":{"book":"Emma"}}'),
    ("read", '{"topic":"orders","partition":0}'),
)


@dataclass(frozen=True)
class Kind:
    """A backend that needs a server.

    ``driver``: the module that its plugin imports. ``example``: what ``--server`` takes.
    ``starts``: commands that start a server where the demo looks for one.
    ``calls``: operations with their parameters, to be tried in this order.
    """

    title: str
    driver: str
    example: str
    starts: tuple[str, ...]
    calls: tuple[tuple[str, str], ...]


KINDS = {
    "postgres": Kind(
        "PostgreSQL",
        "psycopg",
        "postgresql://USER@HOST:5432/DATABASE, with the password in PGPASSWORD",
        (
            "docker run -d --name prism-postgres -p 127.0.0.1:5432:5432 "
            "-e POSTGRES_USER=prism -e POSTGRES_PASSWORD=prism postgres:18",
            "sudo apt-get install -y postgresql && sudo service postgresql start && "
            "sudo -u postgres psql -c \"CREATE ROLE prism LOGIN PASSWORD 'prism'\" "
            '-c "CREATE DATABASE prism OWNER prism"',
        ),
        SQL,
    ),
    "redis": Kind(
        "Redis",
        "hiredis",
        f"redis://HOST:6379/0; one with a password in {SERVER}",
        (
            "docker run -d --name prism-redis -p 127.0.0.1:6379:6379 redis:7",
            "sudo apt-get install -y redis-server && sudo service redis-server start",
        ),
        KEYS,
    ),
    "kafka": Kind(
        "Kafka",
        "confluent_kafka",
        "HOST:9092,HOST:9092",
        ("docker run -d --name prism-kafka -p 127.0.0.1:9092:9092 apache/kafka",),
        TOPIC,
    ),
}
BACKENDS = ("sqlite", *KINDS)


@dataclass(frozen=True)
class Demo:
    """``config`` serves it; ``place``: where its data are, for people. ``addresses`` are those of
    its server, of which one has to accept connections; none where that is not asked."""

    backend: str
    config: "Config"
    place: str
    calls: tuple[tuple[str, str], ...]
    addresses: tuple[tuple[str, int], ...] = ()

    @property
    def way_out(self) -> str:
        """What to do where the server is there and refuses, or has not what is asked of it."""
        if self.backend not in KINDS:
            return "Ctrl-C ends it."
        return f"Ctrl-C ends it; the server is named with --server {KINDS[self.backend].example}."

    def check(self) -> None:
        """Raise CommandError where the driver, or a server, is missing."""
        if self.backend not in KINDS:
            return
        kind = KINDS[self.backend]
        if find_spec(kind.driver) is None:
            raise CommandError(
                f"{kind.title} needs {kind.driver}, which the extra {self.backend!r} brings: in a "
                f"checkout `make serve DEMO={self.backend}` installs it (docs/install.md has the "
                "other ways)"
            )
        why = _unreachable(self.addresses)
        if why:
            starts = "\n".join(f"\n  {start}" for start in kind.starts)
            raise CommandError(
                f"no {kind.title} can be reached: {why}. This starts one:\n{starts}\n\n"
                "In a checkout, `make services-up` starts one too, and prints how to serve it. One "
                f"that runs elsewhere is named with --server {kind.example}"
            )


def demo(backend: str, server: str | None, environment: Mapping[str, str]) -> Demo:
    """The demo on ``backend``, one of BACKENDS; ``server`` is where it runs, if not here.

    Raises:
        CommandError: ``server`` cannot be read.
    """
    if backend == "sqlite":
        if server:
            raise CommandError("--server is for the demos on servers: --demo postgres, for one")
        path = str(Path(DATABASE).absolute())
        return Demo(backend, _config(backend, {"path": path}, {}), path, KEYS)
    make = {"postgres": _postgres, "redis": _redis, "kafka": _kafka}[backend]
    return make(server, environment)


def _postgres(server: str | None, environment: Mapping[str, str]) -> Demo:
    """As psql finds its server: by a URL, else by PGHOST, PGPORT and the others."""
    given = environment.get
    if server is None:
        at, its_port = given("PGHOST") or "127.0.0.1", given("PGPORT") or "5432"
        if not _is_port(its_port):
            raise CommandError(f"PGPORT is {its_port[:40]!r}; a port is a number from 1 to 65535")
        database = quote(given("PGDATABASE", "prism"), safe="")
        if at.startswith("/"):
            server = f"postgresql:///{database}?{urlencode({'host': at, 'port': its_port})}"
        else:
            server = f"postgresql://{_bracketed(at)}:{its_port}/{database}"
    url = _read(server, "postgres", ("postgresql", "postgres"))
    options = parse_qs(url.query)
    host, port = url.hostname or "", url.port or 5432
    query = url.query
    if _is_local(host) and "sslmode" not in options:
        # Nobody is on the way; a server that wants TLS has it.
        query = "&".join(filter(None, (query, "sslmode=prefer")))
    bare = _without_credentials(url._replace(query=query))
    credentials = {
        "username": unquote(url.username or given("PGUSER", "prism")),
        "password": unquote(url.password or given("PGPASSWORD", "prism")),
    }
    config = {"connection_string": bare}
    where = f"{host}:{port}" if host else options.get("host", ["the local socket"])[0]
    place = f"database {unquote(url.path[1:]) or credentials['username']} of PostgreSQL at {where}"
    addresses = ((host, port),) if host else ()
    return Demo("postgres", _config("postgres", config, credentials), place, SQL, addresses)


def _redis(server: str | None, environment: Mapping[str, str]) -> Demo:
    del environment
    url = _read(server or "redis://127.0.0.1:6379/0", "redis", ("redis", "rediss", "unix"))
    given = {"username": url.username, "password": url.password}
    credentials = {name: unquote(value) for name, value in given.items() if value}
    host, port = url.hostname or "127.0.0.1", url.port or 6379
    is_path = url.scheme == "unix"
    place = f"Redis at {url.path if is_path else f'{host}:{port}'}, as keys that begin with 'demo:'"
    config = _config("redis", {"url": _without_credentials(url)}, credentials)
    return Demo("redis", config, place, KEYS, () if is_path else ((host, port),))


def _kafka(server: str | None, environment: Mapping[str, str]) -> Demo:
    del environment
    brokers = (server or "127.0.0.1:9092").split(",")
    addresses = []
    for broker in brokers:
        host, _, port = broker.rpartition(":")
        if not host or not _is_port(port) or "/" in broker or "@" in broker:
            raise _unreadable("kafka")
        addresses.append((host.strip("[]"), int(port)))
    config = _config("kafka", {"brokers": brokers, "topic_prefix": "demo."}, {})
    place = f"Kafka at {brokers[0]}, in topics that begin with 'demo.'"
    return Demo("kafka", config, place, TOPIC, tuple(addresses))


def _config(backend: str, config: dict[str, Any], credentials: dict[str, str]) -> "Config":
    """One namespace, operated with a token of the current directory."""
    from prism.config.types import AdminConfig, Config, NamespaceConfig

    namespace = NamespaceConfig(
        name="demo", backend=backend, config=config, credentials=credentials
    )
    token = str(Path(TOKEN).absolute())
    admin = AdminConfig(token_file=token, without_token="read")  # noqa: S106 - a right
    return Config(namespaces=[namespace], admin=admin)


def _read(server: str, backend: str, schemes: tuple[str, ...]) -> SplitResult:
    try:
        url = urlsplit(server)
        is_readable = url.scheme in schemes and (url.port is None or url.port > 0)
    except ValueError:
        is_readable = False
    if not is_readable:
        raise _unreadable(backend)
    return url


def _without_credentials(url: SplitResult) -> str:
    """``geturl`` would leave out the slashes where there is no host."""
    query = f"?{url.query}" if url.query else ""
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}{query}"


def _unreadable(backend: str) -> CommandError:
    """Never quotes it: there may be a password in it."""
    return CommandError(f"--server (or {SERVER}) cannot be read: it is {KINDS[backend].example}")


def _unreachable(addresses: tuple[tuple[str, int], ...]) -> str:
    """Why none of them accepts connections; empty where one does, or none is asked."""
    problems = []
    for host, port in addresses:
        try:
            socket.create_connection((host, port), LONGEST_CONNECT).close()
            return ""
        except OSError as error:
            problems.append(f"{_bracketed(host)}:{port}: {error.strerror or error}")
        except UnicodeError:  # from the codec of host names, whose words nobody understands
            problems.append(f"{host}:{port}: no name of a host")
    return "; ".join(problems)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text[:6]) < 65536


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_local(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def make_token() -> Path | None:
    """The demo's token file, if it was not there and has been made.

    Raises:
        CommandError: it cannot be written.
    """
    import secrets

    path = Path(TOKEN)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return None
    except OSError as error:
        raise CommandError(
            f"the demo cannot write {path.absolute()}: {error.strerror}; start it in a directory "
            "of your own, or give it a --config"
        ) from None
    with os.fdopen(descriptor, "w") as opened:
        opened.write(f"{secrets.token_hex(32)}\n")
    return path
