"""A plugin's process: started clean, listened to, and always reaped.

The plugin gets one inherited socket, a small environment and a process group of
its own. Nothing secret is in its environment or its arguments: credentials
travel in Initialize. What it writes to standard output and standard error is told
to its owner, line by line.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import trio

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
OUTPUT_TIMEOUT = 1.0
"""Seconds to read what a process wrote before it ended."""

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
    """One process. Made by :func:`start`; its owner runs ``listen``, and calls ``end`` once."""

    def __init__(self, name: str, process: trio.Process, on_line: OnLine) -> None:
        self.name = name
        self._process = process
        self._on_line = on_line
        self._listening = trio.CancelScope()
        self._silent = trio.Event()
        self._reaped = False

    @property
    def pid(self) -> int:
        """The process id; also that of its group."""
        return self._process.pid

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
) -> PluginProcess:
    """Start a plugin's process, without a connection to it.

    ``on_line`` gets each line of its output; it must not block.
    ``executable`` is run instead of the first word of ``argv``, which the program
    still finds as its name. ``descriptors`` are handed down under their numbers.

    Raises:
        LaunchError: the program cannot be run; the message says why.
    """
    try:
        process = await trio.lowlevel.open_process(
            list(argv),
            executable=executable,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=descriptors,
            env=clean_environment(environment),
            cwd=directory,
            start_new_session=True,
        )
    except OSError as error:
        raise LaunchError(_cannot_run(name, argv, directory, error)) from None
    except ValueError as error:
        raise LaunchError(f"plugin {name!r}: cannot run {argv[0]!r}: {error}") from None
    awaited.add(process.pid)
    with trio.CancelScope(shield=True):  # or nobody would know of the process
        await guardian().watch(process.pid)
    return PluginProcess(name, process, on_line)


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


def _cannot_run(name: str, argv: Sequence[str], directory: str | None, error: OSError) -> str:
    if directory is not None and error.filename == directory:
        return f"plugin {name!r}: cannot enter working_directory {directory}: {error.strerror}"
    hint = ""
    if isinstance(error, FileNotFoundError):
        hint = "; give a path, or the name of a program in PATH"
    elif isinstance(error, PermissionError):
        hint = "; is it executable?"
    return f"plugin {name!r}: cannot run {argv[0]}: {error.strerror}{hint}"
