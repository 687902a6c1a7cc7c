"""A plugin's process: started clean, listened to, and always reaped.

The plugin gets one inherited socket, a small environment and a process group of
its own. Nothing secret is in its environment or its arguments: credentials
travel in Initialize. What it writes to standard output and standard error goes
to the log, line by line; the last lines are kept to explain a failed start.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from prism.channels.inherited import FD_VARIABLE, socket_pair
from prism.contract.exceptions import LaunchError

PASSED_ON = ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables of the proxy's own environment that a plugin gets to see, besides PATH."""
MAX_LINE = 8 * 1024
"""Bytes of a line of output that are logged."""
LINES_KEPT = 20
"""Last lines of output, for the message when a start fails."""
LINES_PER_SECOND = 200
"""Lines of output logged per second; the rest is counted."""


EXIT_PATIENCE = 1.0
"""Seconds in which a plugin should end by itself once its connection is closed."""
OUTPUT_PATIENCE = 1.0
"""Seconds to read what a process wrote before it ended."""


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
    """One process. Made by :func:`start`; ``run`` and ``end`` belong to its owner."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.last_lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._process = process
        self._log = logging.getLogger(f"prism.plugin.{name}")
        self._listening = trio.CancelScope()

    @property
    def pid(self) -> int:
        """The process id; also that of its group."""
        return self._process.pid

    async def listen(self) -> None:
        """Log what the plugin writes, until it closes its output or has ended."""
        output = self._process.stdout
        if output is None:
            return
        with self._listening:
            async with output:
                await self._log_lines(output)

    async def _log_lines(self, output: trio.abc.ReceiveStream) -> None:
        line = bytearray()
        window_ends = 0.0
        logged = dropped = 0
        async for chunk in output:
            *complete, rest = bytes(line + chunk).split(b"\n")
            if len(rest) > MAX_LINE:
                complete.append(rest)
                rest = b""
            line[:] = rest
            if trio.current_time() > window_ends:
                if dropped:
                    self._log.warning("%d lines of output were dropped: too many", dropped)
                window_ends = trio.current_time() + 1
                logged = dropped = 0
            for raw in complete:
                text = self._keep(raw)
                if logged < LINES_PER_SECOND:
                    logged += 1
                    self._log.info("%s", text)
                else:
                    dropped += 1
        if line:
            self._log.info("%s", self._keep(line))

    def _keep(self, raw: bytes | bytearray) -> str:
        text = raw[:MAX_LINE].decode(errors="replace").rstrip("\r")
        self.last_lines.append(text)
        return text

    async def end(self, kill_after: float) -> str:
        """Let the process end, ask it to, kill its group; reap it. Returns how it ended.

        Its connection is closed by now, on which a plugin ends by itself; it has
        ``EXIT_PATIENCE`` seconds for that, and ``kill_after`` more once asked.
        Shielded from cancellation.
        """
        with trio.CancelScope(shield=True):
            if not await self.wait_ended(EXIT_PATIENCE):
                with trio.move_on_after(kill_after):
                    self._signal_group(signal.SIGTERM)
                    await self._process.wait()
            # What the plugin itself started dies with it.
            self._signal_group(signal.SIGKILL)
            await self._process.wait()
        # A grandchild that left the group may hold the output open for ever.
        self._listening.deadline = trio.current_time() + OUTPUT_PATIENCE
        return self.ending

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    async def wait_ended(self, patience: float) -> bool:
        """Has the process ended, or does it within ``patience`` seconds?"""
        with trio.move_on_after(patience):
            await self._process.wait()
        return self._process.returncode is not None

    @property
    def ending(self) -> str:
        """How the process ended, in words: ``exited with status 3``."""
        code = self._process.returncode
        if code is None:
            return "is still running"
        if code >= 0:
            return f"exited with status {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"


async def start(
    name: str, argv: Sequence[str], environment: Mapping[str, str], directory: str | None
) -> tuple[PluginProcess, trio.SocketStream]:
    """Start a plugin; returns its process and our end of its socket.

    Raises:
        LaunchError: the program cannot be run; the message says why.
    """
    stream, theirs = socket_pair()
    with theirs:
        variables = clean_environment(environment)
        variables[FD_VARIABLE] = str(theirs.fileno())
        try:
            process = await trio.lowlevel.open_process(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env=variables,
                cwd=directory,
                start_new_session=True,
            )
        except OSError as error:
            await trio.aclose_forcefully(stream)
            raise LaunchError(_cannot_run(name, argv, directory, error)) from None
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
    return PluginProcess(name, process), stream


def _cannot_run(name: str, argv: Sequence[str], directory: str | None, error: OSError) -> str:
    if directory is not None and not Path(directory).is_dir():
        return f"plugin {name!r}: working_directory {directory} is not a directory"
    hint = ""
    if isinstance(error, FileNotFoundError):
        hint = "; give a path, or the name of a program in PATH"
    elif isinstance(error, PermissionError):
        hint = "; is it executable?"
    return f"plugin {name!r}: cannot run {argv[0]}: {error.strerror}{hint}"
