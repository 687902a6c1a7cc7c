"""API keys: a file of hashes, and the keys that match them.

A key is 256 random bits, so that one SHA-256 protects it as well as it can be protected: there
is nothing to guess, and a slow hash would only slow down calls. ``prism_`` and the key's id are
in front, for scanners that look for leaked keys, and to find the hash without looking at all.
"""

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml
from msgspec import Meta
from msgspec.structs import replace

from prism.access.identity import Identity, unfit_name
from prism.config.document import Place, read_yaml
from prism.config.errors import ConfigError, Report
from prism.config.fields import Block, Day
from prism.config.sources import read_file, unusable
from prism.config.typecheck import check_types
from prism.contract.errors import PrismError

PREFIX = "prism_"
_is_key = re.compile(rb"prism_([0-9a-f]{12})_[0-9a-f]{64}").fullmatch
_HEADER = "# API keys of Prism, by `prism key`: hashes alone, the keys are with their owners.\n"


class KeyEntry(Block, frozen=True, omit_defaults=True):
    """One key. ``expires`` is the last day (UTC) on which it is good."""

    id: Annotated[str, Meta(pattern="^[0-9a-f]{12}$")]
    principal: Annotated[str, Meta(min_length=1)]
    hash: Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$")]
    groups: list[str] = []
    created: Day | None = None
    expires: Day | None = None
    revoked: Day | None = None

    @property
    def ends(self) -> float:
        """The Unix time from which it is not good any more."""
        if self.expires is None:
            return inf
        last = date.fromisoformat(self.expires)
        if last == date.max:
            return inf
        after = last + timedelta(days=1)
        return datetime(after.year, after.month, after.day, tzinfo=UTC).timestamp()


class _File(Block, frozen=True):
    keys: list[KeyEntry] = []


class KeyFileError(PrismError):
    """What is asked of the file of keys cannot be done."""


def read_keys(file: Path) -> list[KeyEntry]:
    """The entries of ``file``. Blocks.

    Raises:
        ConfigError: it cannot be read, others may change it, or it is wrong; lists every problem.
    """
    name = str(file)
    try:
        text = read_file(file, guarded=True)
    except ConfigError as error:
        if file.exists():
            raise
        raise unusable(name, "is not there; `prism key create` makes one") from error
    report = Report(name)
    root = read_yaml(text, report)
    if root is None:  # so begins what is written in place
        raise unusable(name, "is empty; `keys: []` says that there are none")
    at = Place(report, root)
    check_types(at, _File)
    if report.errors:
        raise ConfigError(report.errors)
    entries = msgspec.convert(root.plain(), _File).keys
    seen: set[str] = set()
    for place, entry in zip(at["keys"].items(), entries, strict=True):
        if entry.id in seen:
            place["id"].error("another key has this id")
        seen.add(entry.id)
        if why := unfit_name(entry.principal):
            place["principal"].error(f"this cannot name a principal: {why}")
        for key in ("created", "expires", "revoked"):
            try:
                date.fromisoformat(getattr(entry, key) or "2000-01-01")
            except ValueError:
                place[key].error(f"there is no day {getattr(entry, key)}")
    if report.errors:
        raise ConfigError(report.errors)
    return entries


class APIKeys:
    """The keys in ``file``, or those that were in it when it could last be used.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.use(self.read())

    def read(self) -> list[KeyEntry]:
        """What is in the file now, for ``use``. Blocks. Raises ConfigError if it cannot be used."""
        self._last_read = self._looked = _look(self.file)
        return read_keys(self.file)

    def use(self, entries: list[KeyEntry]) -> None:
        """Have these instead of those so far."""
        self._entries = {entry.id: entry for entry in entries if entry.revoked is None}

    def is_changed(self) -> bool:
        """Is the file another than when it was last read, and the same as at the look before? One
        that is written in place may be half there. Blocks."""
        before, self._looked = self._looked, _look(self.file)
        return self._looked == before != self._last_read

    def identify(self, given: bytes, now: float) -> Identity | None:
        """Whose key ``given`` is; None if it is nobody's, or not good any more.

        Takes the same time whether there is such a key or not.
        """
        matched = _is_key(given)
        if matched is None:
            return None
        entry = self._entries.get(matched[1].decode("ascii"))
        expected = entry.hash if entry is not None else _NOBODYS
        if not hmac.compare_digest(hash_of(given), expected) or entry is None:
            return None
        if now >= entry.ends:
            return None
        return Identity(entry.principal, frozenset(entry.groups), key=entry.id, expires=entry.ends)

    def has(self, identity: Identity, now: float) -> bool:
        """Is the key of ``identity`` still good, and the same caller's, with the same groups?"""
        entry = self._entries.get(identity.key)
        return (
            entry is not None
            and now < entry.ends
            and (entry.principal, frozenset(entry.groups)) == (identity.name, identity.groups)
        )


def _look(file: Path) -> tuple[int, ...] | None:
    """What differs when the file does, or who may read it; None where it is not there."""
    try:
        status = file.stat()
    except OSError:
        return None
    # ctime: of a chmod that makes it readable again, and of a copy that keeps the mtime.
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def is_api_key(credential: bytes) -> bool:
    """Does it look like a key of this file's kind?"""
    return credential.startswith(PREFIX.encode())


def hash_of(key: bytes) -> str:
    """What is kept of a key."""
    return f"sha256:{hashlib.sha256(key).hexdigest()}"


_NOBODYS = hash_of(b"")


# -- for the command line ------------------------------------------------------------


def create_key(
    file: Path, principal: str, groups: list[str], expires: str | None = None
) -> tuple[str, KeyEntry]:
    """Add a key to ``file``, which is made if it is not there; returns the key itself, which is
    nowhere else, and its entry. Blocks.

    Raises:
        KeyFileError, ConfigError: it cannot be done; nothing has changed.
    """
    if why := unfit_name(principal):
        raise KeyFileError(f"{principal!r} cannot name a principal: {why}")
    if principal.startswith(("group:", "scope:")) or principal.endswith("*"):
        raise KeyFileError(f"{principal!r} cannot name a principal: in rules it means others")
    for group in groups:
        if group.startswith("group:"):
            raise KeyFileError(
                f"a group is named without its prefix here: {group.removeprefix('group:')!r}"
            )
    identifier = secrets.token_hex(6)
    key = f"{PREFIX}{identifier}_{secrets.token_hex(32)}"
    entry = KeyEntry(
        id=identifier,
        principal=principal,
        hash=hash_of(key.encode()),
        groups=groups,
        created=today(),
        expires=expires,
    )
    with _editing(file) as entries:
        entries.append(entry)
    return key, entry


def revoke_key(file: Path, key: str) -> KeyEntry:
    """Revoke the key with the id ``key``; its entry stays, for the record. Blocks.

    Raises:
        KeyFileError, ConfigError: it cannot be done; nothing has changed.
    """
    with _editing(file, must_exist=True) as entries:
        for index, entry in enumerate(entries):
            if entry.id == key:
                entries[index] = revoked = replace(entry, revoked=entry.revoked or today())
                return revoked
        found = [entry for entry in entries if entry.principal == key]
        ids = ", ".join(entry.id for entry in found if entry.revoked is None)
        if found:
            whose = f"whose keys are {ids}" if ids else "whose keys are all revoked"
            raise KeyFileError(f"a key goes by its id; {key!r} is a principal, {whose}")
        raise KeyFileError(f"{file} has no key {key!r}; `prism key list` shows those it has")


def today() -> str:
    """The day, UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime())


@contextmanager
def _editing(file: Path, *, must_exist: bool = False) -> Iterator[list[KeyEntry]]:
    """The entries, which go into a new file in the old one's place; one editor at a time."""
    try:
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KeyFileError(f"cannot write {file}: {file.parent}: {error.strerror}") from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        is_new = not must_exist and not (file.exists() and file.stat().st_size)
        entries = [] if is_new else read_keys(file)
        changed = list(entries)
        try:
            yield changed
        finally:
            if changed != entries:
                try:
                    _write(file, changed)
                except OSError as error:
                    raise KeyFileError(f"cannot write {file}: {error.strerror}") from error
    finally:
        os.close(directory)


def _write(file: Path, entries: list[KeyEntry]) -> None:
    plain: list[Any] = [msgspec.to_builtins(entry) for entry in entries]
    text = _HEADER + yaml.safe_dump({"keys": plain}, sort_keys=False)
    status = file.stat() if file.exists() else None
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as opened:
            if status is not None:
                with suppress(PermissionError):  # root edits for the user that the proxy runs as
                    os.fchown(descriptor, status.st_uid, status.st_gid)
                os.fchmod(descriptor, status.st_mode & 0o777)
            opened.write(text)
            opened.flush()
            os.fsync(descriptor)
        Path(name).rename(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
