"""The successor's end of a rolling restart: sockets come in, a report goes out.

The predecessor starts this process with ``PRISM_HANDOVER``, which names the
listening sockets it passes on and one end of a socket pair. Over that the two
talk in lines of JSON, this side first::

    successor                         predecessor
    {"prepared": {"kv": ""}}    ───▶  every namespace, and why it is not ready, if so
                                ◀───  {"verdict": "go"}  or  {"verdict": "stop"}
    {"serving": true}           ───▶  drains, and ends

    {"failed": "reason"}        ───▶  goes on as if nothing had been

A predecessor that has died cannot object: its end closes, and the successor serves.
"""

import json
import os
import socket
from collections.abc import Mapping, MutableMapping

import trio

from prism.process.errors import HandoverFailed
from prism.process.given_sockets import GivenSocket, Role, from_descriptor

VARIABLE = "PRISM_HANDOVER"
MAX_LINE = 64 * 1024
"""Bytes of one line: hundreds of namespaces, each with a reason."""


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
    roles: list[tuple[Role, str, int]] = handover["sockets"]
    return Predecessor(talk), [from_descriptor(fd, role, place) for role, place, fd in roles]


def announcement(talk: int, sockets: list[tuple[Role, str, int]]) -> str:
    """The value of ``PRISM_HANDOVER``; read by ``take_over``. Numbers are descriptors."""
    return json.dumps({"pid": os.getpid(), "talk": talk, "sockets": sockets})


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
