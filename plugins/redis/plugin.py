"""The Redis plugin: its operations, by kind."""

from prism.sdk.keyvalue import VersionedKeyValueOperations, WatchOperations

from .command_operations import CommandOperations
from .keyvalue_store import RedisKeyValueStore
from .message_operations import MessageOperations
from .stream_operations import StreamOperations
from .structure_operations import StructureOperations


class RedisPlugin(
    StructureOperations,
    MessageOperations,
    StreamOperations,
    CommandOperations,
    VersionedKeyValueOperations,
    WatchOperations,
):
    """Key-value with watches, structures, messages, streams and commands on Redis or Valkey."""

    store: RedisKeyValueStore

    def opened(self) -> None:
        """Have the key-value operations use the connection."""
        self.store = RedisKeyValueStore(
            self.connection,
            self.prefix,
            max_value_bytes=self.config.max_value_bytes,
            default_ttl=self.config.default_ttl_seconds,
        )
