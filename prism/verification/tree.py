"""A Python package as a value: the bytes of all its files, read once, and their digest.

The digest of a tree is the SHA-256 of its list of files, which any shell can
make (docs/plugin-verification.md shows how). ``__pycache__`` is not part of it,
and never used: stale or forged bytecode cannot take the place of the source.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prism.verification.content import FILE, TREE, Content, Digest, hash_file
from prism.verification.refusals import ModuleUnverifiable, SymbolicLink, TooLarge
from prism.verification.trust import Opened, Trust

MAX_FILES = 10_000
MAX_BYTES = 256 * 1024 * 1024
MAX_DEPTH = 32
"""Files, bytes and levels of a package: it is held in memory while it is imported."""
LEFT_OUT = "__pycache__"
HEADER = b"prism tree v1\n"
"""The first line of what is hashed, so that no file can be taken for a tree."""
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Tree:
    """A package, or a module of one file, as it was read. ``files`` maps names to content.

    ``path`` is the directory or the file; names are relative to a directory, with
    slashes, and there is just one, the file's own, otherwise.
    """

    path: str
    files: Mapping[str, bytes]
    digest: Digest
    is_package: bool

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of each file, sorted by name."""
        return {
            name: hashlib.sha256(content).hexdigest()
            for name, content in sorted(self.files.items())
        }


def read_tree(opened: Opened, trust: Trust) -> Tree:
    """Read what ``opened`` is, a directory or a file, and check every part of it. Blocks.

    Raises:
        PluginRefused: a part fails a check.
    """
    if stat.S_ISREG(opened.status.st_mode):
        content = _Reader(trust).read(opened.descriptor, opened.path)
        digest = Digest(FILE, hashlib.sha256(content).hexdigest())
        return Tree(opened.path, {Path(opened.path).name: content}, digest, False)
    reader = _Reader(trust)
    reader.visit(opened.descriptor, opened.path, "")
    return Tree(opened.path, reader.files, tree_digest(reader.files), True)


def content_of(opened: Opened, trust: Trust) -> Content:
    """The content of a file, or of a package's directory; closes it. Blocks.

    Raises:
        PluginRefused: a part of it fails a check.
    """
    try:
        if stat.S_ISDIR(opened.status.st_mode):
            tree = read_tree(opened, trust)
            return Content(tree.path, tree.digest, tree.digests)
        return Content(opened.path, hash_file(opened, trust), {})
    finally:
        os.close(opened.descriptor)


def tree_digest(files: Mapping[str, bytes]) -> Digest:
    """SHA-256 over ``HEADER`` and, sorted by name, a line ``DIGEST  NAME`` for each file."""
    hashed = hashlib.sha256(HEADER)
    for name in sorted(files, key=str.encode):
        line = f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n"
        hashed.update(line.encode())
    return Digest(TREE, hashed.hexdigest())


class _Reader:
    """Reads a directory and all below it, through the descriptors it has checked."""

    def __init__(self, trust: Trust) -> None:
        self.files: dict[str, bytes] = {}
        self._trust = trust
        self._size = 0

    def visit(self, directory: int, place: str, prefix: str) -> None:
        """Read the directory open as ``directory``; ``prefix`` goes before its names."""
        if prefix.count("/") > MAX_DEPTH:
            raise self._too_large(place, f"{MAX_DEPTH} levels")
        for name in sorted(os.listdir(directory)):
            if name == LEFT_OUT:
                continue
            here = f"{place}/{name}"
            if not name.isprintable():
                raise self._unverifiable(here, "its name has characters that cannot be shown")
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except OSError as error:  # it went away
                raise self._trust.unreadable(here, error) from None
            if stat.S_ISLNK(status.st_mode):
                raise SymbolicLink(
                    self._trust.plugin,
                    here,
                    "it is a symbolic link",
                    "regular files and directories only",
                    "put a copy of the file there",
                )
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
                    raise self._too_large(place, f"{MAX_FILES} files")
        finally:
            os.close(descriptor)

    def read(self, descriptor: int, place: str) -> bytes:
        """The whole content of an open file."""
        with os.fdopen(os.dup(descriptor), "rb") as file:
            content = file.read(MAX_BYTES - self._size + 1)
        self._size += len(content)
        if self._size > MAX_BYTES:
            raise self._too_large(place, f"{MAX_BYTES} bytes")
        return content

    def _too_large(self, place: str, limit: str) -> TooLarge:
        return TooLarge(
            self._trust.plugin,
            place,
            "the package is too large",
            f"at most {limit}",
            "keep data out of it",
        )

    def _unverifiable(self, place: str, found: str) -> ModuleUnverifiable:
        return ModuleUnverifiable(
            self._trust.plugin, place, found, "a plain name", "rename or remove it"
        )
