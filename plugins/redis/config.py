"""The ``config:`` block of a namespace on Redis or Valkey."""

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta

from prism.sdk import PluginError, StatusCode

from .commands import DATA_COMMANDS

Path = Annotated[str, Meta(min_length=1, pattern=r"^[^\x00]+$", extra={"path": True})]

MAX_DATABASE = 2**31 - 1


class Sentinel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who knows which server is the master.

    ``name``: what the sentinels call the master. ``addresses``: of the sentinels, each
    ``host:port``; they are asked in this order. They speak TLS where ``url`` is ``rediss``.
    """

    name: Annotated[str, Meta(min_length=1)]
    addresses: Annotated[list[str], Meta(min_length=1, max_length=32)]


class RedisConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings; ``username`` and ``password`` are in ``credentials``, never in the URL.

    ``url``: ``redis://host:port/database``, ``rediss://`` for TLS, ``unix:///path/of.sock``.
    With ``sentinel`` its host and port are not used.

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

    url: Annotated[str, Meta(min_length=1)] = "redis://127.0.0.1:6379/0"
    ca_cert: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    tls_server_name: str | None = None
    sentinel: Sentinel | None = None
    key_prefix: Annotated[str, Meta(max_length=256)] | None = None
    default_ttl_seconds: Annotated[float, Meta(gt=0)] | None = None
    max_value_bytes: Annotated[int, Meta(ge=1, le=512 * 1024 * 1024)] = 512 * 1024
    connect_timeout_seconds: Annotated[float, Meta(gt=0, le=300)] = 5.0
    silence_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    max_in_flight: Annotated[int, Meta(ge=1, le=100_000)] = 4096
    max_dedicated_connections: Annotated[int, Meta(ge=0, le=10_000)] = 128
    stream_max_length: Annotated[int, Meta(ge=0)] = 100_000
    allowed_commands: tuple[str, ...] = DATA_COMMANDS

    def check(self, credentials: Mapping[str, str]) -> None:
        """Raise PluginError for what cannot be used, before anything starts."""
        del credentials  # the server judges them
        read_url(self.url)
        for address in self.sentinel.addresses if self.sentinel else ():
            read_address(address, "sentinel.addresses")
        unknown = sorted({name.upper() for name in self.allowed_commands} - {*DATA_COMMANDS})
        if unknown:
            raise PluginError(
                StatusCode.INVALID_ARGUMENT,
                f"config.allowed_commands: {', '.join(unknown)} cannot be allowed: it is none that "
                "stays within its keys, or none that is known here",
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


def read_url(url: str) -> Server:
    """The server that ``config.url`` names. What it says of a wrong one never quotes it: it may
    hold a password.

    Raises:
        PluginError: INVALID_ARGUMENT
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "127.0.0.1", parts.port or 6379
    except ValueError as error:
        raise _wrong("it cannot be read; its form is redis://host:port/database") from error
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise _wrong(
            "it must not hold credentials; put them into the namespace's credentials, as "
            "username and password"
        )
    if parts.query or parts.fragment:
        raise _wrong("it takes no options; they are keys beside url")
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/"):
            raise _wrong("a Unix socket is written unix:///path/of.sock")
        return Server(path=unquote(parts.path))
    if parts.scheme not in ("redis", "rediss"):
        raise _wrong("it begins with redis://, rediss:// (TLS) or unix://")
    database = parts.path.strip("/") or "0"
    if not (database.isascii() and database.isdigit() and int(database) <= MAX_DATABASE):
        raise _wrong("after the port stands the number of a database, such as /0")
    return Server(host, port, "", parts.scheme == "rediss", int(database))


def read_address(text: str, key: str) -> tuple[str, int]:
    """``host:port``.

    Raises:
        PluginError: INVALID_ARGUMENT, naming ``key``.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536 or "@" in text:
        raise PluginError(StatusCode.INVALID_ARGUMENT, f"config.{key}: each is host:port")
    return host.strip("[]"), int(port)


def _wrong(why: str) -> PluginError:
    return PluginError(StatusCode.INVALID_ARGUMENT, f"config.url: {why}")
