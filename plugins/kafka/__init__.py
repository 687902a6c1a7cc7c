"""Apache Kafka: publishing, groups of subscribers that acknowledge, and topics.

From the calls down to the broker: ``plugin`` (operations, in ``publish_operations``,
``subscribe_operations`` and ``topic_operations``) → ``publisher`` and ``subscription`` (threads of
their own around librdkafka's producer and consumer), ``cluster`` (what is asked of the brokers) →
``records`` (between a client's messages and Kafka's), ``progress`` (which offset may be committed).
"""

from .plugin import KafkaPlugin

__all__ = ["KafkaPlugin"]
