"""Apache Kafka: publishing, groups of subscribers that acknowledge, and topics.

From the calls down to the broker: ``plugin`` (operations, in ``publish_operations``,
``subscribe_operations`` and ``topic_operations``) → ``publisher`` and ``subscription`` (threads of
their own around librdkafka's producer and consumer), ``cluster`` (what is asked of the brokers) →
``records`` (between a client's messages and Kafka's), ``progress`` (which offset may be committed).
"""

from prism.sdk.drivers import without_driver

from .config import KafkaConfig as Config

try:
    import confluent_kafka  # noqa: F401 - to say what to install where it is not there
except ImportError as error:
    __getattr__ = without_driver(__name__, "KafkaPlugin", "Kafka", "confluent-kafka", error)
else:
    from .plugin import KafkaPlugin

__all__ = ["Config", "KafkaPlugin"]
