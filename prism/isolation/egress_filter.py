"""The filter that has a plugin's connections asked for, as a BPF program.

It stands beside the filter of ``confine_main``, which keeps a process from the descriptors of
others and from ``io_uring``; without that this one is of no use.

What is left to a process: TCP and Unix sockets, of which each connection is a ``connect`` that the
broker decides, pairs of Unix sockets, and what it was given. There are no datagrams, which need no
connection, no connection that comes of sending (TCP Fast Open), and nobody connects to it.
"""

import struct
from collections.abc import Mapping
from typing import NamedTuple


class _Machine(NamedTuple):
    architecture: int
    connect: int
    listen: int
    socket: int
    socketpair: int
    senders: Mapping[int, int]
    """System calls that send, and which argument of each has the flags."""


MACHINES: Mapping[str, _Machine] = {
    "x86_64": _Machine(0xC000003E, 42, 50, 41, 53, {44: 3, 46: 2, 307: 3}),
    "aarch64": _Machine(0xC00000B7, 203, 201, 198, 199, {206: 3, 211: 2, 269: 3}),
}
"""Those whose numbers are known, by ``os.uname().machine``."""

_X32 = 0x40000000
_UNIX, _INET, _INET6 = 1, 2, 10
_STREAM, _SEQPACKET, _TYPES = 1, 5, 0xF
_ANY, _TCP = 0, 6
_FAST_OPEN = 0x20000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_EACCES, _ENOSYS = 0x00050000 | 13, 0x00050000 | 38
_ARGUMENTS = 16

Instruction = tuple[int, int, int, int]


def program(machine: str) -> bytes:
    """The program for a kind of machine. Raises KeyError for one that is not known."""
    numbers = MACHINES[machine]
    code: list[Instruction] = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, numbers.architecture),
        (_RETURN, 0, 0, _ENOSYS),
        (_LOAD, 0, 0, 0),
    ]
    if machine == "x86_64":
        code += _when((_AT_LEAST, _X32), [(_RETURN, 0, 0, _ENOSYS)])
    code += _when((_EQUAL, numbers.connect), [(_RETURN, 0, 0, _NOTIFY)])
    code += _when((_EQUAL, numbers.listen), [(_RETURN, 0, 0, _EACCES)])
    unix = [_argument(1), (_AND, 0, 0, _TYPES), *_only(_STREAM, _SEQPACKET), _allow()]
    tcp = [
        _argument(1),
        (_AND, 0, 0, _TYPES),
        *_only(_STREAM),
        _argument(2),
        *_only(_ANY, _TCP),
        _allow(),
    ]
    sockets = [_argument(0)]
    sockets += _when((_EQUAL, _UNIX), unix)
    sockets += _when((_EQUAL, _INET), tcp)
    sockets += _when((_EQUAL, _INET6), tcp)
    code += _when((_EQUAL, numbers.socket), [*sockets, (_RETURN, 0, 0, _EACCES)])
    code += _when((_EQUAL, numbers.socketpair), unix)
    for number, flags in numbers.senders.items():
        denied = _when((_ANY_BIT, _FAST_OPEN), [(_RETURN, 0, 0, _EACCES)])
        code += _when((_EQUAL, number), [_argument(flags), *denied, _allow()])
    code.append(_allow())
    return b"".join(struct.pack("=HBBI", *each) for each in code)


def _argument(number: int) -> Instruction:
    """Load the lower half of an argument: those that are looked at are ints."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * number)


def _allow() -> Instruction:
    return (_RETURN, 0, 0, _ALLOW)


def _when(test: tuple[int, int], then: list[Instruction]) -> list[Instruction]:
    """``then``, which must end with a return, if the loaded value passes ``test``."""
    operation, value = test
    return [(operation, 0, len(then), value), *then]


def _only(*values: int) -> list[Instruction]:
    """Go on if the loaded value is one of these; else the call fails."""
    tests = [(_EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
    return [*tests, (_RETURN, 0, 0, _EACCES)]
