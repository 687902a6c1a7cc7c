"""The ``config:`` and ``credentials:`` of a namespace, and librdkafka's settings for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from prism.sdk import PluginError, StatusCode

File = Annotated[str, Meta(min_length=1, extra={"path": True})]
Seconds = Annotated[float, Meta(gt=0, le=3600)]

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
ADMIN_TIMEOUT_MS = 10_000


class TLS(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``ca_cert``: whose certificates brokers show; the system's without. ``cert`` and ``key``:
    this client's own, where the brokers want one."""

    ca_cert: File | None = None
    cert: File | None = None
    key: File | None = None


class KafkaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings; ``brokers`` and ``topic_prefix`` must be there.

    ``topic_prefix``: what the names of the namespace's topics begin with in Kafka, and never at
    its clients. ``""`` opens all topics of the cluster, except its internal ones (``__…``).

    ``consumer_group``: the group of a ``subscribe`` that names none; one that does has the group
    ``consumer_group.NAME``. Without it ``prism-NAMESPACE``.

    ``sasl_mechanism`` counts where there are credentials. PLAIN shows the password to whoever
    can read the connection, so it wants ``tls``, or ``sasl_plain_without_tls``.

    ``max_in_flight_bytes`` bounds what one subscription has handed out and not got back.

    ``stall_seconds``: a subscription behind which messages wait, and that has not moved for so
    long, is reported, and ended if it is not for its client that it waits.

    ``connect_timeout_seconds`` is well below the proxy's ``start_timeout_seconds`` (10): whoever is
    out of time at the same moment cannot say why no broker was reached.
    """

    brokers: Annotated[
        list[
            Annotated[
                str,
                Meta(
                    pattern=r"^(\[[0-9a-fA-F:.]+\]|[^\s:/,@\[\]]+)(:[0-9]{1,5})?$",
                    extra={"form": "host:port", "private": True},  # a URL may have a password
                ),
            ]
        ],
        Meta(min_length=1),
    ]
    topic_prefix: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]*$", max_length=200)]
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

    def check(self, credentials: Mapping[str, str]) -> None:
        """Raise PluginError for what does not fit together, before anything starts."""
        given = _credentials(credentials)
        plain = self.sasl_mechanism == "PLAIN" and not (self.tls or self.sasl_plain_without_tls)
        if plain and "username" in given:
            raise _invalid(
                "config: sasl_mechanism PLAIN would show the password to whoever reads the "
                "connection: set tls, or a SCRAM mechanism, or sasl_plain_without_tls: true"
            )
        if isinstance(self.tls, TLS) and (self.tls.cert is None) is not (self.tls.key is None):
            raise _invalid("config: tls needs cert and key, or neither")


def client_settings(config: KafkaConfig, credentials: Mapping[str, str]) -> dict[str, Any]:
    """librdkafka's settings that producer, consumers and administration have in common.

    Raises:
        PluginError: INVALID_ARGUMENT, what does not fit together.
    """
    settings: dict[str, Any] = {
        "bootstrap.servers": ",".join(config.brokers),
        "client.id": "prism",
        "allow.auto.create.topics": False,  # or each misspelt name would be a new topic
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": RECONNECT_AT_MOST_MS,
        "log_level": 0,  # of what it has to say, the plugin logs each thing once
    }
    config.check(credentials)
    given = _credentials(credentials)
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
                settings[name] = value if name == "ssl.key.password" else _readable(value)
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


def _readable(path: str) -> str:
    """librdkafka says which setting is at fault, but neither the file nor why."""
    try:
        with Path(path).open("rb"):
            return path
    except OSError as error:
        raise _invalid(f"config: tls: {path}: {error.strerror}") from error


def _credentials(credentials: Mapping[str, str]) -> dict[str, str]:
    unknown = sorted(set(credentials) - set(CREDENTIALS))
    if unknown:
        raise _invalid(
            f"credentials: {unknown[0]!r} means nothing here; there are username, password "
            "(or sasl_username, sasl_password) and tls_key_password"
        )
    given = {CREDENTIALS[name]: value for name, value in credentials.items()}
    if ("username" in given) is not ("password" in given):
        missing = "password" if "username" in given else "username"
        raise _invalid(f"credentials: {missing!r} is missing; SASL needs both")
    return given


def _invalid(detail: str) -> PluginError:
    return PluginError(StatusCode.INVALID_ARGUMENT, detail)
