"""A service manager with two of systemd's habits: socket activation and sd_notify.

Run as a program it becomes the service: python service_manager.py DATA ADMIN COMMAND...
puts the two sockets where systemd would, and executes the command.
"""

import fcntl
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

FIRST = 3


class ServiceManager:
    """Holds the sockets of a service, starts it, and is told how it is."""

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        self.data = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.admin = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._notify = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self._notify.bind(str(directory / "notify"))
        self._notify.settimeout(60)
        self._directory = directory

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `prism serve` as systemd would; the caller ends it."""
        fds = [self.data.fileno(), self.admin.fileno()]
        launcher = [sys.executable, __file__, *map(str, fds)]
        with (self._directory / "log").open("ab") as log:
            return subprocess.Popen(
                [*launcher, sys.executable, "-m", "prism", "serve", *arguments],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=fds,
                env=os.environ | {"NOTIFY_SOCKET": str(self._directory / "notify")},
            )

    @property
    def log(self) -> str:
        return (self._directory / "log").read_text()

    def told(self) -> dict[str, str]:
        """What the service says next."""
        lines = self._notify.recv(65536).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def close(self) -> None:
        self._stack.close()


if __name__ == "__main__":
    given, command = [int(number) for number in sys.argv[1:3]], sys.argv[3:]
    spare = [fcntl.fcntl(number, fcntl.F_DUPFD, FIRST + len(given)) for number in given]
    for target, number in enumerate(spare, FIRST):
        os.dup2(number, target)
        os.close(number)
    variables = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "data:admin"}
    os.execve(command[0], command, os.environ | variables)
