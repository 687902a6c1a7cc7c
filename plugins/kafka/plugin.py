"""The Kafka plugin: its operations, by kind."""

from .publish_operations import PublishOperations
from .subscribe_operations import SubscribeOperations
from .topic_operations import TopicOperations


class LogOperations(PublishOperations, SubscribeOperations, TopicOperations, group="topics"):
    """Topics that are logs: a group of operations, which no other plugin has yet."""


class KafkaPlugin(LogOperations):
    """Publishing to Kafka's topics, subscribing to them, and looking after them."""
