"""confluent-kafka without Prism, with the settings of the plugin.

Usage: python -m benchmarks.callers.kafka_alone publish|subscribe PORT TOPIC NUMBER BROKER_PID

``publish`` has as many batches of NUMBER in flight as it is told, and a sample counts batches;
``subscribe`` reads up to NUMBER messages from the topic's beginning with a new group.
"""

import secrets
import sys
import time

from confluent_kafka import Consumer, Producer

from benchmarks.callers.meter import Meter, StreamMeter, next_order
from prism_plugins.kafka.config import (
    KafkaConfig,
    client_settings,
    consumer_settings,
    producer_settings,
)

AT_ONCE = 500
VALUE = b'"%s"' % (b"x" * 1022)


class Published:
    """One sample of batches."""

    def __init__(self, producer: Producer, topic: str, batch: int, meter: Meter) -> None:
        self._producer = producer
        self._topic = topic
        self._batch = batch
        self._meter = meter
        self._began: list[float] = []
        self._reported = 0

    @property
    def in_flight(self) -> int:
        """Batches that are not confirmed."""
        return len(self._began) - len(self._meter.latencies)

    def publish(self) -> None:
        """One batch."""
        self._began.append(time.perf_counter())
        for _ in range(self._batch):
            self._producer.produce(self._topic, VALUE, on_delivery=self._report)

    def _report(self, error: object, _message: object) -> None:
        assert error is None
        self._reported += 1
        if self._reported % self._batch == 0:
            began = self._began[self._reported // self._batch - 1]
            self._meter.latencies.append(time.perf_counter() - began)


def publish(settings: dict[str, object], topic: str, batch: int, peer: int) -> None:
    producer = Producer(settings)
    while order := next_order():
        in_flight, seconds = order
        meter = Meter(peer, seconds)
        sample = Published(producer, topic, batch, meter)
        while (goes_on := time.perf_counter() < meter.until) or sample.in_flight:
            if goes_on and sample.in_flight < in_flight:
                sample.publish()
                producer.poll(0)
            else:
                producer.poll(0.05)
        meter.report()


def subscribe(settings: dict[str, object], topic: str, most: int, peer: int) -> None:
    rate = 20_000.0  # a guess; each sample tells the next one how much to read
    while order := next_order():
        _, seconds = order
        messages = min(most, max(1000, round(rate * seconds)))
        group = f"alone-{secrets.token_hex(4)}"
        meter = StreamMeter(peer)
        started = time.perf_counter()
        consumer = Consumer({**settings, "group.id": group, "auto.offset.reset": "earliest"})
        consumer.subscribe([topic])
        while meter.messages < messages:
            for message in consumer.consume(AT_ONCE, 0.1):
                meter.messages += message.error() is None and len(message.value()) > 0
        rate = meter.messages / (time.perf_counter() - started)
        meter.report()
        consumer.close()


def main(what: str, port: str, topic: str, number: str, peer: str) -> None:
    config = KafkaConfig(brokers=[f"127.0.0.1:{port}"], topic_prefix="")
    common = client_settings(config, {})
    if what == "publish":
        publish(producer_settings(config, common), topic, int(number), int(peer))
    else:
        subscribe(consumer_settings(config, common), topic, int(number), int(peer))


main(*sys.argv[1:])
