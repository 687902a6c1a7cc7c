"""Files that only trusted users can have written.

A path is walked from the root, one name at a time, each looked up in the
directory that was opened and checked before it. So no rename or new link
between a check and the next step can lead elsewhere: what is opened at the end
is what was checked. Symbolic links are followed, for ``/usr/bin/python3`` and
``current -> v1.3`` are links; a link is checked like the directories it leads
through, and a stranger's link is not followed.
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from prism.verification.refusals import Check, PluginRefused

MAX_LINKS = 40
"""Links followed in one path, as the kernel's own limit."""
MAX_STEPS = 1024
"""Names looked at in one path, all links written out."""
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a file that became a pipe must not hold the proxy up.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True)
class Opened:
    """An open descriptor, its status, and the path without links that it was found at.

    A context manager: leaving it closes the descriptor.
    """

    descriptor: int
    status: os.stat_result
    path: str

    @property
    def is_file(self) -> bool:
        """Is it a regular file?"""
        return stat.S_ISREG(self.status.st_mode)

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True)
class Trust:
    """Who may have written the files of one plugin. ``plugin`` names it in refusals."""

    plugin: str
    owners: frozenset[int]

    @classmethod
    def of(cls, plugin: str, trusted_owners: Iterable[str] = ()) -> "Trust":
        """Root, this process's user, and ``trusted_owners`` (names or numbers).

        A name that this machine does not know owns nothing here, and counts for nothing.
        """
        owners = {0, os.geteuid()}
        for name in trusted_owners:
            if name.isascii() and name.isdigit():
                owners.add(int(name))
                continue
            try:
                owners.add(pwd.getpwnam(name).pw_uid)
            except KeyError:
                continue
        return cls(plugin, frozenset(owners))

    def open(self, path: str) -> Opened:
        """Open a file, or a directory, that nobody else can have written. Blocks.

        Raises:
            PluginRefused: it, or something on the way to it, fails a check.
        """
        try:
            return self._walk(path)
        except (FileNotFoundError, NotADirectoryError):
            raise self.refusal(Check.FILE_EXISTS, path, "it is not there") from None
        except OSError as error:
            raise self.unreadable(path, error) from None

    def _walk(self, path: str) -> Opened:
        names = _names(path)
        links = steps = 0
        with ExitStack() as stack:

            def enter(name: str, parent: int | None) -> int:
                descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
                stack.callback(os.close, descriptor)
                return descriptor

            root = enter("/", None)
            way: list[tuple[str, int]] = []
            self.check(os.fstat(root), "/", root)
            while names:
                steps += 1
                if links > MAX_LINKS or steps > MAX_STEPS:
                    raise self.refusal(
                        Check.LINKS_END,
                        path,
                        "its symbolic links have no end",
                        links=MAX_LINKS,
                        steps=MAX_STEPS,
                    )
                name = names.pop()
                parent = way[-1][1] if way else root
                place = "/" + "/".join([*(step for step, _ in way), name])
                if name == "..":
                    del way[-1:]
                    continue
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode):
                    links += 1
                    self.check(status, place)
                    target = os.readlink(name, dir_fd=parent)
                    if target.startswith("/"):
                        way.clear()
                    names.extend(_names(target))
                elif names:
                    descriptor = enter(name, parent)
                    self.check(os.fstat(descriptor), place, descriptor)
                    way.append((name, descriptor))
                else:
                    return self._open_last(name, parent, place, status)
            # The path ends in "..", or is the root itself.
            parent = way[-1][1] if way else root
            last = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
            return Opened(last, os.fstat(last), "/" + "/".join(step for step, _ in way))

    def _open_last(self, name: str, parent: int, place: str, status: os.stat_result) -> Opened:
        """Open what the path leads to. A pipe or a device is not even opened."""
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise self.not_regular(status, place)
        descriptor = os.open(name, _FILE, dir_fd=parent)
        try:
            status = os.fstat(descriptor)
            self.check(status, place, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return Opened(descriptor, status, place)

    def check(self, status: os.stat_result, place: str, descriptor: int | None = None) -> None:
        """Refuse what an untrusted user owns or can write.

        A sticky directory, such as ``/tmp``, passes: others can add to it, but
        neither replace nor remove what is ours, and what is theirs is refused.
        """
        if status.st_uid not in self.owners:
            trusted = ", ".join(_user(owner) for owner in sorted(self.owners))
            found = f"it belongs to {_user(status.st_uid)}"
            raise self.refusal(Check.OWNER, place, found, owners=trusted)
        mode = status.st_mode
        if stat.S_ISLNK(mode) or (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
            return
        if mode & stat.S_IWOTH:
            found = f"any user can write it (mode {stat.S_IMODE(mode):04o})"
            raise self.refusal(Check.WORLD_PERMISSION, place, found)
        if mode & stat.S_IWGRP and not self._is_private(status.st_gid, descriptor):
            found = f"group {_group(status.st_gid)} can write it (mode {stat.S_IMODE(mode):04o})"
            raise self.refusal(Check.GROUP_PERMISSION, place, found)

    def _is_private(self, group: int, descriptor: int | None) -> bool:
        """Are all members of ``group`` trusted owners anyway?

        So it is with the group of his own that most systems give a user, whose
        files are group-writable by default.
        """
        if descriptor is not None and _has_acl(descriptor):
            return False  # then the group's bits speak for other users as well
        try:
            listed = {pwd.getpwnam(name).pw_uid for name in grp.getgrgid(group).gr_mem}
        except KeyError:
            return False
        primary = {user.pw_uid for user in pwd.getpwall() if user.pw_gid == group}
        return listed | primary <= self.owners

    def refusal(self, check: Check, place: str, found: str, **facts: object) -> PluginRefused:
        """The plugin, refused for what was found at ``place``."""
        return PluginRefused(check, self.plugin, place, found, **facts)

    def unreadable(self, place: str, error: OSError) -> PluginRefused:
        """The refusal of something that the system did not let us read."""
        found = f"it cannot be read: {error.strerror}"
        return self.refusal(Check.READABLE, place, found, uid=os.geteuid())

    def not_regular(self, status: os.stat_result, place: str) -> PluginRefused:
        """The refusal of something that is neither a file nor a directory."""
        return self.refusal(Check.REGULAR, place, f"it is {_kind(status)}")


def _names(path: str) -> list[str]:
    """The names in a path, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _has_acl(descriptor: int) -> bool:
    try:
        return "system.posix_acl_access" in os.listxattr(f"/proc/self/fd/{descriptor}")
    except OSError:
        return False  # a file system without any


def _kind(status: os.stat_result) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFLNK: "a symbolic link",
    }
    return kinds.get(stat.S_IFMT(status.st_mode), "a device")


def _user(number: int) -> str:
    try:
        return f"{pwd.getpwuid(number).pw_name} (uid {number})"
    except KeyError:
        return f"uid {number}"


def _group(number: int) -> str:
    try:
        return f"{grp.getgrgid(number).gr_name} (gid {number})"
    except KeyError:
        return f"gid {number}"
