"""The content of files: read once, hashed, and kept where nobody can change it.

Bytes go from the file into the hash and, in the same pass, into a sealed file
in memory. So what is run or imported later is what was hashed, whatever happens
to the file meanwhile.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prism.verification.refusals import CopyFailed, TooLarge
from prism.verification.trust import Opened, Trust

MAX_FILE = 1024 * 1024 * 1024
"""Bytes of a plugin's file; a sealed copy lies in memory."""
_CHUNK = 1024 * 1024
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
# Of Linux 6.3; Python's os module knows them from 3.14 on.
_MFD_EXEC = 0x10


@dataclass(frozen=True)
class Digest:
    """SHA-256 of a file's content, or of a tree's list of files."""

    kind: str
    hexdigest: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.hexdigest}"


@dataclass(frozen=True)
class Content:
    """What is to be judged: the plugin's file, or its package with the digest of each file."""

    path: str
    digest: Digest
    files: Mapping[str, str]


FILE = "sha256"
TREE = "sha256-tree"


def hash_file(opened: Opened, trust: Trust, copy: int | None = None) -> Digest:
    """Hash an open file, and write what was hashed to ``copy``. Blocks.

    Raises:
        TooLarge: it has, or has grown to, more than ``MAX_FILE`` bytes.
    """
    hashed = hashlib.sha256()
    size = 0
    os.lseek(opened.descriptor, 0, os.SEEK_SET)
    while chunk := _read(opened, trust):
        size += len(chunk)
        if size > MAX_FILE:
            raise TooLarge(
                trust.plugin,
                opened.path,
                "it is too large",
                f"at most {MAX_FILE} bytes",
                "make it smaller",
            )
        hashed.update(chunk)
        rest = memoryview(chunk)
        while copy is not None and rest:
            rest = rest[os.write(copy, rest) :]
    return Digest(FILE, hashed.hexdigest())


def _read(opened: Opened, trust: Trust) -> bytes:
    try:
        return os.read(opened.descriptor, _CHUNK)
    except OSError as error:
        raise trust.unreadable(opened.path, error) from None


def sealed_copy(opened: Opened, trust: Trust) -> tuple[int, Digest]:
    """A copy of an open file in memory that not even we can change, and its digest. Blocks.

    Raises:
        PluginRefused: it cannot be read, or not be copied.
    """
    try:
        copy = _memory_file(Path(opened.path).name)
        try:
            digest = hash_file(opened, trust, copy)
            fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(copy)
            raise
    except OSError as error:
        raise CopyFailed(
            trust.plugin,
            opened.path,
            f"it cannot be copied into memory: {error.strerror}",
            "memory for it, and a system that runs files there (sysctl vm.memfd_noexec below 2)",
            "make room, or change the setting",
        ) from None
    return copy, digest


def _memory_file(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name[:200], flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name[:200], flags)  # before Linux 6.3
