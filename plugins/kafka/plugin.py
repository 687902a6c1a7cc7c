"""The Kafka plugin: its operations, by kind."""

from .publish_operations import PublishOperations
from .subscribe_operations import SubscribeOperations
from .topic_operations import TopicOperations


class KafkaPlugin(PublishOperations, SubscribeOperations, TopicOperations):
    """Publishing to Kafka's topics, subscribing to them, and looking after them."""
