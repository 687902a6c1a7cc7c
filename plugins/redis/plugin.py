"""The Redis plugin: its operations, by kind."""

from typing import cast

from msgspec import UNSET

from prism.sdk import Call, operation
from prism.sdk import keyvalue_messages as m
from prism.sdk.keyvalue import (
    Entry,
    VersionedKeyValueOperations,
    WatchOperations,
    When,
    encode_key,
)

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
    """Key-value with watches, structures, messages, streams and commands on Redis or Valkey.

    The commonest operations leave their results for later, where no cache stands before the
    store: to have a task wait for each costs more than all the rest of it.
    """

    store: RedisKeyValueStore

    def opened(self) -> None:
        """Have the key-value operations use the connection."""
        self.store = RedisKeyValueStore(
            self.connection,
            self.prefix,
            max_value_bytes=self.config.max_value_bytes,
            default_ttl=self.config.default_ttl_seconds,
        )

    @operation(idempotent=True, access="read")
    async def get(self, params: m.Key, call: Call) -> m.VersionedFound:
        """Read one key, and its version."""
        store = self.store
        if type(store) is not RedisKeyValueStore:
            return await super().get(params, call)

        def found(entry: Entry | None) -> m.VersionedFound:
            if entry is None:
                return m.VersionedFound(False)
            return m.VersionedFound(True, *entry.value.write(call), entry.version)

        return cast("m.VersionedFound", store.get_later(encode_key(params.key), found))

    @operation(access="write")
    async def set(self, params: m.VersionedSet, call: Call) -> m.Stored:
        """Set a key, always or on a condition. Not idempotent: it may undo a later write."""
        store = self.store
        conditional = params.only_if_exists or params.only_if_not_exists
        if conditional or params.if_version is not UNSET or type(store) is not RedisKeyValueStore:
            return await super().set(params, call)
        item = self._read_item(params, call)
        return cast("m.Stored", store.set_later(item, When.ALWAYS, m.Stored))
