"""Key-value and SQL on SQLite: the embedded default, no server needed.

From the calls down to the file: ``plugin`` (operations) → ``keyvalue`` and
``user_sql`` (what one operation does to a connection) → ``database`` (which
connection, in which thread) → ``batching`` and ``transaction`` (group commit).
"""

from .config import SQLiteConfig as Config
from .plugin import SQLitePlugin

__all__ = ["Config", "SQLitePlugin"]
