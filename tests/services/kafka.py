"""Apache Kafka in KRaft mode, from the jars that ``scripts/tools.sh`` has copied: one broker, and
three that are a cluster."""

import base64
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

import trustme
from cryptography.hazmat.primitives import serialization

from tests.services.server import Missing, Server, unused_port

USER = "prism"
PASSWORD = "p@ss:w/rd %1"  # with what has a meaning in a URL
CLIENT = "shop"
"""Who has the client's certificate; for ACLs, ``User:shop``."""
JARS = Path(sys.prefix) / "tools" / "kafka"
LOG_SETTINGS = {
    "showDateTime": "true",
    "defaultLogLevel": "warn",
    "log.kafka.server.KafkaRaftServer": "info",
    "log.org.apache.kafka.coordinator.group": "info",
}


class Kafka(Server):
    """One broker with three doors: ``port`` takes anybody, ``sasl_port`` ``USER`` with
    ``PASSWORD``, ``tls_port`` speaks TLS with a certificate for localhost by ``ca_file``.

    ``settings`` are more of the broker's own, such as ``{"num.partitions": 3}``. Nothing is
    lost at a kill, as the kernel lives on.
    """

    name = "kafka"
    stop_signal = signal.SIGTERM

    def __init__(self, directory: Path, **options: Any) -> None:
        super().__init__(directory, **options)
        self.sasl_port, self.tls_port, self.controller_port = (unused_port() for _ in range(3))

    @classmethod
    def check_installed(cls) -> None:
        """Raises Missing."""
        if shutil.which("java") is None:
            raise Missing("no Java: sudo apt-get install default-jre-headless")
        if not (JARS / ".complete").exists():
            raise Missing(f"no Kafka in {JARS}: sudo apt-get install maven, and scripts/tools.sh")

    @property
    def ca_file(self) -> Path:
        """Whose certificates the door with TLS shows, and takes."""
        return self.directory / "ca.pem"

    @property
    def client_file(self) -> Path:
        """A certificate that it takes, of ``CLIENT``, and its key."""
        return self.directory / "client.pem"

    def prepare(self) -> None:
        """A new cluster, a user, certificates."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        client = authority.issue_cert("client.example", common_name=CLIENT)
        client.private_key_and_cert_chain_pem.write_to_path(self.client_file)
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
        with (self.directory / "broker.pem").open("wb") as file:
            file.write(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
            for blob in certificate.cert_chain_pems:
                file.write(blob.bytes())
        (self.directory / "broker.properties").write_text(self._properties())
        cluster = self.options.get("cluster") or new_cluster()
        alone = () if "cluster" in self.options else ("--standalone",)
        users = [f"SCRAM-SHA-{bits}=[name={USER},password={PASSWORD}]" for bits in (256, 512)]
        self.tool(
            *self._java("kafka.tools.StorageTool", memory=128),
            *("format", "-t", cluster, "-c", "broker.properties", *alone),
            *(word for user in users for word in ("--add-scram", user)),
        )

    def command(self) -> list[str]:
        """The broker."""
        return [*self._java("kafka.Kafka", memory=384), "broker.properties"]

    def is_ready(self) -> bool:
        """It says so; its ports are open before."""
        with self.log_file.open("rb") as log:
            log.seek(self.log_start)
            return b"Kafka Server started" in log.read()

    def addresses(self) -> dict[str, Any]:
        """The three ports."""
        return {"port": self.port, "sasl_port": self.sasl_port, "tls_port": self.tls_port}

    @classmethod
    def attach(cls, record: dict[str, Any]) -> "Kafka | None":
        """As the base class does, with all of the ports."""
        server = super().attach(record)
        if server is not None:
            server.sasl_port, server.tls_port = record["sasl_port"], record["tls_port"]
        return server

    def _java(self, program: str, *, memory: int) -> list[str]:
        options = [f"-Dorg.slf4j.simpleLogger.{key}={value}" for key, value in LOG_SETTINGS.items()]
        # Two compilers' worth of threads would take the cores from the tests.
        lean = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
        return ["java", f"-Xmx{memory}m", *lean, *options, "-cp", f"{JARS}/*", program]

    def _properties(self) -> str:
        ports = {"PLAINTEXT": self.port, "SASL_PLAINTEXT": self.sasl_port, "SSL": self.tls_port}
        reachable = ",".join(f"{door}://127.0.0.1:{port}" for door, port in ports.items())
        jaas = (
            "org.apache.kafka.common.security.plain.PlainLoginModule required "
            f"user_{USER}='{PASSWORD}';"
        )
        settings: dict[str, Any] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{reachable},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": reachable,
            "listener.security.protocol.map": ",".join(
                [*(f"{door}:{door}" for door in ports), "CONTROLLER:PLAINTEXT"]
            ),
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": jaas,
            "listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.directory / "broker.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.ca_file,
            "listener.name.ssl.ssl.client.auth": "requested",
            "ssl.principal.mapping.rules": "RULE:^.*CN=([a-z]+).*$/$1/,DEFAULT",
            "log.dirs": self.directory / "data",
            "num.partitions": 1,
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "num.network.threads": 2,
            "num.io.threads": 2,
            "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
            **self.options.get("settings", {}),
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items() if value is not None)


class KafkaCluster:
    """Three brokers, each a controller as well: a topic has a replica on each, and two have to
    have a message before it is confirmed."""

    name = "kafka-cluster"

    def __init__(self, brokers: list[Kafka]) -> None:
        self.brokers = brokers

    @classmethod
    def check_installed(cls) -> None:
        """Raises Missing."""
        Kafka.check_installed()

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start all brokers, and wait until each is ready."""
        identity = new_cluster()
        places = (Path(tempfile.mkdtemp(prefix="kafka-", dir=directory)) for _ in range(3))
        brokers = [Kafka(place, cluster=identity) for place in places]
        voters = (f"{n}@127.0.0.1:{one.controller_port}" for n, one in enumerate(brokers, 1))
        settings = {
            "controller.quorum.bootstrap.servers": None,
            "controller.quorum.voters": ",".join(voters),
            "broker.session.timeout.ms": 4000,
            "default.replication.factor": 3,
            "min.insync.replicas": 2,
            "offsets.topic.replication.factor": 3,
        }
        cluster = cls(brokers)
        try:
            for number, broker in enumerate(brokers, 1):
                broker.options["settings"] = {**settings, "node.id": number}
                broker.prepare()
            for broker in brokers:  # which only together can decide anything
                broker.launch()
            for broker in brokers:
                broker.wait_ready()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def stop(self) -> None:
        """End all of them at once: the last ones would wait for the others."""
        for broker in self.brokers:
            broker.kill()
            broker.stop()


def new_cluster() -> str:
    """An id for a cluster."""
    return base64.urlsafe_b64encode(b"\1" + secrets.token_bytes(15)).decode().rstrip("=")
