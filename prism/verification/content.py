"""The content of plugins: read once, hashed, and kept where nobody can change it.

Of a file, the bytes go into the hash and, in the same pass, into a sealed file in
memory. A Python package becomes a value, the bytes of all its files. So what is run
or imported later is what was hashed, whatever happens to the files meanwhile.

The digest of a package is the SHA-256 of its list of files, which any shell can
make (docs/plugin-verification.md shows how). ``__pycache__`` is not part of it, and
never used: stale or forged bytecode cannot take the place of the source.

Everything here blocks on the disk.
"""

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from prism.verification.refusals import Check
from prism.verification.trust import Opened, Trust

MAX_FILE = 1024 * 1024 * 1024
"""Bytes of a plugin's file; a sealed copy lies in memory."""
MAX_FILES = 10_000
MAX_BYTES = 256 * 1024 * 1024
MAX_DEPTH = 32
"""Files, bytes and levels of a package: it is held in memory while it is imported."""
LEFT_OUT = "__pycache__"
TREE_HEADER = b"prism tree v1\n"
"""The first line of what is hashed, so that no file can be taken for a tree."""

_CHUNK = 1024 * 1024
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
# Of Linux 6.3; Python's os module knows them from 3.14 on.
_MFD_EXEC = 0x10
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

FILE = "sha256"
TREE = "sha256-tree"


@dataclass(frozen=True)
class Digest:
    """SHA-256 of a file's content (``FILE``), or of a package's list of files (``TREE``)."""

    kind: str
    hexdigest: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.hexdigest}"


@dataclass(frozen=True)
class Content:
    """What is to be judged: the plugin's file, or its package with the SHA-256 of each file."""

    path: str
    digest: Digest
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tree:
    """A package, or a module of one file, as it was read. ``files`` maps names to bytes.

    ``path`` is the directory or the file; names are relative to a directory, with
    slashes, and there is just one, the file's own, otherwise.
    """

    path: str
    files: Mapping[str, bytes]
    is_package: bool

    @cached_property
    def content(self) -> Content:
        """Its digest, and those of its files if it is a package."""
        if not self.is_package:
            (only,) = self.files.values()
            return Content(self.path, Digest(FILE, hashlib.sha256(only).hexdigest()))
        digests = {name: hashlib.sha256(self.files[name]).hexdigest() for name in self.files}
        hashed = hashlib.sha256(TREE_HEADER)
        for name in sorted(digests, key=str.encode):
            hashed.update(f"{digests[name]}  {name}\n".encode())
        return Content(self.path, Digest(TREE, hashed.hexdigest()), dict(sorted(digests.items())))


def content_of(opened: Opened, trust: Trust) -> Content:
    """The content of a file, or of a package's directory.

    Raises:
        PluginRefused: a part of it fails a check.
    """
    if opened.is_file:
        return Content(opened.path, hash_file(opened, trust))
    return read_tree(opened, trust).content


# -- a file -------------------------------------------------------------------------


def hash_file(opened: Opened, trust: Trust, copy: int | None = None) -> Digest:
    """Hash an open file, and write what was hashed to the descriptor ``copy``.

    Raises:
        PluginRefused: it cannot be read, or has, or has grown to, more than ``MAX_FILE`` bytes.
    """
    hashed = hashlib.sha256()
    size = 0
    os.lseek(opened.descriptor, 0, os.SEEK_SET)
    while chunk := _read(opened, trust):
        size += len(chunk)
        if size > MAX_FILE:
            raise trust.refusal(Check.FILE_SIZE, opened.path, "it is too large", limit=MAX_FILE)
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
    """A copy of an open file in memory that not even we can change, and its digest.

    The caller closes the copy's descriptor.

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
        found = f"it cannot be copied into memory: {error.strerror}"
        raise trust.refusal(Check.COPY, opened.path, found) from None
    return copy, digest


def _memory_file(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name[:200], flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name[:200], flags)  # before Linux 6.3


# -- a package ------------------------------------------------------------------------


def read_tree(opened: Opened, trust: Trust) -> Tree:
    """Read what ``opened`` is, a directory or a file, and check every part of it.

    Raises:
        PluginRefused: a part fails a check.
    """
    reader = _TreeReader(trust)
    if opened.is_file:
        content = reader.read(opened.descriptor, opened.path)
        return Tree(opened.path, {Path(opened.path).name: content}, is_package=False)
    reader.visit(opened.descriptor, opened.path, "")
    return Tree(opened.path, reader.files, is_package=True)


class _TreeReader:
    """Reads a directory and all below it, through the descriptors it has checked."""

    def __init__(self, trust: Trust) -> None:
        self.files: dict[str, bytes] = {}
        self._trust = trust
        self._size = 0

    def visit(self, directory: int, place: str, prefix: str) -> None:
        """Read the directory open as ``directory``; ``prefix`` goes before its names."""
        if prefix.count("/") > MAX_DEPTH:
            self._refuse_size(place, f"{MAX_DEPTH} levels")
        for name in sorted(os.listdir(directory)):
            if name == LEFT_OUT:
                continue
            here = f"{place}/{name}"
            if not name.isprintable():
                found = "its name has characters that cannot be shown"
                raise self._trust.refusal(Check.PLAIN_NAME, here, found)
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except OSError as error:  # it went away
                raise self._trust.unreadable(here, error) from None
            if stat.S_ISLNK(status.st_mode):
                raise self._trust.refusal(Check.NO_LINK, here, "it is a symbolic link")
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise self._trust.not_regular(status, here)
            try:
                self._enter(directory, name, here, prefix)
            except OSError as error:
                raise self._trust.unreadable(here, error) from None

    def _enter(self, directory: int, name: str, place: str, prefix: str) -> None:
        descriptor = os.open(name, _OPEN, dir_fd=directory)
        try:
            status = os.fstat(descriptor)
            self._trust.check(status, place, descriptor)
            if stat.S_ISDIR(status.st_mode):
                self.visit(descriptor, place, f"{prefix}{name}/")
            else:
                self.files[f"{prefix}{name}"] = self.read(descriptor, place)
                if len(self.files) > MAX_FILES:
                    self._refuse_size(place, f"{MAX_FILES} files")
        finally:
            os.close(descriptor)

    def read(self, descriptor: int, place: str) -> bytes:
        """The whole content of an open file."""
        try:
            with os.fdopen(os.dup(descriptor), "rb") as file:
                content = file.read(MAX_BYTES - self._size + 1)
        except OSError as error:
            raise self._trust.unreadable(place, error) from None
        self._size += len(content)
        if self._size > MAX_BYTES:
            self._refuse_size(place, f"{MAX_BYTES} bytes")
        return content

    def _refuse_size(self, place: str, limit: str) -> NoReturn:
        found = "the package is too large"
        raise self._trust.refusal(Check.PACKAGE_SIZE, place, found, limit=limit)
