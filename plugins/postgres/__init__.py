"""Key-value, queues, SQL and notifications on PostgreSQL.

From the calls down to the wire: ``plugin`` (operations) → ``statements`` (what clients' SQL does)
and ``keyvalue`` (Prism's own) → ``pool`` and ``pipeline`` (whose connection) → ``connection``.
"""

from .config import PostgresConfig as Config

try:
    import psycopg.pq  # noqa: F401 - to say what to install where it is not there
except ImportError as error:
    _MISSING = (
        f"the PostgreSQL plugin needs psycopg, which the extra 'postgres' brings; docs/install.md, "
        f"'Drivers of plugins', says how to install it ({error})"
    )

    def __getattr__(name: str) -> object:
        """A configuration can be checked without the driver; the plugin is not there."""
        if name == "PostgresPlugin":
            raise ImportError(_MISSING)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
else:
    from .plugin import PostgresPlugin

__all__ = ["Config", "PostgresPlugin"]
