"""And Kafka: batches published, and a stream of messages, beside its client alone?

confluent-kafka alone is a process that does nothing else, with the settings of the plugin: each
batch is confirmed by all replicas in sync, each message once. What is subscribed to is read from
the beginning of its topic by a new group, whose forming counts as well.
"""

import json
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Producer

from benchmarks.effort import Effort
from benchmarks.lineup import Lineup, Unavailable
from benchmarks.load import h2load
from benchmarks.load.target import Target
from benchmarks.machine import cpu_seconds
from benchmarks.processes import Caller, children
from benchmarks.report.page import Section
from benchmarks.report.tables import absent, microseconds_each, table, verdict
from benchmarks.samples import NO_LATENCIES, Load, Results, Sample, SideFailed, take_turns
from benchmarks.sides import prism
from tests.services.kafka import Kafka
from tests.services.server import Missing

ALONE, PRISM = "confluent-kafka alone", "Prism, spawned"
BATCHED = f"{PRISM}, batch_size 100"
BATCH = 500
FEW = Load(4)
"""Batches in flight."""
STREAM = Load(1)
VALUE = b'"%s"' % (b"x" * 1022)
MESSAGE = b'{"value":%s}' % VALUE
MESSAGES, FEW_MESSAGES = 500_000, 50_000
"""In the topic that is subscribed to."""
FILL_SECONDS = 60
LIMITS = {"max_payload_bytes": 4 * 1024 * 1024}


def measure(effort: Effort) -> Section:
    text: list[str] = []
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        try:
            broker = Kafka.start(Path(name))
        except Missing as reason:
            return Section("\n".join(absent({"Kafka": str(reason)})))
        try:
            with _proxy(Path(name), broker) as (pid, url):
                for part in (_publishing, _subscribing):
                    lines, of_part = part(effort, broker, pid, url)
                    text += lines
                    failed |= of_part
        finally:
            broker.stop()
    return Section("\n".join(text), failed=failed)


@contextmanager
def _proxy(folder: Path, broker: Kafka) -> Iterator[tuple[int, str]]:
    config = {"brokers": [f"127.0.0.1:{broker.port}"], "topic_prefix": ""}
    namespace = {"name": "events", "backend": "kafka", "config": config, "limits": LIMITS}
    with prism.prism(folder, [namespace], prism.fastest_codec()) as up:
        yield up


def _call(url: str, operation: str, params: str | bytes) -> None:
    """One call with curl, which must succeed."""
    command = ["curl", "-sS", "--fail-with-body", "--data-binary", "@-"]
    done = subprocess.run(
        [*command, f"{url}/v1/events/{operation}"],
        input=params.encode() if isinstance(params, str) else params,
        capture_output=True,
    )
    if done.returncode:
        raise Unavailable(done.stdout.decode() or done.stderr.decode())


def _body(topic: str) -> bytes:
    return b'{"topic":"%s","messages":[%s]}' % (topic.encode(), b",".join([MESSAGE] * BATCH))


def _fill(broker: Kafka, topic: str, messages: int) -> None:
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{broker.port}", "linger.ms": 5})
    for _ in range(messages):
        while True:
            try:
                producer.produce(topic, VALUE)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(FILL_SECONDS):
        raise Unavailable(f"the topic could not be filled within {FILL_SECONDS} s")


def _publishing(
    effort: Effort, broker: Kafka, pid: int, url: str
) -> tuple[list[str], dict[str, str]]:
    _call(url, "create_topic", '{"topic":"published","partitions":4}')
    peers = children(pid, "prism_plugins.kafka")
    body = _body("published")
    with Lineup() as lineup:
        lineup.add(ALONE, _alone("publish", broker, "published", BATCH))
        target = Target(
            f"{url}/v1/events/publish_batch", [pid], peers, make_body=lambda _size: body
        )
        lineup.sides[PRISM] = target
        results = take_turns(lineup.sides, [FEW], rounds=effort.rounds, seconds=effort.seconds)
    rows = _rows(results, list(lineup.sides), FEW, BATCH)
    head = (f"publish_batch of {BATCH}, 4 in flight", "messages/s", f"x {ALONE}", *CPU)
    ratio = results.ratio(PRISM, ALONE, FEW, lambda sample: sample.rate)
    what = f"Messages of 1 KB published, {PRISM} / {ALONE}"
    text = [table(head, rows), "", *absent(lineup.missing | results.failed)]
    return [*text, verdict(what, ratio, 0.8, at_least=True), ""], results.failed


def _subscribing(
    effort: Effort, broker: Kafka, pid: int, url: str
) -> tuple[list[str], dict[str, str]]:
    _call(url, "create_topic", '{"topic":"subscribed","partitions":4}')
    messages = FEW_MESSAGES if effort.quick else MESSAGES
    _fill(broker, "subscribed", messages)
    peers = children(pid, "prism_plugins.kafka")
    with Lineup() as lineup:
        lineup.add(ALONE, _alone("subscribe", broker, "subscribed", messages))
        lineup.sides[PRISM] = _Subscriber(url, pid, peers, messages)
        lineup.sides[BATCHED] = _Subscriber(url, pid, peers, messages, batch_size=100)
        results = take_turns(lineup.sides, [STREAM], rounds=effort.rounds, seconds=effort.seconds)
    rows = _rows(results, list(lineup.sides), STREAM, 1)
    head = ("subscribe, one stream", "messages/s", f"x {ALONE}", *CPU)
    rate = None
    if results.has(BATCHED, STREAM):
        rate = results.median(BATCHED, STREAM, lambda sample: sample.rate)
    what = f"Messages of 1 KB a second to a subscriber, {BATCHED}"
    text = [table(head, rows), "", *absent(lineup.missing | results.failed)]
    return [*text, verdict(what, rate, 50_000, at_least=True)], results.failed


CPU = ("proxy or client CPU µs", "plugin or broker CPU µs")


def _rows(results: Results, sides: list[str], load: Load, each: int) -> list[list[str]]:
    rows = []
    for name in sides:
        if not results.has(name, load):
            continue
        ratio = results.ratio(name, ALONE, load, lambda sample: sample.rate)
        cpu = [
            results.median(name, load, microseconds_each(value)) / each
            for value in (lambda s: s.cpu, lambda s: s.peer_cpu)
        ]
        rows.append(
            [
                name,
                f"{results.median(name, load, lambda sample: sample.rate) * each:,.0f}",
                "" if ratio is None else f"{ratio:.2f}",
                *(f"{value:,.1f}" for value in cpu),
            ]
        )
    return rows


def _alone(what: str, broker: Kafka, topic: str, number: int) -> Caller:
    return Caller("kafka_alone", what, str(broker.port), topic, str(number), str(broker.pid))


class _Subscriber:
    """Reads a topic from its beginning through the proxy, with h2load, as lines of JSON."""

    def __init__(
        self, url: str, pid: int, peers: list[int], most: int, batch_size: int = 1
    ) -> None:
        self._url, self._pid, self._peers, self._most = url, pid, peers, most
        self._batch_size = batch_size
        self._rate = 20_000.0  # a guess; each sample tells the next one how much to ask for

    def __call__(self, _load: Load, seconds: float) -> Sample:
        messages = min(self._most, max(1000, round(self._rate * seconds)))
        before = cpu_seconds(self._pid), sum(map(cpu_seconds, self._peers))
        started = time.perf_counter()
        self._read(messages)
        took = time.perf_counter() - started
        self._rate = messages / took
        return Sample(
            calls=messages,
            seconds=took,
            quantiles=NO_LATENCIES,
            cpu=cpu_seconds(self._pid) - before[0],
            peer_cpu=sum(map(cpu_seconds, self._peers)) - before[1],
        )

    def _read(self, messages: int) -> None:
        params = {
            "topics": ["subscribed"],
            "group": secrets.token_hex(4),
            "auto_acknowledge": True,
            "limit": messages,
            "batch_size": self._batch_size,
        }
        with tempfile.NamedTemporaryFile("w") as body:
            json.dump(params, body)
            body.flush()
            accept = "--header=accept: application/x-ndjson"
            url = f"{self._url}/v1/events/subscribe"
            command = [h2load.PROGRAM, "-n1", "-c1", f"--data={body.name}", accept, url]
            done = subprocess.run(command, capture_output=True, text=True)
        if "1 2xx" not in done.stdout:
            raise SideFailed(f"the subscription failed: {done.stdout[-300:]}")
