"""From a policy and a machine to the command that runs a plugin within both.

Three mechanisms. *Landlock* with seccomp: the plugin's process rules itself out before it becomes
the plugin, and stays one process with the number that Prism started. *Bubblewrap*: it gets a view
of the file system and of the processes of its own; its number outside is another than inside, and
two processes of bubblewrap's stand between. *limits*: what every kernel has. All three take
privileges away, deny system calls where that can be had, and set limits.
"""

import grp
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from prism.config.isolation_types import EgressDestination, IsolationConfig
from prism.isolation import cgroups, egress_filter
from prism.isolation.confine_main import ABI_PORTS, cover, within
from prism.isolation.machine import STUB, Machine
from prism.isolation.policy import IsolationPolicy, paths_in
from prism.streams.errors import LaunchError

NEEDED = (
    "files",
    "other_processes",
    "privileges",
    "system_calls",
    "network",
    "user",
    "memory",
    "cpu",
    "processes",
)
"""What ``sandbox: required`` insists on, as far as it is asked for."""

_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _SETGID, _SETUID, _BIND = 0, 1, 3, 4, 6, 7, 10
TEMPORARY = "/tmp"  # noqa: S108 - the directory itself is meant
KEPT_BY_ROOT = sum(
    1 << number for number in (_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _SETGID, _SETUID, _BIND)
)
"""The capabilities that root's plugins keep with ``auto``: its files may be others', its data on a
volume of another user's, and it may change to a user of its own."""
SHADOW = ("/etc/shadow", "/etc/gshadow")
READ_BY_ALL = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix"),
    *("/gnu", "/sys", "/run/systemd/resolve", "/run/resolvconf"),
)
"""Programs, libraries and settings of the system: what is there even where files are listed."""
RESOLVER_OPTIONS = {"RES_OPTIONS": "use-vc"}
"""Where the broker decides, there is no UDP: the C library's resolver is to ask over TCP."""
_SHELL = '[ -z "$1" ] || echo 0 >"$1" || exit 126; shift; trap "" TERM; exec "$@"'
"""Bubblewrap's own processes are not to end on the SIGTERM that asks the plugin to."""


class Isolation(msgspec.Struct, frozen=True):
    """What holds for a plugin's process: by which mechanism, what it is kept from and how, and
    what could not be had, and why."""

    mechanism: str
    holds: dict[str, str] = {}
    lacks: dict[str, str] = {}

    def __str__(self) -> str:
        lacks = "; ".join(f"not {name} ({why})" for name, why in self.lacks.items())
        holds = ", ".join(self.holds) or "nothing"
        return f"{self.mechanism}: {holds}" + (f"; {lacks}" if lacks else "")


@dataclass
class Confinement:
    """How one process is confined. ``close`` it when that process is gone.

    ``wraps``: the process that is started is not the plugin's own. ``egress``: its connections are
    to be decided by a broker.
    """

    isolation: Isolation
    words: list[str] = field(default_factory=list)
    wraps: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    group: cgroups.ControlGroup | None = None
    temporary: str | None = None
    egress: tuple[EgressDestination, ...] | None = None

    @property
    def confines(self) -> bool:
        """Is there anything to be done?"""
        return bool(self.words)

    def command(
        self, report: int, words: Sequence[str], executable: str | None, broker: int = -1
    ) -> list[str]:
        """The command to run instead of ``words``. ``report`` is a pipe that gets why it failed,
        ``broker`` a socket that gets the listener for its connections, where there is one."""
        keys = [f"report={report}"]
        if self.egress is not None:
            keys.append(f"broker={broker}:{egress_filter.program(os.uname().machine).hex()}")
        if executable is not None:
            keys.append(f"exec={executable}")
        return [*self.words, *keys, "--", *words]

    def close(self) -> None:
        """End what is left of the process, and remove what was made for it. Blocks."""
        if self.group is not None:
            self.group.close()
        if self.temporary is not None:
            try:
                shutil.rmtree(self.temporary, ignore_errors=True)
            except RecursionError:  # a plugin's directories can be deeper than Python goes
                words = ["/bin/rm", "-rf", "--", self.temporary]
                subprocess.run(words, stderr=subprocess.DEVNULL, check=False)  # noqa: S603 - ours


NONE = Confinement(Isolation("none", {}, {"everything": "sandbox: off"}))


@dataclass(frozen=True)
class Subject:
    """What is to be confined: ``program`` is the file that runs, ``directory`` where it runs, and
    ``told`` whatever it is told, in which paths are its own."""

    label: str
    program: str | None
    directory: str | None
    told: tuple[object, ...] = ()


def confine(policy: IsolationPolicy, subject: Subject, machine: Machine) -> Confinement:
    """How ``subject`` is confined here. Blocks: it looks at files, and asks who a user is.

    Raises:
        LaunchError: what is required cannot be had.
    """
    settings = policy.settings
    if settings.sandbox == "off":
        return NONE
    return _Plan(policy, subject, machine).make()


class _Plan:
    """One confinement in the making."""

    def __init__(self, policy: IsolationPolicy, subject: Subject, machine: Machine) -> None:
        self.policy, self.subject, self.machine = policy, subject, machine
        self.settings: IsolationConfig = policy.settings
        self.strict = self.settings.sandbox == "required"
        self.listed = self.settings.read is not None or self.settings.write is not None
        self.offline = self.settings.network == "none"
        self.egress: tuple[EgressDestination, ...] | None = None
        self.holds: dict[str, str] = {}
        self.lacks: dict[str, str] = {}
        self.keys: list[str] = ["limit=CORE:0"]
        self.environment: dict[str, str] = {}
        self.group: cgroups.ControlGroup | None = None
        self.temporary: str | None = None
        self.directory = str(Path(subject.directory or ".").resolve())
        told = dict.fromkeys(os.path.realpath(path) for path in paths_in(list(subject.told)))
        told.pop("/", None)
        self.read = [os.path.realpath(path) for path in self.settings.read or ()]
        self.written = [os.path.realpath(path) for path in self.settings.write or ()]
        self.told = list(told)
        self.own = [self.directory, *told]
        named = {*told, *self.read, *self.written}
        self.closed = [path for path in self._closed() if path not in named]
        self.is_root = machine.uid == 0 and self.settings.user is None

    def make(self) -> Confinement:
        """Raises LaunchError: what is required cannot be had."""
        special = _privileged(self.subject.program)
        if special:
            return self._unconfined(f"{special}, which no sandbox lets it use: see `user`")
        mechanism = self._mechanism()
        try:
            self._limit(mechanism)
            self._user()
            self._files(mechanism)
            self._sockets(mechanism)
            self._processes(mechanism)
            self._privileges(mechanism)
            self._network(mechanism)
            self._insist()
            words = self._wrapped() if mechanism == "bubblewrap" else [*STUB, *self.keys]
        except BaseException:
            Confinement(Isolation(""), group=self.group, temporary=self.temporary).close()
            raise
        isolation = Isolation(mechanism, self.holds, self.lacks)
        wraps = mechanism == "bubblewrap"
        return Confinement(
            isolation, words, wraps, self.environment, self.group, self.temporary, self.egress
        )

    def _unconfined(self, why: str) -> Confinement:
        self.lacks["everything"] = why
        if self.strict:
            raise self._refusal("it", why)
        return Confinement(Isolation("none", {}, self.lacks))

    def _refusal(self, what: str, why: str) -> LaunchError:
        name = what.replace("_", " ")
        return LaunchError(
            f"{self.subject.label} may not start unconfined (sandbox: required), and {name} cannot "
            f"be confined here: {why}; or accept what can be had, with sandbox: auto"
        )

    def _insist(self) -> None:
        for name in NEEDED if self.strict else ():
            if name in self.lacks:
                raise self._refusal(name, self.lacks[name])

    def _mechanism(self) -> str:
        machine = self.machine
        has = {"landlock": machine.has_landlock, "bubblewrap": not machine.no_bubblewrap}
        first: str = self.settings.mechanism or ("bubblewrap" if self.strict else "landlock")
        second = "landlock" if first == "bubblewrap" else "bubblewrap"
        if first == "landlock" and self.settings.mechanism is None and not machine.has_scopes:
            first, second = second, first  # a kernel before 6.12: bubblewrap keeps more
        return next((name for name in (first, second) if has[name]), "limits")

    # -- files ------------------------------------------------------------------------------

    def _closed(self) -> list[str]:
        """Files that are there and are not the plugin's, without links."""
        found = dict.fromkeys(os.path.realpath(path) for path in (*self.policy.closed, *SHADOW))
        if self.machine.uid == 0:
            found.update(dict.fromkeys(_disks()))
        needed = [self.directory, os.path.realpath(self.subject.program or "/"), *_python()]
        return [
            path
            for path in found
            if os.path.lexists(path) and not any(within(each, path) for each in needed)
        ]

    def _files(self, mechanism: str) -> None:
        if mechanism == "limits":
            self.lacks["files"] = f"Landlock: {self.machine.no_landlock}; {self._bubblewrap()}"
            self.lacks["temporary_files"] = self._bubblewrap()
        elif mechanism == "bubblewrap":
            self.holds["files"] = "a file system of its own, without what is not its"
            self._private_temporary()
        else:
            self._landlock()
            self.lacks["temporary_files"] = f"{TEMPORARY} is for all; {self._bubblewrap()}"

    def _bubblewrap(self) -> str:
        why = self.machine.no_bubblewrap
        return f"bubblewrap: {why}" if why else "bubblewrap can: `mechanism: bubblewrap`"

    def _landlock(self) -> None:
        fixed = ["/sys", *(["/proc"] if self.is_root else [])]
        own = [path for path in self.own if path not in (TEMPORARY, tempfile.gettempdir())]
        if self.listed:
            written = [*self.own, *self.written, TEMPORARY, "/dev", "/proc/self"]
            read = [*READ_BY_ALL, "/proc", *self._programs(), *self.read, *written]
            if not self.is_root:
                written.append("/proc")
        else:
            read, written = ["/"], ["/", "/proc/self", *self.told]
            read += self.told
        if self.listed:  # Python looks for packages in a directory by listing it
            self.keys.append(f"list={Path(_python()[-1]).parent}")
        anywhere = self.strict or self.listed
        self.keys += [f"read={os.path.realpath(path)}" for path in dict.fromkeys(read)]
        self.keys += [
            f"write={path if path == '/proc/self' else os.path.realpath(path)}"
            for path in dict.fromkeys(written)
        ]
        self.keys += [f"closed={path}" for path in self.closed]
        self.keys += [f"fixed={path}" for path in fixed]
        self.keys += [f"own={path}" for path in own]
        if anywhere:
            self.keys.append("split=anywhere")
        reached = [
            path
            for place in dict.fromkeys(os.path.realpath(path) for path in read)
            for path in cover(place, self.closed, own, anywhere=anywhere)
        ]
        open_still = [path for path in self.closed if any(within(path, place) for place in reached)]
        if not open_still:
            self.holds["files"] = "Landlock"
            return
        several = f" and {len(open_still) - 1} more" if len(open_still) > 1 else ""
        self.lacks["files"] = (
            f"Landlock cannot hide {open_still[0]}{several} in a directory in which the plugin, "
            f"or the system, may get new files; keep it elsewhere, or: {self._bubblewrap()}"
        )

    def _programs(self) -> list[str]:
        """Directories of what is run: the program's, its virtual environment, Python's."""
        found = [*_python(), *(path for path in sys.path if path.endswith("-packages"))]
        if self.subject.program is not None:
            for program in (self.subject.program, os.path.realpath(self.subject.program)):
                folder = Path(program).parent
                is_venv = (folder.parent / "pyvenv.cfg").is_file()
                found.append(str(folder.parent if is_venv else folder))
        return found

    def _private_temporary(self) -> None:
        """Let ``/tmp`` be a directory of its own, unless something of the plugin's lies there."""
        mine = next(
            (path for path in (*self.own, *self._programs()) if within(path, TEMPORARY)), None
        )
        if mine is not None:
            self.lacks["temporary_files"] = f"{TEMPORARY} is for all, since {mine} is there"
            return
        if self.settings.user is not None:
            self.lacks["temporary_files"] = f"{TEMPORARY} is for all, since it runs as another user"
            return
        self.temporary = tempfile.mkdtemp(prefix="prism-plugin-", dir=TEMPORARY)
        self.holds["temporary_files"] = f"a {TEMPORARY} of its own"

    def _wrapped(self) -> list[str]:
        """The command of bubblewrap, and the program in it that does the rest."""
        words = [self.machine.bubblewrap, "--unshare-pid"]
        if self.offline and not self.policy.ports:
            words.append("--unshare-net")
        words += self._listed_view() if self.listed else self._whole_view()
        if self.temporary is not None:
            words += ["--bind", self.temporary, TEMPORARY]
        for path in self.closed:
            if Path(path).is_dir():
                words += ["--perms", "0000", "--tmpfs", path]
            else:
                words += ["--ro-bind", "/dev/null", path]
        for how, paths in (
            ("--ro-bind-try", self.read),
            ("--bind-try", [*self.told, *self.written]),
        ):
            for path in paths:
                if any(within(path, shut) for shut in self.closed):
                    words += [how, path, path]
        words += ["--chdir", self.directory]
        join = self.group.procs if self.group is not None else ""
        shell = ["/bin/sh", "-c", _SHELL, "prism-plugin", join]
        return [*shell, *words, "--", *STUB, "ready=1", *self.keys]

    def _whole_view(self) -> list[str]:
        words = ["--bind", "/", "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc"]
        fixed = ["/sys", *_python()]
        for path in fixed:
            if not any(within(path, mine) for mine in self.own):
                words += ["--ro-bind-try", path, path]
        if self.is_root:
            for path in ("/proc/sys", "/proc/sysrq-trigger"):
                words += ["--ro-bind-try", path, path]
        for path in self.told:
            words += ["--bind-try", path, path]
        return words

    def _listed_view(self) -> list[str]:
        words = ["--proc", "/proc", "--dev", "/dev"]
        for path in (*READ_BY_ALL, *self._programs()):
            if Path(path).is_symlink():
                words += ["--symlink", str(Path(path).readlink()), path]
            else:
                words += ["--ro-bind-try", path, path]
        if self.temporary is None:
            words += ["--bind", TEMPORARY, TEMPORARY]
        if self.is_root:
            for path in ("/proc/sys", "/proc/sysrq-trigger"):
                words += ["--ro-bind-try", path, path]
        for path in self.read:
            words += ["--ro-bind-try", path, path]
        for path in (*self.own, *self.written):
            words += ["--bind-try", path, path]
        return words

    # -- everything else ----------------------------------------------------------------------

    def _sockets(self, mechanism: str) -> None:
        """Unix sockets with a path, of others."""
        if self.offline and not self.machine.no_seccomp and not self.policy.sockets:
            self.holds["unix_sockets"] = "it can make no sockets"
        elif mechanism == "bubblewrap":
            self.holds["unix_sockets"] = "those of others are not in its file system"
        else:
            self.lacks["unix_sockets"] = (
                f"Landlock does not see them: what may connect is their owner's to say; "
                f"{self._bubblewrap()}, or `network: none`"
            )

    def _processes(self, mechanism: str) -> None:
        old = (
            f"the kernel's Landlock is version {self.machine.abi}, and signals need 6 (Linux 6.12)"
        )
        if self.machine.has_scopes and mechanism != "limits":
            self.keys.append("scope=1")
            self.holds["abstract_sockets"] = "Landlock"
        else:
            why = self.machine.no_landlock or old
            self.lacks["abstract_sockets"] = why
        if mechanism == "bubblewrap":
            self.holds["other_processes"] = "it sees none but its own"
            self.holds["leftovers"] = "they end with it"
            return
        if self.group is not None:
            self.holds["leftovers"] = "its control group is ended"
        else:
            self.lacks["leftovers"] = (
                f"what leaves its process group lives on; {self._bubblewrap()}, or set a limit "
                "where control groups are delegated"
            )
        if self.machine.has_scopes and mechanism == "landlock":
            self.holds["other_processes"] = "Landlock: no signals, no tracing, no memory"
        elif mechanism == "landlock":
            self.lacks["other_processes"] = f"signals can be sent to them: {old}"
        else:
            self.lacks["other_processes"] = (
                f"Landlock: {self.machine.no_landlock}; {self._bubblewrap()}"
            )

    def _privileges(self, mechanism: str) -> None:
        kept = KEPT_BY_ROOT if self.is_root and not self.strict else 0
        self.keys.append(f"keep={kept:x}")
        self.holds["privileges"] = "none to be gained" + (
            "; of root's capabilities those about files, users and low ports are left"
            if kept
            else ", no capabilities"
        )
        self.holds["core_dumps"] = "none"
        if self.machine.no_seccomp:
            self.lacks["system_calls"] = f"seccomp: {self.machine.no_seccomp}"
            return
        tracing = "-tracing" if mechanism == "limits" else ""
        name = f"strict{tracing}" if self.strict else "tracing" if tracing else "auto"
        self.keys.append(f"filter={name}")
        self.holds["system_calls"] = "seccomp"

    def _network(self, mechanism: str) -> None:
        if self.settings.egress is not None:
            why = self.machine.no_broker
            if not why and self.settings.user is not None and not self.machine.traces:
                why = "it runs as another user, and Prism has no CAP_SYS_PTRACE to look into it"
            if why:
                self.lacks["network"] = f"deciding its connections: {why}"
                return
            self.egress = tuple(self.settings.destinations)
            self.environment.update(RESOLVER_OPTIONS)
            self.holds["network"] = (
                f"connections to {', '.join(each.to for each in self.egress)} alone"
                if self.egress
                else "no connections"
            )
        if not self.offline:
            return
        families = [
            *("1" for _ in self.policy.sockets[:1]),
            *("2,10" for _ in self.policy.ports[:1]),
        ]
        if self.policy.ports:
            if mechanism == "limits" or self.machine.abi < ABI_PORTS:
                self.lacks["network"] = "TCP ports are ruled by Landlock, version 4 (Linux 6.7)"
                return
            self.keys.append("tcp=listed")
            self.keys += [f"port={port}" for port in self.policy.ports]
        if not self.machine.no_seccomp:
            self.keys.append(f"sockets={','.join(families)}")
            self.holds["network"] = "no sockets but those it is given"
        elif mechanism == "bubblewrap" and not self.policy.ports:
            self.holds["network"] = "a network of its own, of which nothing is part"
        else:
            self.lacks["network"] = f"seccomp: {self.machine.no_seccomp}; {self._bubblewrap()}"

    def _user(self) -> None:
        name = self.settings.user
        if name is None:
            return
        if self.machine.uid != 0:
            raise LaunchError(
                f"{self.subject.label} cannot run as user {name!r} (isolation.user): only root can "
                "start processes of other users; run Prism as root, or as that user, without `user`"
            )
        try:
            entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
            uid, gid, home = entry.pw_uid, entry.pw_gid, entry.pw_dir
            groups = os.getgrouplist(entry.pw_name, gid)
        except KeyError:
            if not name.isdigit():
                raise LaunchError(
                    f"{self.subject.label} cannot run as user {name!r} (isolation.user): there is "
                    "no such user"
                ) from None
            uid, gid, home, groups = int(name), int(name), "/", [int(name)]
        self.keys += [f"uid={uid}", f"gid={gid}", f"groups={','.join(map(str, groups))}"]
        self.environment["HOME"] = home
        self.holds["user"] = f"{name} ({uid}:{grp_name(gid)})"

    def _limit(self, mechanism: str) -> None:
        settings = self.settings
        asked: Mapping[str, float | None] = {
            "memory": settings.memory_bytes,
            "cpu": settings.cpu,
            "processes": settings.processes,
        }
        limits = {name: value for name, value in asked.items() if value is not None}
        if not limits:
            return
        try:
            self.group = cgroups.make(limits)
        except cgroups.NoCgroups as error:
            for name in limits:
                self.lacks[name] = f"of all its processes together: {error}"
            self._limit_each(mechanism)
            return
        if mechanism != "bubblewrap":  # there the shell gets in, and everybody with it
            self.keys.append(f"join={self.group.procs}")
        for name in limits:
            self.holds[name] = "its control group"

    def _limit_each(self, mechanism: str) -> None:
        """What a process can be held to by itself. Address space is left alone: Go, Java and
        WebAssembly reserve far more of it than they use."""
        settings = self.settings
        if settings.memory_bytes is not None:
            self.keys.append(f"limit=DATA:{settings.memory_bytes}")
            self.lacks["memory"] += "; each by itself is held to it (RLIMIT_DATA)"
        if settings.processes is None:
            return
        if settings.user is not None:
            self.keys.append(f"limit=NPROC:{settings.processes}")
            del self.lacks["processes"]
            self.holds["processes"] = f"all that user {settings.user} has (RLIMIT_NPROC)"
        elif mechanism == "bubblewrap" and self.machine.uid != 0 and _counts_by_namespace():
            # In a user namespace of its own it counts those in there: bubblewrap's first, too.
            self.keys.append(f"limit=NPROC:{settings.processes + 1}")
            del self.lacks["processes"]
            self.holds["processes"] = "RLIMIT_NPROC, in a user namespace of its own"
        else:
            self.lacks["processes"] += "; RLIMIT_NPROC counts all that the user has: see `user`"


def grp_name(gid: int) -> str:
    """The name of a group, or its number."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _python() -> list[str]:
    """Where the proxy's own code is: its Python, its environment, and it itself."""
    here = Path(__file__).resolve().parents[1]
    found = (sys.base_prefix, sys.prefix, str(here))
    return list(dict.fromkeys(os.path.realpath(path) for path in found))


def _counts_by_namespace() -> bool:
    """Does RLIMIT_NPROC count what is in the user namespace alone? Since Linux 5.14."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int("".join(filter(str.isdigit, minor)))) >= (5, 14)


def _disks() -> list[str]:
    """What root could reach around every file's permissions: disks, and the machine's memory."""
    found = []
    for entry in os.scandir("/dev"):
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
        except OSError:
            continue
        if stat.S_ISBLK(mode) or entry.name in ("mem", "kmem", "port", "kmsg", "mapper"):
            found.append(entry.path)
    return found


def _privileged(program: str | None) -> str:
    """What a program is that changes who it is when it runs; empty for another."""
    if program is None:
        return ""
    try:
        mode = os.stat(program).st_mode  # noqa: PTH116 - a text
        if mode & stat.S_ISUID or (mode & stat.S_ISGID and mode & stat.S_IXGRP):
            return f"{program} is set-user-ID or set-group-ID"
        if "security.capability" in os.listxattr(program):
            return f"{program} has capabilities of its own"
    except OSError:
        return ""
    return ""
