"""Key-value, structures, messages and streams on Redis or Valkey, over RESP3.

From the calls down to the socket: ``plugin`` (operations, by kind) → ``keyvalue_store`` and the
other ``..._operations`` (which commands) → ``store`` (the shared connection and those of their
own) → ``transport`` (bytes).
"""

try:
    import hiredis  # noqa: F401 - to say what to install where it is not there
except ImportError as error:
    raise ImportError(
        f"the Redis plugin needs hiredis, which the extra 'redis' brings; docs/install.md, "
        f"'Drivers of plugins', says how to install it ({error})"
    ) from error

from .plugin import RedisPlugin

__all__ = ["RedisPlugin"]
