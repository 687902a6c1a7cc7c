"""The ``config:`` block of a namespace on SQLite."""

import os
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from prism.sdk import Store


class SQLiteConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings; only ``path`` usually needs one.

    ``path``: the database file; its directory must exist. A relative one starts at
    the configuration's directory: Prism makes it absolute inside the proxy, and a
    process of its own is started there. ``:memory:`` keeps everything in memory, gone at stop.
    Several namespaces may share a file: keys are apart, SQL tables are shared.

    ``synchronous``: ``full`` makes every acknowledged write survive a power
    loss. Its price is one fsync, which concurrent writes share (group commit).
    ``normal`` survives the death of the process, but not a power loss.

    ``max_sql_write_bytes``: what one statement may write, to temporary files (a large sort)
    and to the write-ahead log.

    ``max_value_bytes``: half of the default frame, so that a value also fits
    when it travels as base64.
    """

    credential_names: ClassVar[tuple[str, ...]] = ()
    one_process: ClassVar[str] = (
        "of several processes on one file each waits for the others' commits, and none sees what "
        "the others change, for watchers and queues; one commits the calls of many clients together"
    )

    path: Annotated[str, Meta(min_length=1, pattern=r"^[^\x00]+$", extra={"path": True})] = (
        "prism.db"
    )
    synchronous: Literal["full", "normal"] = "full"
    busy_timeout_ms: Annotated[int, Meta(ge=0, le=60_000)] = 5_000
    max_value_bytes: Annotated[int, Meta(ge=1, le=512 * 1024 * 1024)] = 512 * 1024
    default_ttl_seconds: Annotated[float, Meta(gt=0)] | None = None
    readers: Annotated[int, Meta(ge=1, le=64)] = 4
    sql_timeout_seconds: Annotated[float, Meta(gt=0)] = 30.0
    max_rows: Annotated[int, Meta(ge=1)] = 1_000
    max_sql_write_bytes: Annotated[int, Meta(ge=1024 * 1024)] = 256 * 1024 * 1024

    @property
    def in_memory(self) -> bool:
        """Whether there is no file."""
        return self.path == ":memory:"

    def store(self, namespace: str, credentials: Mapping[str, str]) -> Store | None:
        """The file; see ``prism.contract.settings``. Its keys are apart, and its tables are not."""
        del namespace, credentials
        if self.in_memory:
            return None
        file = os.path.realpath(self.path)
        return Store(
            frozenset((file,)), "", f"the SQLite file {file}", "give each a config.path of its own"
        )
