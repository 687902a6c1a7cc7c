"""The ``config:`` block of a namespace on PostgreSQL, and how a connection is made from it."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from prism.sdk import PluginError, SettingsProblem, StatusCode, Store, unfit_pem

from .conninfo import UNREADABLE, is_torn, no_such_parameter, parameters_without_libpq

_SECRET = ("password", "passfile", "sslpassword", "oauth_client_secret")
_FROM_CREDENTIALS = {"user": "username", "password": "password"}
_FILES = ("sslrootcert", "sslcert", "sslkey")
_VERIFYING = ("verify-ca", "verify-full")
_DEFAULTS = {
    # A link that swallows everything is noticed within a minute, where there is no deadline.
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "gssencmode": "disable",
    "client_encoding": "UTF8",
}
SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "xmloption": "content",
}
"""Of every session: results are read in this form."""


class PostgresConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings; only ``connection_string`` is needed.

    ``statement_cache_size``: statements that each connection keeps prepared; 0 behind a pooler
    in transaction mode, such as pgbouncer: then nothing is kept in a session.

    ``key_value``: whether Prism keeps tables of its own, in ``schema``, for keys and queues. (A
    schema that is named as the role would get the tables of clients, too.)
    """

    credential_names: ClassVar[tuple[str, ...]] = ("username", "password")

    connection_string: Annotated[str, Meta(min_length=1)]
    pool_size: Annotated[int, Meta(ge=1, le=1000)] = 10
    idle_timeout: Annotated[float, Meta(gt=0)] = 300.0
    statement_cache_size: Annotated[int, Meta(ge=0, le=10_000)] = 100
    pool_timeout: Annotated[float, Meta(gt=0)] = 5.0
    connect_timeout: Annotated[float, Meta(gt=0)] = 5.0
    max_lifetime: Annotated[float, Meta(gt=0)] = 3600.0
    sql: Literal["read_write", "read", "off"] = "read_write"
    sql_timeout_seconds: Annotated[float, Meta(gt=0)] = 30.0
    max_rows: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    json_numbers: Literal["exact", "strings"] = "exact"
    key_value: bool = True
    key_value_connections: Annotated[int, Meta(ge=1, le=64)] = 2
    schema: Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_]{0,62}$")] = "_prism"
    max_value_bytes: Annotated[int, Meta(ge=1, le=512 * 1024 * 1024)] = 512 * 1024
    default_ttl_seconds: Annotated[float, Meta(gt=0)] | None = None
    channel_prefix: Annotated[str, Meta(max_length=62)] | None = None

    @property
    def behind_pooler(self) -> bool:
        """Whether nothing may be kept in a session."""
        return self.statement_cache_size == 0

    def problems(self, credentials: Mapping[str, str]) -> Iterator[SettingsProblem]:
        """What does not fit; see ``prism.contract.settings``."""
        del credentials  # the server judges them
        if not self.connection_string:  # wrong, and told
            return
        try:
            given = parameters(self.connection_string)
        except ValueError as error:
            yield _wrong(str(error))
            return
        for keyword in given:
            if keyword in _FROM_CREDENTIALS:
                name = _FROM_CREDENTIALS[keyword]
                yield _wrong(f"it has a {name}, which belongs into credentials.{name}")
            elif keyword in _SECRET:
                yield _wrong(f"it has {keyword}: secrets belong into credentials")
            elif keyword in ("service", "client_encoding"):
                yield _wrong(f"it has {keyword}, which Prism does not take")

    def store(self, namespace: str, credentials: Mapping[str, str]) -> Store | None:
        """The database as its user sees it; see ``prism.contract.settings``."""
        del namespace
        if self.sql == "off":
            return None
        given = parameters(self.connection_string)
        user = credentials.get("username", "")
        host, port = given.get("host", ""), given.get("port", "5432")
        database = given.get("dbname", user)
        return Store(
            frozenset((f"{user}@{host}:{port}/{database}",)),
            "",
            f"database {database!r} of PostgreSQL as the same user",
            "give each a user of its own, without rights on the other's tables, or sql: off",
        )


class ConnectionSettings:
    """libpq's parameters; the password is read anew for each connection.

    Raises:
        ValueError: ``connection_string`` cannot be read.
        PluginError: INVALID_ARGUMENT, a file in it cannot be read, or any user may change it.
    """

    def __init__(
        self, config: PostgresConfig, credentials: Mapping[str, str], namespace: str
    ) -> None:
        given = parameters(config.connection_string)
        self._credentials = credentials
        self.parameters = {
            **_DEFAULTS,
            "sslmode": "verify-full",
            "application_name": f"prism/{namespace}",
            "connect_timeout": str(max(2, round(config.connect_timeout))),
            **given,
        }
        if self.parameters["sslmode"] in _VERIFYING:
            self.parameters.setdefault("sslrootcert", "system")
        for name in _FILES if self.parameters["sslmode"] != "disable" else ():
            file = given.get(name)
            if file and file != "system" and (why := unfit_pem(file)):
                raise PluginError(
                    StatusCode.INVALID_ARGUMENT, f"config.connection_string: {name} {file}: {why}"
                )
        if not config.behind_pooler:
            options = [self.parameters.pop("options", "")]
            options += [f"-c {name}={value}" for name, value in SETTINGS.items()]
            self.parameters["options"] = " ".join(filter(None, options))

    @property
    def hosts(self) -> list[str]:
        """As they are written; a directory is that of a Unix socket."""
        return self.parameters.get("host", "").split(",")

    @property
    def place(self) -> str:
        """For operators: where the server is; no secrets."""
        ports = self.parameters.get("port", "5432")
        return f"{self.parameters.get('host', 'the local socket')} port {ports}"

    def conninfo(self, addresses: str | None = None, options: str = "") -> bytes:
        """For a new connection; ``addresses`` are those of the hosts, where they are known.
        ``options`` are more of the session's settings."""
        parameters = dict(self.parameters)
        if options:
            parameters["options"] = f"{parameters.get('options', '')} {options}"
        if addresses is not None:
            parameters["hostaddr"] = addresses
        for keyword, name in _FROM_CREDENTIALS.items():
            if name in self._credentials:
                parameters[keyword] = self._credentials[name]
        return " ".join(f"{name}={_quoted(value)}" for name, value in parameters.items()).encode()


def parameters(text: str) -> dict[str, str]:
    """The parameters that a connection string has, as libpq reads it where it is installed.

    Raises:
        ValueError: it cannot be read; says why, without a part of what may be a password.
    """
    try:
        from psycopg import Error, pq
    except ImportError:
        return parameters_without_libpq(text)
    try:
        options = pq.Conninfo.parse(text.encode())
    except Error as error:
        raise ValueError(_unreadable(text, str(error))) from error
    given = {
        option.keyword.decode(): option.val.decode() for option in options if option.val is not None
    }
    # libpq takes torn ones for hosts, ports and names of databases.
    if is_torn(given, text):
        raise ValueError(UNREADABLE)
    return given


_NO_SUCH = re.compile(r'invalid (?:connection option|URI query parameter):? "([a-zA-Z_]{1,40})"')


def _unreadable(text: str, said: str) -> str:
    """libpq's sentence may have a part of a password in it, where one tears a URL or has spaces;
    so only a parameter's name is taken from it, and where no password is in sight."""
    named = _NO_SUCH.search(said)
    if named is None or "@" in text or "pass" in text.lower():
        return UNREADABLE
    return no_such_parameter(named[1])


def _quoted(value: str) -> str:
    escaped = value.replace("\\", r"\\").replace("'", r"\'")
    return f"'{escaped}'"


def _wrong(problem: str) -> SettingsProblem:
    return SettingsProblem(("config", "connection_string"), problem)
