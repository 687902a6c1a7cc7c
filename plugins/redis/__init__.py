"""Key-value, structures, messages and streams on Redis or Valkey, over RESP3.

From the calls down to the socket: ``plugin`` (operations, by kind) → ``keyvalue_store`` and the
other ``..._operations`` (which commands) → ``store`` (the shared connection and those of their
own) → ``transport`` (bytes).
"""

from .config import RedisConfig as Config

try:
    import hiredis  # noqa: F401 - to say what to install where it is not there
except ImportError as error:
    _MISSING = (
        f"the Redis plugin needs hiredis, which the extra 'redis' brings; docs/install.md, "
        f"'Drivers of plugins', says how to install it ({error})"
    )

    def __getattr__(name: str) -> object:
        """A configuration can be checked without the driver; the plugin is not there."""
        if name == "RedisPlugin":
            raise ImportError(_MISSING)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
else:
    from .plugin import RedisPlugin

__all__ = ["Config", "RedisPlugin"]
