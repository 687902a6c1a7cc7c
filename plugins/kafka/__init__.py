"""Apache Kafka: publishing, groups of subscribers that acknowledge, and topics.

From the calls down to the broker: ``plugin`` (operations, in ``publish_operations``,
``subscribe_operations`` and ``topic_operations``) → ``publisher`` and ``subscription`` (threads of
their own around librdkafka's producer and consumer), ``cluster`` (what is asked of the brokers) →
``records`` (between a client's messages and Kafka's), ``progress`` (which offset may be committed).
"""

from .config import KafkaConfig as Config

try:
    import confluent_kafka  # noqa: F401 - to say what to install where it is not there
except ImportError as error:
    _MISSING = (
        f"the Kafka plugin needs confluent-kafka, which the extra 'kafka' brings; docs/install.md, "
        f"'Drivers of plugins', says how to install it ({error})"
    )

    def __getattr__(name: str) -> object:
        """A configuration can be checked without the driver; the plugin is not there."""
        if name == "KafkaPlugin":
            raise ImportError(_MISSING)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
else:
    from .plugin import KafkaPlugin

__all__ = ["Config", "KafkaPlugin"]
