"""What the kernel tells of a system call that waits for an answer (seccomp_unotify(2)).

Plain calls, none of which blocks for long: ``broker`` uses them, and the trial of ``machine``.
"""

import ctypes
import errno
import fcntl
import os
import select
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)
MAX_SOCKADDR = 128
"""Bytes of the longest address that Linux takes."""
_PIDFD_GETFD = 438
# ioctls of a listener (include/uapi/linux/seccomp.h): their structs have 80, 24 and 8 bytes.
_RECEIVE, _SEND, _IS_VALID = 0xC0502100, 0xC0182101, 0x40082102
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_ROOM = 512  # for a notification of later kernels


class Attempt(NamedTuple):
    """A ``connect`` that waits: of a thread, by the number of a descriptor, and an address."""

    number: int
    thread: int
    descriptor: int
    address: int
    length: int


_OVER = Attempt(0, 0, 0, 0, 0)


def receive(listener: int) -> Attempt | None:
    """The next attempt; one without a number if it is over already. None: no process is left."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    [(_, state)] = poll.poll(0) or [(listener, 0)]
    if not state & select.POLLIN:  # then to receive would block, in some kernels
        return None if state else _OVER
    notification = bytearray(_ROOM)
    try:
        fcntl.ioctl(listener, _RECEIVE, notification)
    except (FileNotFoundError, InterruptedError):
        return _OVER
    number, thread, _, _, _, _, *arguments = _NOTIFICATION.unpack_from(notification)
    descriptor, address, length = arguments[:3]
    signed = ctypes.c_int(descriptor & 0xFFFFFFFF).value
    return Attempt(number, thread, signed, address, length & 0xFFFFFFFF)


def respond(listener: int, number: int, code: int) -> None:
    """Let the process go on, whose call fails with this error, or succeeds with 0."""
    with suppress(OSError):  # the process may have gone meanwhile
        fcntl.ioctl(listener, _SEND, _RESPONSE.pack(number, 0, -code, 0))


def is_valid(listener: int, number: int) -> bool:
    """Does that process still wait? What was read before this was its own, then."""
    try:
        fcntl.ioctl(listener, _IS_VALID, struct.pack("=Q", number))
    except OSError:
        return False
    return True


def read_memory(attempt: Attempt) -> bytes:
    """The ``sockaddr``. Raises OSError: EFAULT where there is none."""
    data = b""
    if attempt.length <= MAX_SOCKADDR:
        with Path(f"/proc/{attempt.thread}/mem").open("rb", buffering=0) as memory:
            try:
                data = os.pread(memory.fileno(), attempt.length, attempt.address)
            except OverflowError:  # an address of the kernel's
                data = b""
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
        if len(data) < attempt.length:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    return data


def duplicate(attempt: Attempt) -> int:
    """The process's socket, here."""
    lines = Path(f"/proc/{attempt.thread}/status").read_bytes().splitlines()
    leader = next(int(line.split()[1]) for line in lines if line.startswith(b"Tgid:"))
    process = os.pidfd_open(leader)
    try:
        found: int = _libc.syscall(_PIDFD_GETFD, process, attempt.descriptor, 0)
        if found < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return found
    finally:
        os.close(process)


def refuse_one(listener: int, timeout: float) -> str:
    """Wait for one ``connect``, do all that a broker does but to connect, and answer ECONNREFUSED.
    Returns why that cannot be done here, or nothing. Closes ``listener``; blocks."""
    try:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.poll(timeout * 1000)
        attempt = receive(listener)
        if attempt is None or not attempt.number:
            return "no connection was told of"
        try:
            read_memory(attempt)
            os.close(duplicate(attempt))
        except OSError as error:
            return f"a process cannot be looked into: {error.strerror}"
        if not is_valid(listener, attempt.number):
            return "it waited no more"
        respond(listener, attempt.number, errno.ECONNREFUSED)
        return ""
    finally:
        os.close(listener)
