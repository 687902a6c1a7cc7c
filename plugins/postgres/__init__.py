"""Key-value, queues, SQL and notifications on PostgreSQL.

From the calls down to the wire: ``plugin`` (operations) → ``statements`` (what clients' SQL does)
and ``keyvalue`` (Prism's own) → ``pool`` and ``pipeline`` (whose connection) → ``connection``.
"""

from prism.sdk.drivers import without_driver

from .config import PostgresConfig as Config

try:
    import psycopg.pq  # noqa: F401 - to say what to install where it is not there
except ImportError as error:
    __getattr__ = without_driver(__name__, "PostgresPlugin", "PostgreSQL", "psycopg", error)
else:
    from .plugin import PostgresPlugin

__all__ = ["Config", "PostgresPlugin"]
