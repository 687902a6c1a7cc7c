"""The groups there are, and the operations of each."""

from prism.sdk.keyvalue import KeyValueOperations, WatchOperations
from prism.sdk.queue import QueueOperations

GROUPS: dict[str, frozenset[str]] = {
    "key_value": frozenset(KeyValueOperations.operations),
    "kv_versions": frozenset(),  # fields of operations of key_value
    "watch": frozenset(WatchOperations.operations),
    "queue": frozenset(QueueOperations.operations),
    "notifications": frozenset({"notify", "listen"}),
    "sql": frozenset({"query", "execute"}),
    "topics": frozenset(
        {
            "publish",
            "publish_batch",
            "subscribe",
            "read",
            "topics",
            "create_topic",
            "delete_topic",
            "describe_topic",
            "offsets",
            "lag",
            "seek",
        }
    ),
}
