import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.services.fixtures import StartServer
from tests.services.kafka import PASSWORD, USER, Kafka
from tests.services.server import start_time

LIMIT = 60.0


def topics(**settings: object) -> set[str]:
    client = AdminClient({"log_level": 0, **settings})
    return set(client.list_topics(timeout=LIMIT).topics)


def make_topic(server: Kafka, name: str) -> None:
    client = AdminClient({"bootstrap.servers": f"127.0.0.1:{server.port}"})
    client.create_topics([NewTopic(name, 1, 1)])[name].result(LIMIT)


def write(server: Kafka, topic: str, value: bytes) -> None:
    settings = {"bootstrap.servers": f"127.0.0.1:{server.port}", "log_level": 0}
    producer = Producer(settings)
    producer.produce(topic, value)
    assert not producer.flush(LIMIT)


def read(server: Kafka, topic: str) -> bytes:
    settings = {"bootstrap.servers": f"127.0.0.1:{server.port}", "group.id": "test"}
    consumer = Consumer(settings)
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(LIMIT)
        assert message is not None
        assert message.error() is None
        return message.value()
    finally:
        consumer.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_its_doors(kafka: Kafka, mechanism: str) -> None:
    open_door = topics(**{"bootstrap.servers": f"127.0.0.1:{kafka.port}"})
    sasl = {
        "bootstrap.servers": f"127.0.0.1:{kafka.sasl_port}",
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": mechanism,
        "sasl.username": USER,
        "sasl.password": PASSWORD,
    }
    assert topics(**sasl) == open_door
    tls = {
        "bootstrap.servers": f"127.0.0.1:{kafka.tls_port}",
        "security.protocol": "SSL",
        "ssl.ca.location": str(kafka.ca_file),
    }
    assert topics(**tls) == open_door


def test_what_was_written_survives_a_kill(start_server: StartServer) -> None:
    server = start_server(Kafka)
    make_topic(server, "kept")
    write(server, "kept", b"one")
    pid = server.pid
    server.kill()
    assert not start_time(pid)
    client = AdminClient({"bootstrap.servers": f"127.0.0.1:{server.port}", "log_level": 0})
    with pytest.raises(KafkaException):
        client.list_topics(timeout=0.5)
    server.restart()
    assert read(server, "kept") == b"one"
