"""The SQLite plugin: its operations, by kind."""

from prism.sdk.keyvalue import VersionedKeyValueOperations, WatchOperations
from prism.sdk.queue import QueueOperations

from .keyvalue_store import SQLiteKeyValueStore
from .queue_store import SQLiteQueueStore
from .sql_operations import SQLOperations


class SQLitePlugin(VersionedKeyValueOperations, WatchOperations, QueueOperations, SQLOperations):
    """Key-value with versions and watches, queues, and SQL on one SQLite file."""

    store: SQLiteKeyValueStore
    queues: SQLiteQueueStore
