"""Key-value, structures, messages and streams on Redis or Valkey, over RESP3.

From the calls down to the socket: ``plugin`` (operations, by kind) → ``keyvalue_store`` and the
other ``..._operations`` (which commands) → ``store`` (the shared connection and those of their
own) → ``transport`` (bytes).
"""

from prism.sdk.drivers import without_driver

from .config import RedisConfig as Config

try:
    import hiredis  # noqa: F401 - to say what to install where it is not there
except ImportError as error:
    __getattr__ = without_driver(__name__, "RedisPlugin", "Redis", "hiredis", error)
else:
    from .plugin import RedisPlugin

__all__ = ["Config", "RedisPlugin"]
