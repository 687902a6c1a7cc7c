"""The plugin: all operations together."""

from .sql_operations import SQLOperations


class PostgresPlugin(SQLOperations):
    """One database; see docs/postgres.md."""
