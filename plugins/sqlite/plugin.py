"""The SQLite plugin: its operations, by kind."""

from .keyvalue_operations import KeyValueOperations
from .queue_operations import QueueOperations
from .sql_operations import SQLOperations
from .watch_operations import WatchOperations


class SQLitePlugin(KeyValueOperations, WatchOperations, QueueOperations, SQLOperations):
    """Key-value with watches, queues, and SQL on one SQLite file."""
