"""Rolling restarts: one process hands its listening sockets to the next.

The predecessor starts its own command once more: whatever program, packages and configuration
are at their places now. The successor gets the listening sockets and prepares everything,
plugins too, while the predecessor serves on. Only when no namespace would be worse off is it
let in; from then on both accept, and the predecessor drains. Whatever goes wrong before that,
the successor ends and the predecessor goes on.

``PRISM_HANDOVER`` names the sockets, and one end of a pair over which the two talk in lines of
JSON::

    successor                         predecessor
    {"prepared": {"kv": ""}}    ───▶  every namespace, and why it is not ready, if so
                                ◀───  {"verdict": "go"}  or  {"verdict": "stop"}
    {"serving": true}           ───▶  drains, and ends

    {"failed": "reason"}        ───▶  goes on as if nothing had been

A predecessor that has died cannot object: its end closes, and the successor serves.
"""

import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import trio

from prism.contract.errors import PrismError
from prism.process import sockets
from prism.process.sockets import GivenSocket, Role, from_descriptor

logger = logging.getLogger("prism.process")

VARIABLE = "PRISM_HANDOVER"
MAX_LINE = 64 * 1024
"""Bytes of one line: hundreds of namespaces, each with a reason."""
END_TIMEOUT = 2.0
"""Seconds after each signal for a successor that is not wanted: it has served nobody, and
its plugins end with their connections."""


class HandoverFailed(PrismError):
    """A successor did not take its predecessor's place; the message says why."""


class Predecessor:
    """The process whose place this one takes."""

    def __init__(self, talk: socket.socket) -> None:
        self._talk = talk

    def failed(self, reason: str) -> None:
        """This process cannot serve; the predecessor logs why, and goes on."""
        self._say({"failed": reason})

    async def wait_for_verdict(self, absences: Mapping[str, str]) -> None:
        """Report which namespaces are ready (no absence), and wait to be let in.

        Cancelling leaves the predecessor waiting, until this process ends.

        Raises:
            HandoverFailed: the predecessor goes on itself.
        """
        self._say({"prepared": dict(absences)})
        with trio.socket.from_stdlib_socket(self._talk.dup()) as talk:
            answer = await read_line(trio.SocketStream(talk))
        if answer is not None and answer.get("verdict") != "go":
            raise HandoverFailed("the process that runs goes on; its log says why")

    def serving(self) -> None:
        """This process accepts connections; the predecessor may leave."""
        self._say({"serving": True})
        self._talk.close()

    def _say(self, message: Mapping[str, object]) -> None:
        try:
            self._talk.setblocking(True)
            self._talk.sendall(json.dumps(message)[:MAX_LINE].encode() + b"\n")
        except OSError:  # it has gone
            pass


def take_over(
    environment: MutableMapping[str, str],
) -> tuple[Predecessor, list[GivenSocket]] | None:
    """Who started this process to take its place, and the sockets it passes on.

    ``None`` for a process that takes nobody's place. The variable is removed.
    """
    text = environment.pop(VARIABLE, None)
    if text is None:
        return None
    handover = json.loads(text)
    talk = socket.socket(fileno=handover["talk"])
    talk.set_inheritable(False)
    passed: list[tuple[Role, str, int]] = handover["sockets"]
    return Predecessor(talk), [from_descriptor(fd, role, place) for role, place, fd in passed]


@dataclass(frozen=True)
class PassedSocket:
    """One of our listening sockets: what it is for, and the configured address."""

    role: Role
    place: str
    descriptor: int


async def hand_over(
    command: Sequence[str],
    passed: Sequence[PassedSocket],
    absences: Callable[[], Mapping[str, str]],
    ready_within: float,
) -> int:
    """Start ``command`` as our successor; returns its pid once it serves.

    ``absences`` gives our own namespaces, each with why it is not ready, or "".
    ``ready_within`` is how many seconds the successor has.

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
            process = await _start(command, passed, theirs)
        logger.info("pid %d starts as the successor", process.pid)
        try:
            with trio.fail_after(ready_within):
                await _judge(talk, process, absences)
        except BaseException as error:
            await _end(process)
            if isinstance(error, trio.TooSlowError):
                raise HandoverFailed(f"it was not ready within {ready_within:g} seconds") from None
            raise
    return process.pid


def announcement(talk: int, passed: Sequence[PassedSocket]) -> str:
    """The value of ``PRISM_HANDOVER``; read by ``take_over``."""
    named = [(item.role, item.place, item.descriptor) for item in passed]
    return json.dumps({"pid": os.getpid(), "talk": talk, "sockets": named})


async def _start(
    command: Sequence[str], passed: Sequence[PassedSocket], talk: socket.socket
) -> trio.Process:
    environment = {
        name: value for name, value in os.environ.items() if name not in sockets.VARIABLES
    }
    environment[VARIABLE] = announcement(talk.fileno(), passed)
    descriptors = [talk.fileno(), *(item.descriptor for item in passed)]
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
    verdict = b'{"verdict": "stop"}\n' if worse else b'{"verdict": "go"}\n'
    with contextlib.suppress(trio.BrokenResourceError):  # what follows finds out how it ended
        await talk.send_all(verdict)
    if worse:
        raise HandoverFailed("; ".join(worse))
    if not (await _hear(talk, process)).get("serving"):
        raise HandoverFailed("it did not begin to serve")


async def _hear(talk: trio.SocketStream, process: trio.Process) -> dict[str, object]:
    message = await read_line(talk)
    if message is not None:
        return message
    with trio.move_on_after(END_TIMEOUT):
        status = await process.wait()
        ending = f"was ended by {signal.Signals(-status).name}" if status < 0 else None
        raise HandoverFailed(f"it {ending or f'exited with status {status}'}")
    raise HandoverFailed("it stopped talking")


async def _end(process: trio.Process) -> None:
    """Stop it, then at once (the second SIGTERM), then hard; returns when it is reaped."""
    with trio.CancelScope(shield=True):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if process.returncode is None:
                process.send_signal(number)
                with trio.move_on_after(END_TIMEOUT):
                    await process.wait()
        await process.wait()


async def read_line(stream: trio.SocketStream) -> dict[str, object] | None:
    """The next message; ``None`` if the other side is gone, or talks nonsense."""
    line = bytearray()
    try:
        while b"\n" not in line and len(line) <= MAX_LINE:
            byte = await stream.receive_some(1)  # no more: what follows is another message
            if not byte:
                return None
            line += byte
        message = json.loads(line)
    except (trio.BrokenResourceError, ValueError):
        return None
    return message if isinstance(message, dict) else None
