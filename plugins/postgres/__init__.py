"""Key-value, queues, SQL and notifications on PostgreSQL.

From the calls down to the wire: ``plugin`` (operations) → ``statements`` (what clients' SQL does)
and ``keyvalue`` (Prism's own) → ``pool`` and ``pipeline`` (whose connection) → ``connection``.
"""

try:
    import psycopg.pq  # noqa: F401 - to say what to install where it is not there
except ImportError as error:
    raise ImportError(
        f"the PostgreSQL plugin needs psycopg, which the extra 'postgres' brings; docs/install.md, "
        f"'Drivers of plugins', says how to install it ({error})"
    ) from error

from .plugin import PostgresPlugin

__all__ = ["PostgresPlugin"]
