"""The predecessor's end of a rolling restart: start a successor, and judge it.

The successor is this process's command once more: whatever program, packages and
configuration are at their places now. It gets the listening sockets and prepares
everything, plugins too, while this process serves on. Only when no namespace would
be worse off is it let in; from then on both accept, and this process drains.

Whatever goes wrong before that, the successor ends and this process goes on.
"""

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from prism.process import given_sockets
from prism.process.errors import HandoverFailed
from prism.process.given_sockets import Role
from prism.process.predecessor import VARIABLE, announcement, read_line

logger = logging.getLogger("prism.process")

END_PATIENCE = 2.0
"""Seconds after each signal for a successor that is not wanted: it has served nobody, and
its plugins end with their connections."""


@dataclass(frozen=True)
class PassedSocket:
    """One of our listening sockets: what it is for, and the configured address."""

    role: Role
    place: str
    descriptor: int


async def hand_over(
    command: Sequence[str],
    sockets: Sequence[PassedSocket],
    absences: Callable[[], Mapping[str, str]],
    patience: float,
) -> int:
    """Start ``command`` as our successor; returns its pid once it serves.

    ``absences`` gives our own namespaces, each with why it is not ready, or "".
    ``patience`` is how many seconds the successor has to get ready.

    If cancelled, the successor is ended, as after a failure.

    Raises:
        HandoverFailed: says why. The successor has ended.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        raise HandoverFailed(f"there is no socket to talk over: {error.strerror}") from None
    talk = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    async with talk:
        with theirs:
            process = await _start(command, sockets, theirs)
        logger.info("pid %d starts as the successor", process.pid)
        try:
            with trio.fail_after(patience):
                await _judge(talk, process, absences)
        except BaseException as error:
            await _end(process)
            if isinstance(error, trio.TooSlowError):
                raise HandoverFailed(f"it was not ready within {patience:g} seconds") from None
            raise
    return process.pid


async def _start(
    command: Sequence[str], sockets: Sequence[PassedSocket], talk: socket.socket
) -> trio.Process:
    environment = {
        name: value for name, value in os.environ.items() if name not in given_sockets.VARIABLES
    }
    passed = [(item.role, item.place, item.descriptor) for item in sockets]
    environment[VARIABLE] = announcement(talk.fileno(), passed)
    descriptors = [talk.fileno(), *(item.descriptor for item in sockets)]
    try:
        return await trio.lowlevel.open_process(
            list(command), env=environment, pass_fds=descriptors
        )
    except OSError as error:
        raise HandoverFailed(f"{command[0]} cannot be run: {error.strerror}") from None


async def _judge(
    talk: trio.SocketStream, process: trio.Process, absences: Callable[[], Mapping[str, str]]
) -> None:
    """Let the successor in if it is ready, and wait until it serves."""
    report = await _hear(talk, process)
    prepared = report.get("prepared")
    if not isinstance(prepared, dict):
        raise HandoverFailed(str(report.get("failed", "it made no sense")))
    now = absences()
    worse = [
        f"namespace {name!r} is not ready: {why}"
        for name, why in prepared.items()
        if why and not now.get(name, "it is new")
    ]
    await _say(talk, b'{"verdict": "stop"}\n' if worse else b'{"verdict": "go"}\n')
    if worse:
        raise HandoverFailed("; ".join(worse))
    if not (await _hear(talk, process)).get("serving"):
        raise HandoverFailed("it did not begin to serve")


async def _hear(talk: trio.SocketStream, process: trio.Process) -> dict[str, object]:
    message = await read_line(talk)
    if message is not None:
        return message
    with trio.move_on_after(END_PATIENCE):
        status = await process.wait()
        ending = f"was ended by {signal.Signals(-status).name}" if status < 0 else None
        raise HandoverFailed(f"it {ending or f'exited with status {status}'}")
    raise HandoverFailed("it stopped talking")


async def _say(talk: trio.SocketStream, line: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError):  # what follows finds out how it ended
        await talk.send_all(line)


async def _end(process: trio.Process) -> None:
    """Stop it, then at once (the second SIGTERM), then hard; returns when it is reaped."""
    with trio.CancelScope(shield=True):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if process.returncode is None:
                process.send_signal(number)
                with trio.move_on_after(END_PATIENCE):
                    await process.wait()
        await process.wait()
