"""What the key-value operations take and give (see `keyvalue`).

An unknown field in params is an error: it may be a typing mistake.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from prism.sdk.value import Encoding

MAX_KEY_BYTES = 1024
MAX_KEYS = 1_000
"""In one mget, mset or mdelete."""

MAX_SCAN = 10_000

KeyText = Annotated[
    str, Meta(min_length=1, max_length=MAX_KEY_BYTES, description="1 to 1024 bytes of UTF-8")
]
Seconds = Annotated[float, Meta(ge=0)]
TimeToLive = Annotated[
    Seconds, Meta(description="absent or null: the namespace's default; 0: never expires")
]
KeyList = Annotated[list[KeyText], Meta(max_length=MAX_KEYS)]
Version = Annotated[
    str, Meta(description="changes with each write of the value; text without a meaning to clients")
]
AnyValue = Annotated[Raw, Meta(description="any JSON; or base64 text, with encoding base64")]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Key(msgspec.Struct, forbid_unknown_fields=True):
    """One key."""

    key: KeyText


class Keys(msgspec.Struct, forbid_unknown_fields=True):
    """Several keys."""

    keys: KeyList


class VersionedKey(Key, forbid_unknown_fields=True):
    """Params of delete. ``if_version``: only where the key has this version."""

    if_version: Version | UnsetType = UNSET


class Item(msgspec.Struct, forbid_unknown_fields=True):
    """One key to set. ``ttl_seconds``: absent the namespace's default, 0 never expires."""

    key: KeyText
    value: AnyValue
    encoding: Encoding | UnsetType = UNSET
    ttl_seconds: TimeToLive | None = None


class Set(Item, forbid_unknown_fields=True):
    """Params of set."""

    only_if_not_exists: bool = False
    only_if_exists: bool = False


class VersionedSet(Set, forbid_unknown_fields=True):
    """Params of set. ``if_version``: only where the key has this version."""

    if_version: Version | UnsetType = UNSET


class SetMany(msgspec.Struct, forbid_unknown_fields=True):
    """Params of mset: all are set, or none."""

    items: Annotated[list[Item], Meta(max_length=MAX_KEYS)]


class Scan(msgspec.Struct, forbid_unknown_fields=True):
    """Params of scan. ``cursor`` comes from the page before."""

    prefix: str = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_SCAN)] = 100
    cursor: str = ""
    keys_only: bool = False


class ScanAll(msgspec.Struct, forbid_unknown_fields=True):
    """Params of scan as a stream. ``cursor``: where an earlier one was left."""

    prefix: str = ""
    cursor: str = ""
    keys_only: bool = False


class Prefix(msgspec.Struct, forbid_unknown_fields=True):
    """Params of count."""

    prefix: str = ""


class Expire(msgspec.Struct, forbid_unknown_fields=True):
    """Params of expire; 0 means now."""

    key: KeyText
    ttl_seconds: Seconds


class Increment(msgspec.Struct, forbid_unknown_fields=True):
    """Params of increment. A missing key counts as ``initial``."""

    key: KeyText
    delta: Int64 = 1
    initial: Int64 = 0


class CompareAndSwap(msgspec.Struct, forbid_unknown_fields=True):
    """Params of compare_and_swap. Without ``old_value`` the key must not exist."""

    key: KeyText
    new_value: AnyValue
    old_value: AnyValue | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET
    ttl_seconds: TimeToLive | None = None


class CompareAndDelete(msgspec.Struct, forbid_unknown_fields=True):
    """Params of compare_and_delete."""

    key: KeyText
    old_value: AnyValue
    encoding: Encoding | UnsetType = UNSET


class Watch(msgspec.Struct, forbid_unknown_fields=True):
    """Params of watch. ``existing``: first the keys there are, then an event ``ready``.
    ``after`` is the position of an earlier watch's message."""

    prefix: str = ""
    existing: bool = False
    after: str = ""
    keys_only: bool = False


class Found(msgspec.Struct):
    """Result of get."""

    found: bool
    value: AnyValue | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET


class VersionedFound(Found):
    """Result of get, with the version."""

    version: Version | UnsetType = UNSET


class FoundKey(msgspec.Struct):
    """One of mget's results."""

    key: str
    found: bool
    value: AnyValue | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET


class VersionedFoundKey(FoundKey):
    """One of mget's results, with the version."""

    version: Version | UnsetType = UNSET


class FoundKeys(msgspec.Struct):
    """Result of mget, in the order of the keys asked for."""

    results: list[FoundKey]
    found_count: int


class VersionedFoundKeys(msgspec.Struct):
    """Result of mget, in the order of the keys asked for."""

    results: list[VersionedFoundKey]
    found_count: int


class ScanItem(msgspec.Struct):
    """One of scan's results."""

    key: str
    value: AnyValue | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET


class Page(msgspec.Struct):
    """Result of scan. ``cursor`` is absent on the last page."""

    items: list[ScanItem]
    cursor: str | UnsetType = UNSET


class Changed(msgspec.Struct):
    """One of watch's messages: a key was set or deleted; ``ready`` ends those there were."""

    event: Literal["set", "delete", "ready"]
    key: str | UnsetType = UNSET
    value: AnyValue | UnsetType = UNSET
    encoding: Encoding | UnsetType = UNSET


class Exists(msgspec.Struct):
    """Result of exists."""

    exists: bool


class Stored(msgspec.Struct):
    """Result of set: false where a condition did not hold."""

    stored: bool


class StoredCount(msgspec.Struct):
    """Result of mset."""

    stored: int


class Deleted(msgspec.Struct):
    """Result of delete and compare_and_delete: false where nothing was deleted."""

    deleted: bool


class DeletedCount(msgspec.Struct):
    """Result of mdelete: how many of the keys there were."""

    deleted: int


class Count(msgspec.Struct):
    """Result of count."""

    count: int


class Remaining(msgspec.Struct):
    """Result of ttl: seconds; -1 never expires, -2 no such key."""

    found: bool
    ttl_seconds: int | float


class KeyExisted(msgspec.Struct):
    """Result of expire."""

    key_existed: bool


class ExpirationRemoved(msgspec.Struct):
    """Result of persist: false where the key never expires, or is not there."""

    expiration_removed: bool


class Total(msgspec.Struct):
    """Result of increment."""

    value: int


class Swapped(msgspec.Struct):
    """Result of compare_and_swap: false where the key has another value."""

    swapped: bool
