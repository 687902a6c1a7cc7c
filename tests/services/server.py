"""A real server for tests: a process that is started, frozen, killed and stopped by its pid.

A kind of server is a subclass: it says where its program is, what to prepare, with which
command it starts and when it is ready. Its data lie in a directory of its own, its port is one
that nobody is given by the kernel, so that a restart finds it free again.
"""

import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

LIMIT = 180.0
"""Seconds after which a start or a stop counts as hung. A database that was killed reads its log
again first, which took more than a minute where everything else kept the disk busy, too."""


class Missing(Exception):
    """The server is not installed; the message says what to install."""


class Server:
    """One server on 127.0.0.1. ``start`` makes one; ``stop`` ends it and removes its data.

    ``outlives``: it goes on when this process ends; else it ends with it, even if that is killed.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[int] = signal.SIGTERM
    user: ClassVar[str | None] = None
    """Who runs it where this process is root, which the server refuses to be."""

    def __init__(self, directory: Path, *, outlives: bool = False, **options: Any) -> None:
        self.directory = directory
        self.options = options
        self.port = unused_port()
        self.outlives = outlives
        self.pid = 0
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, directory: Path, *, outlives: bool = False, **options: Any) -> Self:
        """Prepare a server below ``directory``, start it, and wait until it is ready.

        Raises:
            Missing: its program is not installed.
        """
        cls.check_installed()
        if cls.user is not None and os.geteuid() == 0:
            # Those above ``directory`` may be closed for other users, as pytest's are.
            place = Path(tempfile.mkdtemp(prefix=f"prism-{cls.name}-"))
            shutil.chown(place, cls.user)
        else:
            place = Path(tempfile.mkdtemp(prefix=f"{cls.name}-", dir=directory))
        server = cls(place, outlives=outlives, **options)
        try:
            server.prepare()
            server.run()
        except BaseException:
            server.stop()
            raise
        return server

    @classmethod
    def check_installed(cls) -> None:
        """Raises Missing where the program cannot be found."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Write what the server needs; once."""

    def command(self) -> list[str]:
        """The program and its arguments."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether it answers; asked again and again after each start."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT):
            return True
        return False

    def addresses(self) -> dict[str, Any]:
        """What somebody needs to use it, for people and for ``attach``."""
        return {"port": self.port}

    @property
    def log_file(self) -> Path:
        """What the server prints."""
        return self.directory / "log"

    def run(self) -> None:
        """Start the process, and wait until the server is ready."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start the process."""
        with self.log_file.open("ab") as log:
            self.log_start = log.tell()
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self.as_user(),
                preexec_fn=None if self.outlives else self._end_with_parent,
            )
        self.pid = self._process.pid

    def wait_ready(self) -> None:
        """Wait until the server is ready, once it was launched."""
        self.wait(self.is_ready, "was not ready")

    def tool(self, *command: str) -> None:
        """Run a program that prepares something, as the server's user."""
        done = subprocess.run(
            command, cwd=self.directory, capture_output=True, text=True, **self.as_user()
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def as_user(self) -> dict[str, Any]:
        """Arguments of subprocess for who runs it."""
        if self.user is None or os.geteuid() != 0:
            return {}
        return {"user": self.user, "group": self.user, "extra_groups": []}

    def kill(self) -> None:
        """As a power loss would: the server and all its processes are gone at once."""
        self._signal(signal.SIGKILL)
        self._wait_ended()

    def freeze(self) -> None:
        """It holds its connections, and answers nothing; the kernel still accepts new ones."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start it again after ``kill``, or stop it and start it: same port, same data."""
        if self.pid:
            self._end()
        self.run()

    def stop(self) -> None:
        """End it, and remove its data."""
        self._end()
        shutil.rmtree(self.directory, ignore_errors=True)

    def record(self) -> dict[str, Any]:
        """What ``attach`` needs, in another process."""
        return {
            **self.addresses(),
            "directory": str(self.directory),
            "pid": self.pid,
            "started": start_time(self.pid),
        }

    @classmethod
    def attach(cls, record: dict[str, Any]) -> Self | None:
        """A server that another process has started; None if it runs no more."""
        if record["started"] != start_time(record["pid"]):
            return None
        server = cls(Path(record["directory"]), outlives=True)
        server.port, server.pid = record["port"], record["pid"]
        return server

    def wait(self, check: Callable[[], bool], problem: str) -> None:
        """Ask ``check`` until it is true."""
        deadline = time.monotonic() + LIMIT
        while not check():
            ended = self._process is not None and self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                log = self.log_file.read_text(errors="replace")
                raise RuntimeError(f"{self.name} {problem}:\n{log[-5000:]}")
            time.sleep(0.02)

    def _end(self) -> None:
        if not self.pid:
            return
        self._signal(signal.SIGCONT)
        with suppress(ProcessLookupError):
            os.kill(self.pid, self.stop_signal)
        try:
            self._wait_ended()
        except RuntimeError:
            self.kill()

    def _wait_ended(self) -> None:
        pid, process, self._process = self.pid, self._process, None
        deadline = time.monotonic() + LIMIT
        while process.poll() is None if process else start_time(pid):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} (pid {pid}) does not end")
            time.sleep(0.02)
        self.pid = 0

    def _signal(self, number: int) -> None:
        """To the process and its descendants: a database has one for each connection.

        Who starts others is stopped first, and goes on last, so that none is started unseen.
        """
        if not self.pid:
            return
        tree = [self.pid]
        for pid in tree:  # which grows meanwhile
            if number != signal.SIGCONT:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            tree += children(pid)
        if number != signal.SIGSTOP:
            for pid in reversed(tree):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _end_with_parent(self) -> None:
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, self.stop_signal)


def unused_port() -> int:
    """A port for a server that is stopped and started again: not one of those that the kernel
    gives to others that ask for any, or another test may have it in between."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def children(pid: int) -> list[int]:
    """The processes whose parent is ``pid``, those that it has not reaped among them.

    Not from ``/proc/PID/task/*/children``: a thread that ends takes its file with it, and gives
    its children to a thread that may have been read before."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(stat_fields(int(entry.name))[1]) == pid:
                found.append(int(entry.name))
    return found


def stat_fields(pid: int) -> list[str]:
    """What ``/proc/PID/stat`` holds from the state on: state, parent, group, ..."""
    # pid (name) state ppid ...; the name may hold anything.
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def start_time(pid: int) -> int:
    """When a process was started, which no later one of the same pid has; 0 if it runs no more."""
    try:
        fields = stat_fields(pid)
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])
