"""The plugin: all operations together."""

from .notification_operations import NotificationOperations
from .sql_operations import SQLOperations


class PostgresPlugin(SQLOperations, NotificationOperations):
    """One database; see docs/postgres.md."""
