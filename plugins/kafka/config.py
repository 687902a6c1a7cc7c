"""The ``config:`` and ``credentials:`` of a namespace, and librdkafka's settings for them."""

import ipaddress
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from prism.sdk import PluginError, SettingsProblem, StatusCode, Store, exposed_key, unfit_pem

_FILE = {"path": True, "read": True}
File = Annotated[str, Meta(min_length=1, extra=_FILE)]
KeyFile = Annotated[str, Meta(min_length=1, extra={**_FILE, "key": True})]
Seconds = Annotated[float, Meta(gt=0, le=3600)]

log = logging.getLogger("prism.plugin.kafka")

CREDENTIALS = {
    "username": "username",
    "password": "password",
    "sasl_username": "username",
    "sasl_password": "password",
    "tls_key_password": "tls_key_password",
}
"""Names in ``credentials:``, and what they mean."""

RECONNECT_AT_MOST_MS = 2_000
"""Between attempts to connect; librdkafka's own 10 s would prolong each outage by as much."""


class TLS(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``ca_cert``: whose certificates brokers show; the system's without. ``cert`` and ``key``:
    this client's own, where the brokers want one."""

    ca_cert: File | None = None
    cert: File | None = None
    key: KeyFile | None = None


class KafkaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings; ``brokers`` and ``topic_prefix`` must be there.

    ``topic_prefix``: what the names of the namespace's topics begin with in Kafka, and never at
    its clients. ``""`` opens all topics of the cluster, except its internal ones (``__…``).

    ``consumer_group``: the group of a ``subscribe`` that names none; one that does has the group
    ``consumer_group.NAME``. Without it ``prism-NAMESPACE``.

    ``sasl_mechanism`` counts where there are credentials. PLAIN shows the password to those
    who can read the connection, so it wants ``tls``, or ``sasl_plain_without_tls``.

    ``max_in_flight_bytes`` bounds what one subscription has handed out and not got back.

    ``stall_seconds``: a subscription behind which messages wait, and that has not moved for so
    long, is reported, and ended if it is not for its client that it waits.

    ``connect_timeout_seconds`` is well below the proxy's ``start_timeout_seconds`` (10): a
    plugin that is out of time at the same moment cannot say why no broker was reached.
    """

    credential_names: ClassVar[tuple[str, ...]] = tuple(CREDENTIALS)

    brokers: Annotated[list[str], Meta(min_length=1)]
    topic_prefix: str
    consumer_group: Annotated[str, Meta(min_length=1, max_length=150)] | None = None
    sasl_mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"] = "SCRAM-SHA-512"
    sasl_plain_without_tls: bool = False
    tls: bool | TLS = False
    group_protocol: Literal["classic", "consumer"] = "classic"
    session_timeout_seconds: Annotated[float, Meta(ge=1, le=300)] = 10.0
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    linger_ms: Annotated[float, Meta(ge=0, le=1_000)] = 1.0
    delivery_timeout_seconds: Seconds = 30.0
    max_message_bytes: Annotated[int, Meta(ge=1_000, le=10 * 1024 * 1024)] = 1_000_000
    max_buffered_bytes: Annotated[int, Meta(ge=1024 * 1024)] = 64 * 1024 * 1024
    max_in_flight_bytes: Annotated[int, Meta(ge=1024 * 1024)] = 16 * 1024 * 1024
    max_subscriptions: Annotated[int, Meta(ge=1, le=10_000)] = 100
    stall_seconds: Seconds = 60.0
    connect_timeout_seconds: Seconds = 5.0

    def problems(self, credentials: Mapping[str, str]) -> Iterator[SettingsProblem]:
        """What does not fit; see ``prism.contract.settings``."""
        for index, broker in enumerate(self.brokers or ()):
            if wrong := _broker_problem(broker):
                yield SettingsProblem(("config", "brokers", index), wrong)
        if wrong := _prefix_problem(self.topic_prefix or ""):
            yield SettingsProblem(("config", "topic_prefix"), wrong)
        given = {CREDENTIALS.get(name, name) for name in credentials}
        for name, other in (("username", "password"), ("password", "username")):
            if name in given and other not in given:
                missing = f"{other!r} is missing; SASL needs both"
                yield SettingsProblem(("credentials",), missing)
        plain = self.sasl_mechanism == "PLAIN" and self.tls is False
        if plain and self.sasl_plain_without_tls is False and "username" in given:
            yield SettingsProblem(
                ("config", "sasl_mechanism"),
                "PLAIN would show the password to those who read the connection: set tls, or a "
                "SCRAM mechanism, or sasl_plain_without_tls: true",
            )
        if isinstance(self.tls, TLS) and (self.tls.cert is None) is not (self.tls.key is None):
            yield SettingsProblem(("config", "tls"), "cert and key go together")

    def store(self, namespace: str, credentials: Mapping[str, str]) -> Store:
        """The topics with its prefix; see ``prism.contract.settings``."""
        del namespace, credentials
        return Store(
            frozenset(self.brokers),
            self.topic_prefix,
            f"topics of this Kafka that begin with {self.topic_prefix!r}",
            "give each a config.topic_prefix with which no other's begins",
        )


_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_PREFIX = re.compile(r"[A-Za-z0-9._-]*")
MAX_PREFIX = 200
"""Kafka takes names of 249 characters; the rest is for the topics'."""


def _broker_problem(broker: str) -> str:
    """What is wrong with an address of ``brokers``; empty if nothing is."""
    expected = "expected host:port"
    if "@" in broker:  # what stands before it may be a password, so it is not shown
        return f"{expected}, without user and password: they belong into credentials"
    found = f'found "{broker[:80]}"'
    _, separator, rest = broker.partition("://")
    if separator:
        return f'{expected}, without a scheme, {found}; write "{rest}"'
    if "," in broker:
        return f"{expected}, {found}; each broker is an item of the list"
    match = re.fullmatch(r"(?:\[(?P<ip6>[^\[\]]*)\]|(?P<host>[^:\[\]]*))(?::(?P<port>.*))?", broker)
    if match is None:
        return f"{expected}, {found}; an IPv6 address is written [::1]:9092"
    if match["port"] is not None and not _is_port(match["port"]):
        return f"{expected}, {found}; the port is a number from 1 to 65535"
    if match["ip6"] is not None and not _is_ip6(match["ip6"]):
        return f"{expected}, {found}; only an IPv6 address stands in brackets"
    if match["host"] is not None and _HOST.fullmatch(match["host"]) is None:
        return f"{expected}, {found}; a host is a name or an IP address"
    return ""


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536


def _is_ip6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _prefix_problem(prefix: str) -> str:
    if _PREFIX.fullmatch(prefix) is None:
        return (
            "Kafka's topics have letters without accents, digits, dots, underscores and hyphens "
            f'in their names; found "{prefix[:80]}"'
        )
    if len(prefix) > MAX_PREFIX:
        return f"it has {len(prefix)} characters; {MAX_PREFIX} leave room for the topics' names"
    return ""


def client_settings(config: KafkaConfig, credentials: Mapping[str, str]) -> dict[str, Any]:
    """librdkafka's settings that producer, consumers and administration have in common.

    Raises:
        PluginError: INVALID_ARGUMENT, a file cannot be read.
    """
    settings: dict[str, Any] = {
        "bootstrap.servers": ",".join(config.brokers),
        "client.id": "prism",
        "allow.auto.create.topics": False,  # or each misspelt name would be a new topic
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": RECONNECT_AT_MOST_MS,
        "log_level": 0,  # of what it has to say, the plugin logs each thing once
    }
    given = {CREDENTIALS[name]: value for name, value in credentials.items()}
    protocol = ""
    if "username" in given:
        protocol = "SASL_"
        settings |= {
            "sasl.mechanism": config.sasl_mechanism,
            "sasl.username": given["username"],
            "sasl.password": given["password"],
        }
    settings["security.protocol"] = protocol + ("SSL" if config.tls else "PLAINTEXT")
    if isinstance(config.tls, TLS):
        tls = config.tls
        files = {
            "ssl.ca.location": tls.ca_cert,
            "ssl.certificate.location": tls.cert,
            "ssl.key.location": tls.key,
            "ssl.key.password": given.get("tls_key_password"),
        }
        for name, value in files.items():
            if value is not None:
                settings[name] = value if name == "ssl.key.password" else _fit(value)
        if tls.key is not None and (exposed := exposed_key(tls.key)):
            log.warning("%s", exposed)
    return settings


def producer_settings(config: KafkaConfig, common: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the producer: each message once, in the order given, on all replicas in sync."""
    return {
        **common,
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",  # a key's partition is that of Java's clients
        "compression.type": config.compression,
        "linger.ms": config.linger_ms,
        "message.max.bytes": config.max_message_bytes,
        "delivery.timeout.ms": int(config.delivery_timeout_seconds * 1000),
        "queue.buffering.max.kbytes": config.max_buffered_bytes // 1024,
    }


def consumer_settings(config: KafkaConfig, common: Mapping[str, Any]) -> dict[str, Any]:
    """Those of every consumer."""
    return {
        **common,
        "enable.partition.eof": True,
        "fetch.message.max.bytes": min(1024 * 1024, config.max_in_flight_bytes),
        "queued.max.messages.kbytes": config.max_in_flight_bytes // 1024,
        "auto.offset.reset": "error",
        "enable.auto.offset.store": False,
        "enable.auto.commit": False,
    }


def _fit(path: str) -> str:
    """librdkafka says which setting is at fault, but neither the file nor why."""
    if why := unfit_pem(path):
        raise _invalid(f"config: tls: {path}: {why}")
    return path


def _invalid(detail: str) -> PluginError:
    return PluginError(StatusCode.INVALID_ARGUMENT, detail)
