"""What this machine offers for the isolation of plugins: tried once, for real.

A kernel's version says little: a container may forbid what its kernel has, and a distribution may
have made what bubblewrap needs a privilege. So a process tries each of it.
"""

import errno
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from prism.isolation.confine_main import ABI_FILES, ABI_SCOPES
from prism.isolation.egress_filter import program as egress_program
from prism.isolation.notifications import refuse_one

PROGRAM = str(Path(__file__).with_name("confine_main.py"))
STUB = (sys.executable, "-I", "-S", PROGRAM)
"""How the program that confines itself is run."""
TIMEOUT = 20.0
"""Seconds that one trial may take: by far more than it takes on a busy machine."""

CAP_SYS_PTRACE = 19

_WORDS = {
    errno.ENOSYS: "the kernel does not have it",
    errno.EOPNOTSUPP: "it is not among the security modules that the kernel was started with",
    errno.EPERM: "it is forbidden here, as in many containers",
}


@dataclass(frozen=True)
class Machine:
    """What can be had. Each ``no_…`` says why something cannot, and is empty where it can.

    ``abi`` is the version of Landlock, 0 where there is none. ``bubblewrap`` is the program.
    ``traces``: may the proxy look into other users' processes? ``uid`` is its own.
    """

    abi: int = 0
    no_landlock: str = "it was not looked for"
    no_seccomp: str = "it was not looked for"
    bubblewrap: str = ""
    no_bubblewrap: str = "it was not looked for"
    no_broker: str = "it was not looked for"
    traces: bool = True
    uid: int = field(default_factory=os.getuid)

    @property
    def has_landlock(self) -> bool:
        """Can files be ruled by Landlock?"""
        return not self.no_landlock

    @property
    def has_scopes(self) -> bool:
        """Can Landlock keep a plugin from signals to others, and from abstract sockets?"""
        return self.has_landlock and self.abi >= ABI_SCOPES


@cache
def machine() -> Machine:
    """What this machine offers. Tried the first time, which takes a tenth of a second: to be
    called in a worker thread."""
    return look()


def look() -> Machine:
    """Try it now."""
    abi, no_landlock, no_seccomp = _kernel()
    program = shutil.which("bwrap") or ""
    no_bubblewrap = "it is not installed (package `bubblewrap`)"
    if program:
        no_bubblewrap = _bubblewrap(program)
    no_broker = no_seccomp or _broker()
    traces = bool(_effective_capabilities() >> CAP_SYS_PTRACE & 1)
    return Machine(abi, no_landlock, no_seccomp, program, no_bubblewrap, no_broker, traces)


def _effective_capabilities() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))


def _kernel() -> tuple[int, str, str]:
    try:
        found = _run([*STUB, "probe=1"])
    except (OSError, subprocess.SubprocessError) as error:
        why = f"the trial failed: {error}"
        return 0, why, why
    answers = dict(line.split() for line in found.stdout.splitlines() if line.count(" ") == 1)
    if "seccomp" not in answers:
        why = f"the trial failed: {_last_line(found.stderr) or found.returncode}"
        return 0, why, why
    abi = int(answers["abi"])
    if abi < 0:
        no_landlock = _why(str(-abi))
    elif abi < ABI_FILES:
        no_landlock = f"the kernel has its version {abi}, under which no file can be moved"
    else:
        no_landlock = _why(answers.get("landlock", "?"))
    return max(abi, 0), no_landlock, _why(answers["seccomp"])


def _why(answer: str) -> str:
    if answer == "ok":
        return ""
    if not answer.isdigit():
        return f"it is not known for this kind of machine ({os.uname().machine})"
    number = int(answer)
    return _WORDS.get(number, f"the trial failed: {os.strerror(number)}")


def _bubblewrap(program: str) -> str:
    """Why it cannot be used; empty where it can."""
    words = [program, "--unshare-pid", "--unshare-net", "--bind", "/", "/", "--proc", "/proc"]
    try:
        found = _run([*words, "--dev-bind", "/dev", "/dev", "--", *STUB, "probe=1"])
    except (OSError, subprocess.SubprocessError) as error:
        return f"the trial failed: {error}"
    if found.returncode == 0:
        return ""
    said = _last_line(found.stderr)
    where = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
    if Path(where).is_file() and Path(where).read_text().strip() == "1":
        said += " (AppArmor keeps user namespaces to programs with a profile)"
    return f"the trial failed: {said or f'exit status {found.returncode}'}"


_CONNECTS = "import socket, sys; sys.exit(socket.socket().connect_ex(('0.0.0.0', 1)) != 111)"


def _broker() -> str:
    """Why connections cannot be decided here; empty where they can. A process tries to connect,
    and is answered without a connection: ECONNREFUSED."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        words = [*STUB, f"broker={number}:{egress_program(os.uname().machine).hex()}", "--"]
        words += [sys.executable, "-I", "-S", "-c", _CONNECTS]
        with subprocess.Popen(  # noqa: S603 - the words are ours
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[number],
        ) as process:
            theirs.close()
            ours.settimeout(TIMEOUT)
            try:
                _, found, _, _ = socket.recv_fds(ours, 1, 1)
                why = refuse_one(found[0], TIMEOUT) if found else "its filter was refused"
                if not why and process.wait(TIMEOUT) != 0:
                    why = "the process was not answered"
            except (OSError, subprocess.SubprocessError) as error:
                why = str(error)
            finally:
                process.kill()
            said = _last_line(process.communicate()[1].decode(errors="replace"))
    return f"the trial failed: {said or why}" if why else ""


def _run(words: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603 - the words are ours
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT,
        check=False,
        env={"PATH": os.environ.get("PATH", os.defpath)},
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
