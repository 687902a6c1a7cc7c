"""The program that confines itself and then becomes a plugin.

Run as ``python -I -S confine_main.py KEY=VALUE… -- WORD…``, so it imports the standard library
only, and of that little: it runs at each start of a plugin. What it does cannot be undone by
what it becomes, nor by what that starts.

Keys (those marked * may come more than once): ``join`` the ``cgroup.procs`` to get into; ``uid``,
``gid``, ``groups`` (numbers, commas); ``limit``* ``NAME:BYTES``; ``keep`` a mask of the
capabilities that are kept; ``read``*, ``write``* what may be reached below, but not ``closed``*,
nor, to be changed, ``fixed``*; ``list``* where names can be seen; ``split`` how that may be had
(see ``cover``); ``own``* what is never split; ``scope`` 1 for Landlock's scopes; ``filter`` the set
of system calls to deny, ``sockets`` the families of sockets that are left (``all``, or numbers with
commas); ``tcp`` ``listed``: no TCP but to ``port``*; ``exec`` what is run instead of the first
word; ``report`` the descriptor that failures are told to, a line ``STEP errno``; ``ready`` 1: that
gets an ``ok`` before the program is run; ``broker`` a connected socket and a filter,
``NUMBER:HEX``, whose listener is sent there. Without ``read`` files are left alone.

``probe=1`` instead tries what the kernel offers, and prints it.
"""

# `signal` itself takes the time that enumerations take.
import _signal  # type: ignore[import-not-found]
import ctypes
import os
import resource
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # what is for type checkers alone is not worth its time either
    from collections.abc import Callable, Iterator

EXIT_FAILED = 126
"""The status with which it ends where it could not confine itself, or run the program."""

_libc = ctypes.CDLL(None, use_errno=True)

STATIC = frozenset({"/", "/dev", "/home", "/mnt", "/opt", "/run", "/srv", "/var", "/var/lib"})
"""Directories in which entries neither come, go nor are replaced while a plugin runs, but for
sockets, which Landlock does not see."""

# -- Landlock (include/uapi/linux/landlock.h) ---------------------------------------------------

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_GET_VERSION = 1
_RULE_PATH, _RULE_PORT = 1, 2
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_CHANGES = sum(1 << bit for bit in range(4, 13))  # REMOVE_*, MAKE_*
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
READING = _EXECUTE | _READ_FILE | _READ_DIR
_BIND, _CONNECT = 1 << 0, 1 << 1
_SCOPES = 1 << 0 | 1 << 1  # abstract Unix sockets, signals
ABI_FILES, ABI_TRUNCATE, ABI_PORTS, ABI_SCOPES = 2, 3, 4, 6
"""Versions of Landlock: the first with which a file can be moved between directories, and those
that brought truncation, TCP ports, and scopes."""


def landlock_abi() -> int:
    """The version of Landlock that the kernel has; negative: minus the error number."""
    version: int = _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), _GET_VERSION)
    return version if version >= 0 else -ctypes.get_errno()


def within(path: str, directory: str) -> bool:
    """Is ``path`` that directory, or below it?"""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def cover(place: str, closed: list[str], own: list[str], *, anywhere: bool) -> "Iterator[str]":
    """Paths that together are all below ``place`` but what is ``closed``.

    Landlock only allows, and what it allows is of all that is below. So a directory in which
    something is closed is *split*: what else is in it now is allowed, one by one, and what comes
    later, or takes the place of a file, is not. That is done where nothing does: in ``STATIC``
    directories, in those of applications (``/opt``, ``/srv``), and in those that closed files lie
    in, unless they are ``own`` or the system's;
    with ``anywhere`` in all but ``own`` ones. What cannot be split is allowed whole.
    """
    inner = [path for path in closed if within(path, place)]
    if not inner:
        yield place
    elif place not in inner:
        if not may_split(place, inner, own, anywhere=anywhere):
            yield place
            return
        try:
            entries = [entry for entry in os.scandir(place) if not entry.is_symlink()]
        except OSError:
            return
        for entry in entries:
            yield from cover(entry.path, inner, own, anywhere=anywhere)


def may_split(place: str, closed: list[str], own: list[str], *, anywhere: bool) -> bool:
    """May this directory be split, to hide what is ``closed`` in it?"""
    if any(within(place, mine) for mine in own):
        return False
    if anywhere or place in STATIC:
        return True
    if any(within(place, applications) for applications in ("/opt", "/srv")):
        return True
    # The home of closed files, unless it is somebody's home, or the system's.
    return (
        os.path.dirname(place) not in ("/", "/home")  # noqa: PTH120 - pathlib costs its import
        and any(os.path.dirname(path) == place for path in closed)  # noqa: PTH120 - as above
    )


class Rules:
    """One set of Landlock's rules. ``files``: whether reading and writing are to be ruled."""

    def __init__(self, abi: int, *, files: bool, ports: bool, scopes: bool) -> None:
        changes = _WRITE_FILE | _CHANGES | _REFER
        if abi >= ABI_TRUNCATE:
            changes |= _TRUNCATE
        self.writing = READING | changes
        handled = (
            self.writing if files else 0,
            _BIND | _CONNECT if ports and abi >= ABI_PORTS else 0,
            _SCOPES if scopes and abi >= ABI_SCOPES else 0,
        )
        size = 8 if abi < ABI_PORTS else 16 if abi < ABI_SCOPES else 24
        packed = struct.pack("QQQ", *handled)[:size]
        self._number = _check(_libc.syscall(_LANDLOCK_CREATE, packed, ctypes.c_size_t(size), 0))

    def allow(self, path: str, rights: int) -> None:
        """Allow it there, and below; a path that is not there is none to allow."""
        try:
            number = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        try:
            if not os.path.isdir(f"/proc/self/fd/{number}"):  # noqa: PTH112 - as above
                rights &= _OF_FILES
            rule = struct.pack("=Qi", rights, number)
            _check(_libc.syscall(_LANDLOCK_ADD, self._number, _RULE_PATH, rule, 0))
        finally:
            os.close(number)

    def allow_port(self, port: int) -> None:
        """Allow TCP connections to this port."""
        rule = struct.pack("=QQ", _CONNECT, port)
        _check(_libc.syscall(_LANDLOCK_ADD, self._number, _RULE_PORT, rule, 0))

    def enforce(self) -> None:
        """From here on."""
        _check(_libc.syscall(_LANDLOCK_RESTRICT, self._number, 0))
        os.close(self._number)


def _check(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer


# -- seccomp ------------------------------------------------------------------------------------

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NAMES = "x86_64", "aarch64"
DENIED = {
    # name: its number on x86_64 and on aarch64, None where it has none
    "acct": (163, 89),
    "bpf": (321, 280),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
"""What no plugin has a use for, and what has opened kernels: about as containers deny it."""
TRACING = {"process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117)}
"""Denied where nothing else keeps it from other processes; debuggers and sanitizers use it."""
KEYS = {"add_key": (248, 217), "keyctl": (250, 219), "request_key": (249, 218)}
"""The kernel's keyrings know no sandboxes; but Kerberos may keep tickets there."""
FILTERS = {
    "auto": DENIED,
    "tracing": DENIED | TRACING,
    "strict": DENIED | KEYS,
    "strict-tracing": DENIED | KEYS | TRACING,
}
_CLONE, _CLONE3, _SOCKET = (56, 220), (435, 435), (41, 198)
_NEW_NAMESPACES = 0x7E020000
_X32 = 0x40000000
_EPERM, _EACCES, _EINVAL, _ENOSYS = 1, 13, 22, 38
_SECCOMP = (317, 277)
_NEW_LISTENER, _WAIT_KILLABLE = 1 << 3, 1 << 5

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000


def filter_program(denied: dict[str, tuple[int, int | None]], sockets: str, machine: str) -> bytes:
    """A BPF program: ``denied`` calls, new namespaces and other ABIs fail, and so do sockets of
    other families than ``sockets``. Raises KeyError for a machine that is not known."""
    column = _NAMES.index(machine) if machine in _NAMES else None
    if column is None:
        raise KeyError(machine)
    code: list[tuple[int, int, int, int]] = []

    def give(*instructions: tuple[int, int, int, int]) -> None:
        code.extend(instructions)

    def answer(error: int) -> tuple[int, int, int, int]:
        return (_RETURN, 0, 0, _ERROR | error if error else _ALLOW)

    give((_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _ARCHITECTURES[machine]), answer(_ENOSYS))
    give((_LOAD, 0, 0, 0))
    if machine == "x86_64":
        give((_AT_LEAST, 0, 1, _X32), answer(_ENOSYS))
    for numbers in denied.values():
        number = numbers[column]
        if number is not None:
            give((_EQUAL, 0, 1, number), answer(_EPERM))
    # clone3 has its flags in memory, where no filter sees them; without it clone is used.
    give((_EQUAL, 0, 1, _CLONE3[column]), answer(_ENOSYS))
    give((_EQUAL, 0, 4, _CLONE[column]), (_LOAD, 0, 0, 16))
    give((_ANY_BIT, 0, 1, _NEW_NAMESPACES), answer(_EPERM), answer(0))
    if sockets != "all":
        families = [int(each) for each in sockets.split(",") if each]
        give((_EQUAL, 0, 2 + 2 * len(families), _SOCKET[column]), (_LOAD, 0, 0, 16))
        for family in families:
            give((_EQUAL, 0, 1, family), answer(0))
        give(answer(_EACCES))
    give(answer(0))
    return b"".join(struct.pack("HBBI", *each) for each in code)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def enforce_filter(program: bytes) -> None:
    """From here on. No new privileges must be had any more."""
    what = _Program(len(program) // 8, program)
    _check(_libc.prctl(22, 2, ctypes.byref(what), 0, 0))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def hand_over_listener(program: bytes, sock: int) -> None:
    """From here on ``program`` has system calls wait for an answer; its listener is sent to the
    other end of ``sock``, which is closed."""
    import socket  # here, since few need it

    what = _Program(len(program) // 8, program)
    number = _SECCOMP[_NAMES.index(os.uname().machine)]
    # Signals that do not end a process are not to interrupt a call that is being answered; a
    # kernel before 5.19 does not know that.
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):
        listener: int = _libc.syscall(number, 1, ctypes.c_ulong(flags), ctypes.byref(what))
        if listener >= 0 or ctypes.get_errno() != _EINVAL:
            break
    _check(listener)
    with socket.socket(fileno=sock) as connection:
        socket.send_fds(connection, [b"\0"], [listener])
    os.close(listener)


# -- privileges ---------------------------------------------------------------------------------


def no_new_privileges() -> None:
    """No program that is run gives more than there is: set-user-ID means nothing."""
    _check(_libc.prctl(38, 1, 0, 0, 0))


def drop_capabilities(keep: int) -> None:
    """Have no capabilities but ``keep``, and no way to any other."""
    _libc.prctl(47, 4, 0, 0, 0)  # the ambient ones
    for number in range(64):
        if not keep >> number & 1 and _libc.prctl(24, number, 0, 0, 0) < 0:
            break  # there is none of that number; or there are none to be dropped
    mine = _capabilities()
    kept = mine & keep
    low, high = kept & 0xFFFFFFFF, kept >> 32
    header = struct.pack("Ii", 0x20080522, 0)
    data = struct.pack("IIIIII", low, low, 0, high, high, 0)
    _check(_libc.capset(header, data))


def _capabilities() -> int:
    with open("/proc/self/status", "rb") as file:  # noqa: PTH123 - as above
        line = next(line for line in file if line.startswith(b"CapPrm"))
    return int(line.split()[1], 16)


# -- all together -------------------------------------------------------------------------------


class Keys(dict[str, list[str]]):
    """The keys on the command line, each with its values."""

    def one(self, name: str, default: str = "") -> str:
        """The value of a key that there is once."""
        return self.get(name, [default])[-1]


def confine(keys: Keys, step: list[str]) -> None:
    """Do what ``keys`` say; ``step`` has the name of what is being done."""

    one = keys.one
    if "join" in keys:
        step[0] = "cgroup"
        with open(one("join"), "w") as file:  # noqa: PTH123 - as above
            file.write("0")
    step[0] = "limits"
    for limit in keys.get("limit", []):
        name, _, value = limit.partition(":")
        kind = getattr(resource, f"RLIMIT_{name}")
        number = int(value)
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            number = min(number, hard)
        resource.setrlimit(kind, (number, number))
    abi = landlock_abi()
    rules = None
    if "read" in keys or "scope" in keys or "tcp" in keys:
        step[0] = "landlock"
        files, ports = "read" in keys, "tcp" in keys
        rules = Rules(abi, files=files, ports=ports, scopes="scope" in keys)
        closed, own = keys.get("closed", []), keys.get("own", [])
        anywhere = one("split") == "anywhere"
        fixed = [*closed, *keys.get("fixed", [])]
        for name, rights, shut in (("read", READING, closed), ("write", rules.writing, fixed)):
            for place in keys.get(name, []):
                for path in cover(place, shut, own, anywhere=anywhere):
                    rules.allow(path, rights)
                if files and place == "/":
                    rules.allow("/", _READ_DIR)  # what is closed can be seen to be there
        for place in keys.get("list", []):
            rules.allow(place, _READ_DIR)
        for port in keys.get("port", []):
            rules.allow_port(int(port))
    if "uid" in keys:
        step[0] = "user"
        os.setgroups([int(each) for each in one("groups").split(",") if each])
        os.setgid(int(one("gid")))
        os.setuid(int(one("uid")))
    step[0] = "privileges"
    no_new_privileges()
    drop_capabilities(int(one("keep", "0"), 16))
    if rules is not None:
        step[0] = "landlock"
        rules.enforce()
    if "filter" in keys:
        step[0] = "seccomp"
        denied = FILTERS[one("filter")]
        enforce_filter(filter_program(denied, one("sockets", "all"), os.uname().machine))
    if "broker" in keys:
        step[0] = "egress"
        sock, _, filtering = one("broker").partition(":")
        hand_over_listener(bytes.fromhex(filtering), int(sock))


def main(arguments: list[str]) -> None:
    """Confine this process, and become the program."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    keys = Keys()
    for word in arguments[:end]:
        name, _, value = word.partition("=")
        keys.setdefault(name, []).append(value)
    words = arguments[end + 1 :]
    if "probe" in keys:
        probe()
        return
    report = int(keys.one("report", "2"))
    step = ["start"]
    try:
        if report != 2:
            os.set_inheritable(report, False)
        environment = given_environment()  # it is root's alone once the user is another
        confine(keys, step)
        # Python has changed these; and SIGTERM may have been ignored on the way here.
        for number in (_signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGTERM):
            _signal.signal(number, _signal.SIG_DFL)
        step[0] = "run"
        program = keys.one("exec") or words[0]
        if "ready" in keys:
            look_for(program)
            os.write(report, b"ok\n")
        os.execvpe(program, words, environment)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(report, f"{step[0]} {error.errno}\n".encode())
    except (KeyError, ValueError) as error:  # a machine, or a limit, that is not known
        os.write(report, f"{step[0]} 22\n".encode())
        os.write(2, f"prism: cannot confine a plugin: {step[0]}: {error!r}\n".encode())
    os._exit(EXIT_FAILED)


def look_for(program: str) -> None:
    """Raise what running it would raise where it cannot be run."""
    folders = [""] if "/" in program else os.environ.get("PATH", os.defpath).split(os.pathsep)
    places = [os.path.join(folder, program) for folder in folders]  # noqa: PTH118 - as above
    if not any(os.access(place, os.X_OK) for place in places):
        number = 13 if any(map(os.path.lexists, places)) else 2
        raise OSError(number, os.strerror(number))


def given_environment() -> dict[bytes, bytes]:
    """The environment that this process was given: Python may have added to its own."""
    with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - as above
        pairs = (pair.partition(b"=") for pair in file.read().split(b"\0") if pair)
        return {name: value for name, _, value in pairs}


def probe() -> None:
    """Try, for real, what can be had here, and print a line for each: ``NAME answer``."""

    def attempt(name: str, work: "Callable[[], object]") -> None:
        try:
            work()
            print(name, "ok")  # noqa: T201 - that is what it is for
        except OSError as error:
            print(name, error.errno)  # noqa: T201 - as above
        except KeyError:
            print(name, "unknown")  # noqa: T201 - as above

    def landlock() -> None:
        rules = Rules(abi, files=True, ports=False, scopes=True)
        rules.allow("/", rules.writing)
        rules.enforce()

    abi = landlock_abi()
    print("abi", abi)  # noqa: T201 - as above
    attempt("privileges", no_new_privileges)
    if abi >= ABI_FILES:
        attempt("landlock", landlock)
    machine = os.uname().machine
    attempt("seccomp", lambda: enforce_filter(filter_program(FILTERS["strict"], "all", machine)))


if __name__ == "__main__":
    main(sys.argv[1:])
