"""libpq's connection strings, as far as they can be judged where libpq is not installed.

A file is often checked on another machine than the one that serves it. What libpq refuses for its
form, or for a parameter's name, is refused here, too; what it makes of the values, it alone knows.
"""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote

from prism.sdk import did_you_mean

UNREADABLE = (
    "it cannot be read; its form is postgresql://host:port/database?name=value or "
    "host=... port=... dbname=..., without user name and password"
)
_KEYWORDS = """
application_name channel_binding client_encoding connect_timeout dbname
fallback_application_name gssdelegation gssencmode gsslib host hostaddr keepalives
keepalives_count keepalives_idle keepalives_interval krbsrvname load_balance_hosts
max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer
oauth_scope options passfile password port replication require_auth requirepeer
scram_client_key scram_server_key service ssl_max_protocol_version
ssl_min_protocol_version sslcert sslcertmode sslcompression sslcrl sslcrldir sslkey
sslkeylogfile sslmode sslnegotiation sslpassword sslrootcert sslsni target_session_attrs
tcp_user_timeout user
"""
KEYWORDS = frozenset(_KEYWORDS.split())
"""The parameters of libpq 18 (PostgreSQL 18, 32.1.2)."""
_PAIR = re.compile(
    r"\s*([A-Za-z_]+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?:\s+|$)", re.DOTALL
)


def parameters_without_libpq(text: str) -> dict[str, str]:
    """The parameters of a URL, or of ``name=value`` pairs.

    Raises:
        ValueError: it cannot be read; says why, without a part of what may be a password.
    """
    scheme, separator, rest = text.partition("://")
    is_url = bool(separator) and scheme in ("postgresql", "postgres")
    given = _of_url(rest) if is_url else _of_pairs(text)
    unknown = next((name for name in given if name not in KEYWORDS), None)
    if unknown is not None:
        is_name = re.fullmatch("[a-zA-Z_]{1,40}", unknown) is not None
        has_secret = "@" in text or "pass" in text.lower()
        raise ValueError(no_such_parameter(unknown) if is_name and not has_secret else UNREADABLE)
    if is_torn(given, text):
        raise ValueError(UNREADABLE)
    return given


def is_torn(given: Mapping[str, str], text: str) -> bool:
    """Whether hosts, ports or the database are rather parts of a password that tears the URL."""
    ports = given.get("port", "").replace(",", "")
    places = given.get("host", "") + given.get("dbname", "")
    return bool(ports and not ports.isdecimal()) or ("@" in places and "://" in text)


def no_such_parameter(name: str) -> str:
    """What to say of a parameter that libpq does not have."""
    meant = did_you_mean(name, sorted(KEYWORDS))
    return f'there is no parameter "{name}"{meant or "; libpq documents those there are"}'


def _of_url(rest: str) -> dict[str, str]:
    """What stands behind the scheme: ``user:password@host:port,host:port/database?name=value``."""
    place, _, query = rest.partition("?")
    where, _, database = place.partition("/")
    user_part, at, hosts = where.partition("@") if "@" in where else ("", "", where)
    user, colon, password = user_part.partition(":")
    split = [re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(.*))?", each) for each in hosts.split(",")]
    if None in split:
        raise ValueError(UNREADABLE)
    found = {
        "user": user if at else "",
        "password": password if colon else "",
        "host": ",".join(each[1].strip("[]") for each in split if each),
        "port": ",".join(each[2] or "" for each in split if each),
        "dbname": database,
    }
    given = {name: unquote(value) for name, value in found.items() if value.strip(",")}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "ssl" and value == "true":  # as JDBC writes it
            given["sslmode"] = "require"
        else:
            given[name] = value
    return given


def _of_pairs(text: str) -> dict[str, str]:
    given: dict[str, str] = {}
    at = 0
    while at < len(text.rstrip()):
        pair = _PAIR.match(text, at)
        if pair is None:
            raise ValueError(UNREADABLE)
        given[pair[1]] = re.sub(r"\\(.)", r"\1", pair[2].removeprefix("'").removesuffix("'"))
        at = pair.end()
    return given
