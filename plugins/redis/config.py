"""The ``config:`` block of a namespace on Redis or Valkey."""

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec import Meta

from prism.sdk import PluginError, SettingsProblem, StatusCode, Store, did_you_mean

from .commands import DATA_COMMANDS

_FILE = {"path": True, "read": True}
Path = Annotated[str, Meta(min_length=1, pattern=r"^[^\x00]+$", extra=_FILE)]
KeyPath = Annotated[str, Meta(min_length=1, pattern=r"^[^\x00]+$", extra={**_FILE, "key": True})]

MAX_DATABASE = 2**31 - 1


class Sentinel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who knows which server is the master.

    ``name``: what the sentinels call the master. ``addresses``: of the sentinels, each
    ``host:port``; they are asked in this order. They speak TLS where ``url`` is ``rediss``.
    """

    name: Annotated[str, Meta(min_length=1)]
    addresses: Annotated[list[str], Meta(min_length=1, max_length=32)]


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cluster, whose servers tell which of them has which keys.

    ``addresses``: of some of its servers, each ``host:port``; one that answers is enough to know
    all the others. They speak TLS where ``url`` is ``rediss``.
    """

    addresses: Annotated[list[str], Meta(min_length=1, max_length=32)]


class RedisConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings; ``username`` and ``password`` are in ``credentials``, never in the URL.

    ``url``: ``redis://host:port/database``, ``rediss://`` for TLS, ``unix:///path/of.sock``.
    With ``sentinel`` or ``cluster`` its host and port are not used.

    ``ca_cert``: whom to trust instead of the system's authorities. ``client_cert`` and
    ``client_key``: what to show the server. ``tls_server_name``: the name that the certificate
    must have, where it is not the URL's host.

    ``key_prefix``: stands before every key, channel and topic; the namespace and a colon unless
    set.

    ``silence_timeout_seconds``: a server that owes answers and brings none for so long is
    connected to anew.

    ``max_in_flight``: commands that wait for an answer at a time. ``max_dedicated_connections``:
    for streams, and pops that wait, each of which has one of its own.

    ``stream_max_length``: entries that a topic keeps, about; 0 keeps all. A ``publish`` may say
    otherwise.

    ``allowed_commands``: what ``command`` and ``transaction`` may run.
    """

    credential_names: ClassVar[tuple[str, ...]] = (
        "username",
        "password",
        "sentinel_username",
        "sentinel_password",
    )

    url: Annotated[str, Meta(min_length=1)] = "redis://127.0.0.1:6379/0"
    ca_cert: Path | None = None
    client_cert: Path | None = None
    client_key: KeyPath | None = None
    tls_server_name: str | None = None
    sentinel: Sentinel | None = None
    cluster: Cluster | None = None
    key_prefix: Annotated[str, Meta(max_length=256)] | None = None
    default_ttl_seconds: Annotated[float, Meta(gt=0)] | None = None
    max_value_bytes: Annotated[int, Meta(ge=1, le=512 * 1024 * 1024)] = 512 * 1024
    connect_timeout_seconds: Annotated[float, Meta(gt=0, le=300)] = 5.0
    silence_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    max_in_flight: Annotated[int, Meta(ge=1, le=100_000)] = 4096
    max_dedicated_connections: Annotated[int, Meta(ge=0, le=10_000)] = 128
    stream_max_length: Annotated[int, Meta(ge=0)] = 100_000
    allowed_commands: tuple[str, ...] = DATA_COMMANDS

    def problems(self, credentials: Mapping[str, str]) -> Iterator[SettingsProblem]:
        """What does not fit; see ``prism.contract.settings``."""
        server = Server()
        try:
            server = read_url(self.url or "redis://127.0.0.1")
        except PluginError as error:
            yield SettingsProblem(("config", "url"), error.detail.removeprefix("config.url: "))
        yield from self._cluster_problems(server)
        for index, address in enumerate(self.sentinel.addresses if self.sentinel else ()):
            try:
                read_address(address)
            except ValueError as error:
                yield SettingsProblem(("config", "sentinel", "addresses", index), str(error))
        if self.client_key is not None and self.client_cert is None:
            yield SettingsProblem(("config", "client_key"), "it means nothing without client_cert")
        if self.url and self.url.startswith(("redis:", "unix:")):
            for key in ("ca_cert", "client_cert", "tls_server_name"):
                if getattr(self, key) is not None:
                    yield SettingsProblem(
                        ("config", key),
                        "it means nothing without TLS, which a url of rediss:// has",
                    )
        for index, name in enumerate(self.allowed_commands or ()):
            if name.upper() not in DATA_COMMANDS:
                yield SettingsProblem(
                    ("config", "allowed_commands", index),
                    f"{name} cannot be allowed{did_you_mean(name.upper(), DATA_COMMANDS)}; it is "
                    "none that stays within its keys, or none that is known here",
                )
        for role in ("", "sentinel_"):
            if f"{role}username" in credentials and f"{role}password" not in credentials:
                yield SettingsProblem(
                    ("credentials", f"{role}username"), f"it means nothing without {role}password"
                )

    def store(self, namespace: str, credentials: Mapping[str, str]) -> Store:
        """The keys with its prefix; see ``prism.contract.settings``."""
        del credentials
        server = read_url(self.url)
        servers = {f"{server}/{server.database}"}
        if self.sentinel is not None:
            addresses = self.sentinel.addresses
            servers = {f"{each}/{self.sentinel.name}/{server.database}" for each in addresses}
        elif self.cluster is not None:
            servers = set(self.cluster.addresses)
        prefix = f"{namespace}:" if self.key_prefix is None else self.key_prefix
        return Store(
            frozenset(servers),
            prefix,
            f"keys of this Redis that begin with {prefix!r}",
            "give each a config.key_prefix with which no other's begins",
        )

    def _cluster_problems(self, server: "Server") -> Iterator[SettingsProblem]:
        for index, address in enumerate(self.cluster.addresses if self.cluster else ()):
            try:
                read_address(address, "redis-1:6379")
            except ValueError as error:
                yield SettingsProblem(("config", "cluster", "addresses", index), str(error))
        if self.cluster is None:
            return
        if self.sentinel is not None:
            yield SettingsProblem(
                ("config", "sentinel"), "a cluster has none; leave one of both out"
            )
        if server.path:
            yield SettingsProblem(
                ("config", "url"), "a cluster is not reached through a Unix socket; leave it out"
            )
        if server.database:
            yield SettingsProblem(
                ("config", "url"), f"a cluster has no database {server.database}; leave it out"
            )


class Server(msgspec.Struct, frozen=True):
    """Where to connect: ``path`` of a Unix socket, or host and port."""

    host: str = "127.0.0.1"
    port: int = 6379
    path: str = ""
    tls: bool = False
    database: int = 0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.path or f"{host}:{self.port}"


_NO_PORT = "a port is a number from 1 to 65535"


def read_url(url: str) -> Server:
    """The server that ``config.url`` names. What it says of a wrong one never quotes it: it may
    hold a password.

    Raises:
        PluginError: INVALID_ARGUMENT
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "127.0.0.1", parts.port
        if port == 0:
            raise ValueError(_NO_PORT)
    except ValueError as error:
        written = url.rpartition("@")[2].partition("://")[2].partition("/")[0].rpartition(":")[2]
        if written.isdecimal() and "@" not in url:  # else it may be a part of a password
            said = f"the port {written[:20]} is none; {_NO_PORT}"
            raise _wrong(said) from error
        raise _wrong("it cannot be read; its form is redis://host:port/database") from error
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise _wrong(
            "it must not hold credentials; put them into the namespace's credentials, as "
            "username and password"
        )
    if parts.query or parts.fragment:
        raise _wrong(f"it takes no options{_named(parts.query)}")
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/"):
            raise _wrong("a Unix socket is written unix:///path/of.sock")
        return Server(path=unquote(parts.path))
    if parts.scheme not in ("redis", "rediss"):
        raise _wrong("it begins with redis://, rediss:// (TLS) or unix://")
    database = parts.path.strip("/") or "0"
    if not (database.isascii() and database.isdigit() and int(database) <= MAX_DATABASE):
        raise _wrong("after the port stands the number of a database, such as /0")
    return Server(host, port or 6379, "", parts.scheme == "rediss", int(database))


_OF_OTHERS = {
    "db": "the database stands in the path, as in redis://host:port/1",
    "ssl": "TLS is rediss://",
    "tls": "TLS is rediss://",
    "password": "it is credentials.password",
    "user": "it is credentials.username",
    "username": "it is credentials.username",
    "ssl_ca_certs": "it is the key ca_cert beside url",
    "ssl_certfile": "it is the key client_cert beside url",
    "ssl_keyfile": "it is the key client_key beside url",
    "timeout": "it is the key connect_timeout_seconds beside url",
    "socket_connect_timeout": "it is the key connect_timeout_seconds beside url",
}
"""What other clients take as parameters of a URL, and where it is here."""


def _named(query: str) -> str:
    """Which options a URL has, and where they belong; never their values."""
    said = []
    for name, _ in parse_qsl(query, keep_blank_values=True)[:5]:
        if not (name.isidentifier() and len(name) <= 40):
            return "; they are keys beside url"
        where = _OF_OTHERS.get(name.lower())
        meant = did_you_mean(name, RedisConfig.__struct_fields__)
        said.append(f'"{name}": {where}' if where else f'"{name}": no such key beside url{meant}')
        if where is None and name in RedisConfig.__struct_fields__:
            said[-1] = f'"{name}": it is a key beside url'
    return f"; {', '.join(said)}" if said else "; they are keys beside url"


def read_address(text: str, example: str = "sentinel:26379") -> tuple[str, int]:
    """``host:port``.

    Raises:
        ValueError: it is none; says so without showing what may be a password.
    """
    host, _, port = text.rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
    bare = host.removeprefix("[").removesuffix("]")
    if "@" in text:
        raise ValueError("expected host:port, without user and password")
    if not (bare and is_port) or "/" in host or (":" in bare and bare == host):
        raise ValueError(f'expected host:port, such as {example}; found "{text[:80]}"')
    return bare, int(port)


def _wrong(why: str) -> PluginError:
    return PluginError(StatusCode.INVALID_ARGUMENT, f"config.url: {why}")
