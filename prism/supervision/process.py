"""A plugin's process: started clean, listened to, and always reaped.

The plugin gets one inherited socket, a small environment and a process group of
its own. Nothing secret is in its environment or its arguments: credentials
travel in Initialize. What it writes to standard output and standard error is told
to its owner, line by line.
"""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import trio

from prism.isolation.confinement import NONE, Confinement
from prism.streams.errors import LaunchError
from prism.streams.unix import FD_VARIABLE, socket_pair
from prism.supervision.events import OutputStream
from prism.supervision.guardian import guardian
from prism.supervision.guardian_main import is_stopped

PASSED_ON = ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables of the proxy's own environment that a plugin gets to see, besides PATH."""
MAX_LINE = 64 * 1024
"""Bytes of a line of output that are kept; what its line has beyond is thrown away."""
EXIT_TIMEOUT = 1.0
"""Seconds in which a plugin should end by itself once its connection is closed."""
CONFINE_TIMEOUT = 30.0
"""Seconds for a process to confine itself, which takes a twentieth of one."""
OUTPUT_TIMEOUT = 1.0
"""Seconds to read what a process wrote before it ended."""

WRAPPED_SIGNAL = 128
"""What a sandbox adds to the number of the signal that has ended the process in it."""

awaited: set[int] = set()
"""The processes that were started here and are not reaped, which is their owners' to do."""

OnLine = Callable[[OutputStream, str], None]
"""Called with the stream that a plugin wrote to, and the line."""


def clean_environment(additions: Mapping[str, str]) -> dict[str, str]:
    """A small environment. PATH begins with the proxy's own Python, so that
    ``python plugin.py`` finds the SDK the proxy came with."""
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    path = os.environ.get("PATH", os.defpath)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}"
    environment["PYTHONUNBUFFERED"] = "1"
    environment.update(additions)
    return environment


class PluginProcess:
    """One process. Made by :func:`start`; its owner runs ``listen``, and calls ``end`` once.

    ``wraps``: it is a sandbox that the plugin's own process is in. ``listener``: the descriptor at
    which its connections wait for a broker, of which the owner is who takes it; None where nobody
    decides them.
    """

    def __init__(
        self, name: str, process: trio.Process, on_line: OnLine, *, wraps: bool = False
    ) -> None:
        self.name = name
        self.listener: int | None = None
        self._wraps = wraps
        self._process = process
        self._on_line = on_line
        self._listening = trio.CancelScope()
        self._silent = trio.Event()
        self._reaped = False

    @property
    def pid(self) -> int:
        """The plugin's process id."""
        return _innermost(self._process.pid) if self._wraps else self._process.pid

    async def dismiss(self) -> None:
        """End it, and what it writes, of which nothing is wanted. Shielded from cancellation."""
        with trio.CancelScope(shield=True):
            self._signal_group(signal.SIGKILL)
            await self.end(0.0)
            for output in (self._process.stdout, self._process.stderr):
                if output is not None:
                    await output.aclose()

    async def listen(self) -> None:
        """Tell what the plugin writes, until it closes its output or has ended."""
        try:
            with self._listening:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(partial(self._tell_lines, "stderr", self._process.stderr))
                    nursery.start_soon(partial(self._tell_lines, "stdout", self._process.stdout))
        finally:
            self._silent.set()

    async def _tell_lines(self, name: OutputStream, output: trio.abc.ReceiveStream | None) -> None:
        assert output is not None  # noqa: S101 - start() asked for it
        line = bytearray()
        async with output:
            async for chunk in output:
                line += chunk
                *complete, rest = line.split(b"\n")
                for raw in complete:
                    self._tell(name, raw)
                line = rest[:MAX_LINE]
            if line:
                self._tell(name, line)

    def _tell(self, name: OutputStream, raw: bytearray) -> None:
        self._on_line(name, raw[:MAX_LINE].decode(errors="replace").rstrip("\r"))

    async def end(self, kill_after: float) -> str:
        """Let the process end, ask it to, kill its group; reap it. Returns how it ended.

        Its connection is closed by now, on which a plugin ends by itself; it has
        ``EXIT_TIMEOUT`` seconds for that, and ``kill_after`` more once asked.
        Shielded from cancellation. The group is killed while the process is yet
        to be reaped: until then the kernel gives its number to nobody else.
        """
        with trio.CancelScope(shield=True):
            # One that is stopped (SIGSTOP, a debugger) hears nothing.
            if not is_stopped(self._process.pid) and not await self.wait_ended(EXIT_TIMEOUT):
                self._signal_group(signal.SIGTERM)
                await self.wait_ended(kill_after)
            # What the plugin itself started dies with it.
            self._signal_group(signal.SIGKILL)
            await guardian().release(self._process.pid)
            await self._process.wait()
            self._reaped = True
            awaited.discard(self._process.pid)
        # A grandchild that left the group may hold the output open for ever.
        self._listening.deadline = trio.current_time() + OUTPUT_TIMEOUT
        return self.ending

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    async def wait_ended(self, limit: float) -> bool:
        """Has the process ended, or does it within ``limit`` seconds? Does not reap it."""
        if self._reaped:
            return True
        descriptor = os.pidfd_open(self._process.pid)
        try:
            with trio.move_on_after(limit):
                await trio.lowlevel.wait_readable(descriptor)
                return True
        finally:
            os.close(descriptor)
        return False

    async def wait_silent(self) -> None:
        """Wait, within limits, until everything the process wrote has been read."""
        with trio.move_on_after(OUTPUT_TIMEOUT):
            await self._silent.wait()

    @property
    def ending(self) -> str:
        """How the process ended, in words: ``exited with status 3``. Does not reap it."""
        if self._reaped:
            code = self._process.returncode or 0
        else:
            options = os.WEXITED | os.WNOWAIT | os.WNOHANG
            found = os.waitid(os.P_PID, self._process.pid, options)
            if found is None:
                return "is still running"
            code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        if self._wraps and code > WRAPPED_SIGNAL:
            code = WRAPPED_SIGNAL - code  # as a shell tells of it
        if code >= 0:
            return f"exited with status {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"


async def start(
    name: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    directory: str | None,
    on_line: OnLine = lambda _stream, _line: None,
    *,
    executable: str | None = None,
    descriptors: Sequence[int] = (),
    confinement: Confinement = NONE,
) -> tuple[PluginProcess, trio.SocketStream]:
    """Start a plugin; returns its process and our end of its socket. Otherwise as ``run``."""
    stream, theirs = socket_pair()
    with theirs:
        number = theirs.fileno()
        try:
            process = await run(
                name,
                argv,
                {**environment, FD_VARIABLE: str(number)},
                directory,
                on_line,
                executable=executable,
                descriptors=[number, *descriptors],
                confinement=confinement,
            )
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
    return process, stream


async def run(
    name: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    directory: str | None,
    on_line: OnLine = lambda _stream, _line: None,
    *,
    executable: str | None = None,
    descriptors: Sequence[int] = (),
    confinement: Confinement = NONE,
) -> PluginProcess:
    """Start a plugin's process, without a connection to it.

    ``on_line`` gets each line of its output; it must not block.
    ``executable`` is run instead of the first word of ``argv``, which the program
    still finds as its name. ``descriptors`` are handed down under their numbers. With a
    ``confinement`` the process has confined itself, and become the program, when this returns.

    Raises:
        LaunchError: the program cannot be run, or confined; the message says why.
    """
    words, report = list(argv), None
    ours, given = socket.socketpair()
    with ours, ExitStack() as opened:
        opened.enter_context(given)
        if confinement.confines:
            reading, told = os.pipe()
            opened.callback(os.close, told)
            report = trio.lowlevel.FdStream(reading)
            descriptors = [*descriptors, told]
            if confinement.egress is not None:
                descriptors.append(given.fileno())
            words = confinement.command(told, argv, executable, given.fileno())
            executable = None
        try:
            process = await trio.lowlevel.open_process(
                words,
                executable=executable,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=descriptors,
                env=clean_environment({**environment, **confinement.environment}),
                cwd=directory,
                start_new_session=True,
            )
        except BaseException as error:
            if report is not None:
                report.close()
            if isinstance(error, OSError):
                raise LaunchError(_cannot_run(name, argv, directory, error)) from None
            if isinstance(error, ValueError):
                raise LaunchError(f"plugin {name!r}: cannot run {argv[0]!r}: {error}") from None
            raise
        awaited.add(process.pid)
        with trio.CancelScope(shield=True):  # or nobody would know of the process
            await guardian().watch(process.pid)
        child = PluginProcess(name, process, on_line, wraps=confinement.wraps)
        if report is None:
            return child
        opened.close()  # or the pipe would not end
        try:
            failed = await _read_report(report)
            if failed is not None:
                raise LaunchError(_cannot_confine(name, argv, directory, *failed))
            if confinement.egress is not None:  # sent before it became its program
                # Else it has ended before that, which is seen elsewhere.
                with contextlib.suppress(BlockingIOError):
                    found = socket.recv_fds(ours, 1, 1, socket.MSG_DONTWAIT)[1]
                    child.listener = found[0] if found else None
        except BaseException:
            await child.dismiss()
            raise
        return child


def descends_from(pid: int, ancestor: int) -> bool:
    """Is ``pid`` the process ``ancestor``, or one that it has started, at whatever remove?

    Does not block: what is in ``/proc`` the kernel makes as it is read.
    """
    while pid > 1 and pid != ancestor:
        try:
            found = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return False
        pid = int(found.rpartition(")")[2].split()[1])
    return pid == ancestor


async def _read_report(pipe: trio.lowlevel.FdStream) -> tuple[str, int] | None:
    """Where the process could not confine itself, or become its program; None once it has.

    The pipe ends when it becomes its program; not so where it is in a sandbox whose other
    processes hold it, and it says that it is about to. An end of its own is seen elsewhere.
    """
    said = b""
    async with pipe:
        with trio.move_on_after(CONFINE_TIMEOUT) as in_time:
            async for chunk in pipe:
                said += chunk
                if b"\n" in said:
                    break
    if in_time.cancelled_caught:
        return "start", errno.ETIMEDOUT
    step, _, number = said.decode(errors="replace").strip().partition(" ")
    return (step, int(number)) if number.isdigit() else None


def _cannot_confine(
    name: str, argv: Sequence[str], directory: str | None, step: str, number: int
) -> str:
    error = OSError(number, os.strerror(number))  # a FileNotFoundError, or the like
    if step == "run":
        return _cannot_run(name, argv, directory, error)
    return (
        f"plugin {name!r} could not be confined ({step}: {error.strerror}), and was not run; "
        '`isolation: {sandbox: "off"}` runs it without'
    )


def _innermost(pid: int) -> int:
    """The process in a sandbox: the only child of the only child of the one that was started."""
    for _ in range(2):
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if children:
                pid = int(children[0])
    return pid


def _cannot_run(name: str, argv: Sequence[str], directory: str | None, error: OSError) -> str:
    if directory is not None and error.filename == directory:
        return f"plugin {name!r}: cannot enter working_directory {directory}: {error.strerror}"
    hint = ""
    if isinstance(error, FileNotFoundError):
        hint = "; give a path, or the name of a program in PATH"
    elif isinstance(error, PermissionError):
        hint = "; is it executable?"
    return f"plugin {name!r}: cannot run {argv[0]}: {error.strerror}{hint}"
