"""The plugin under test, and the three ways to reach it.

``Spawned`` starts it for each connection, on an inherited descriptor, as a proxy does.
``DiallingIn`` listens for it, ``Listening`` dials it; both may start it themselves, once.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from prism.contract.redaction import Redaction
from prism.sdk.conformance.link import Limits, Link
from prism.sdk.conformance.rules import Skipped, Violation
from prism.sdk.endpoints import FD_VARIABLE, SOCKET_VARIABLE, Address

PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables that a plugin which is started sees, as of a proxy's."""
NOWHERE = "/nonexistent/prism-plugin.sock"
"""PLUGIN_SOCKET of a plugin that is started on a descriptor, which counts."""
FIRST_PAUSE = 0.02
LOOK_INTERVAL = 0.1
"""Seconds between two looks whether a process still runs."""
MAX_OUTPUT = 1024 * 1024
"""Bytes of a process's output that are looked at."""


class Program:
    """A process of the plugin: its output goes to a file; it is ended with its group."""

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        *,
        environment: Mapping[str, str],
        pass_fds: Sequence[int] = (),
    ) -> None:
        env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        env |= {"PYTHONUNBUFFERED": "1", **environment, **variables}
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        self._said: str | None = None
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the caller's own command
                command,
                env=env,
                pass_fds=pass_fds,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._output.close()
            raise CannotStart(f"{command[0]}: {error.strerror or error}") from None

    @property
    def output(self) -> str:
        """What it wrote to standard output and error, the beginning of it."""
        if self._said is not None:
            return self._said
        raw = os.pread(self._output.fileno(), MAX_OUTPUT, 0)
        return raw.decode(errors="replace")

    @property
    def running(self) -> bool:
        """Has it not ended?"""
        return self._process.poll() is None

    def exit_status(self, timeout: float) -> int:
        """How it ended; a signal's number is negative.

        Raises:
            Violation: it did not end.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Violation(f"the process did not end within {timeout:g} s") from None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Kill it and what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._said is None:
            self._said = self.output
            self._output.close()


class CannotStart(Exception):
    """The plugin could not be started or reached at all."""


class Running:
    """A connection to the plugin, and its process where it was started here."""

    def __init__(self, link: Link, program: Program | None, *, own: bool) -> None:
        self.link = link
        self._program = program
        self._own = own

    @property
    def program(self) -> Program:
        """The process.

        Raises:
            Skipped: it was started by somebody else.
        """
        if self._program is None:
            raise Skipped("the plugin's process was started by somebody else")
        return self._program

    @property
    def process(self) -> Program | None:
        """The process, if it was started here."""
        return self._program

    @property
    def output(self) -> str:
        """What the process wrote, if it is known."""
        return self._program.output if self._program is not None else ""

    def exit_status(self, what: str) -> int:
        """How the process ended; ``what`` says when it has to.

        Raises:
            Violation: it runs on.
        """
        try:
            return self.program.exit_status(self.link.timeout)
        except Violation as error:
            raise Violation(f"{error} {what}") from None

    def end(self) -> None:
        """Close the connection; end the process if it is this connection's own."""
        self.link.close()
        if self._own and self._program is not None:
            self._program.end()


class Target:
    """How to reach a plugin. ``timeout`` bounds each wait, in seconds."""

    spawns = False
    """Is a process started for each connection, which ends with it?"""
    dials_in = False
    """Does the plugin dial, one connection at a time?"""

    def __init__(self, *, timeout: float, environment: Mapping[str, str] | None = None) -> None:
        self.timeout = timeout
        self.environment = dict(environment or {})
        self.redaction = Redaction()

    def connect(self, limits: Limits | None = None, chunk: int = 0) -> Running:
        """A new connection.

        Raises:
            CannotStart: there is no such program, or nothing can be reached.
            Violation: the plugin did not come.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End what was started."""

    def _link(self, sock: socket.socket, limits: Limits | None, chunk: int) -> Link:
        return Link(
            sock, timeout=self.timeout, redaction=self.redaction, limits=limits, chunk=chunk
        )


class Spawned(Target):
    """A program that is started on an inherited descriptor."""

    spawns = True

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.command = list(command)

    def connect(self, limits: Limits | None = None, chunk: int = 0) -> Running:
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            variables = {FD_VARIABLE: str(number), SOCKET_VARIABLE: NOWHERE}
            try:
                program = Program(
                    self.command, variables, environment=self.environment, pass_fds=[number]
                )
            except CannotStart:
                ours.close()
                raise
        return Running(self._link(ours, limits, chunk), program, own=True)


class DiallingIn(Target):
    """A plugin that dials the Unix socket ``path``, which is made here; it is started with
    PLUGIN_SOCKET where there is a ``command``, and again where it has ended."""

    dials_in = True

    def __init__(self, path: str, command: Sequence[str] = (), **options: Any) -> None:
        super().__init__(**options)
        self.command = list(command)
        self._path = path
        self._program: Program | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        os.fchmod(self._listener.fileno(), 0o600)
        try:
            self._listener.bind(path)
        except OSError as error:
            self._listener.close()
            raise CannotStart(f"cannot listen on {path}: {error.strerror}") from None
        self._listener.listen()

    @property
    def program(self) -> Program | None:
        """The process, where it was started here."""
        return self._program

    def start(self) -> Program | None:
        """Start the process if there is a command, and none that runs."""
        if self.command and (self._program is None or not self._program.running):
            if self._program is not None:
                self._program.end()
            variables = {SOCKET_VARIABLE: self._path}
            self._program = Program(self.command, variables, environment=self.environment)
        return self._program

    def restart(self) -> None:
        """Have the next connection be of a new process."""
        if self._program is not None:
            self._program.end()

    def connect(self, limits: Limits | None = None, chunk: int = 0) -> Running:
        until = time.monotonic() + self.timeout
        program = self.start()
        while not select.select([self._listener], [], [], LOOK_INTERVAL)[0]:
            if time.monotonic() > until:
                raise Violation(f"the plugin did not dial {self._path} within {self.timeout:g} s")
            program = self.start()  # the one before may have been about to end
        sock, _ = self._listener.accept()
        return Running(self._link(sock, limits, chunk), program, own=False)

    def close(self) -> None:
        self._listener.close()
        Path(self._path).unlink(missing_ok=True)
        self.restart()


class Listening(Target):
    """A plugin that listens on ``address``, a path or ``tcp:HOST:PORT``; with a ``command`` it is
    started here."""

    def __init__(self, address: str, command: Sequence[str] = (), **options: Any) -> None:
        super().__init__(**options)
        self.command = list(command)
        kinds = ("unix:", "tcp:")
        self._address = (
            Address.parse(address) if address.startswith(kinds) else Address.unix(address)
        )
        self._program: Program | None = None

    def connect(self, limits: Limits | None = None, chunk: int = 0) -> Running:
        until = time.monotonic() + self.timeout
        while True:
            self._start()  # the one before may have been about to end
            try:
                sock = self._dial()
                break
            except OSError as error:
                if self._program is None or time.monotonic() > until:
                    reason = f"{self._address}: {error.strerror or error}"
                    raise CannotStart(f"nothing listens on {reason}") from None
            time.sleep(FIRST_PAUSE)
        return Running(self._link(sock, limits, chunk), self._program, own=False)

    def _start(self) -> None:
        """Start the process if there is a command, and none that runs."""
        if self.command and (self._program is None or not self._program.running):
            if self._program is not None:
                self._program.end()
            self._program = Program(self.command, {}, environment=self.environment)

    def _dial(self) -> socket.socket:
        if not self._address.is_unix:
            where = (self._address.host, self._address.port)
            return socket.create_connection(where, self.timeout)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(self._address.path)
        except OSError:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        if self._program is not None:
            self._program.end()
