"""A plugin that tries to break out of where it runs, and says how far it came."""

import ctypes
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path

from msgspec import Struct

from prism.sdk import Plugin, operation, serve

libc = ctypes.CDLL(None, use_errno=True)


def called(answer):
    """Raise what a system call's error is."""
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def read(path):
    with Path(path).open("rb") as file:
        return repr(file.read(64))


def open_to_write(path):
    os.close(os.open(path, os.O_WRONLY))


def create(path):
    Path(path).write_text("mine")


def list_directory(path):
    return sorted(each.name for each in Path(path).iterdir())


def read_memory(pid):
    """Of the first page of its heap, through /proc."""
    with Path(f"/proc/{pid}/maps").open() as maps:
        begin = int(next(line for line in maps if "[heap]" in line).split("-")[0], 16)
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(begin)
        return len(memory.read(64))


def attach(pid):
    called(libc.ptrace(16, pid, 0, 0))  # PTRACE_ATTACH
    os.waitpid(pid, 0x40000000)  # __WALL
    called(libc.ptrace(17, pid, 0, 0))  # PTRACE_DETACH


def read_remote(pid):
    """With process_vm_readv."""
    with Path(f"/proc/{pid}/maps").open() as maps:
        begin = int(next(line for line in maps if "[heap]" in line).split("-")[0], 16)
    buffer = ctypes.create_string_buffer(64)

    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    mine = Vector(ctypes.cast(buffer, ctypes.c_void_p), 64)
    called(libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(Vector(begin, 64)), 1, 0))


def send_signal(pid):
    os.kill(pid, signal.SIGURG)  # which is ignored unless asked for


def connect_path(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def connect_abstract(name):
    connect_path("\0" + name)


def connect_tcp(port):
    with socket.socket() as client:
        client.settimeout(10)
        client.connect(("127.0.0.1", port))


def send_udp(port):
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.sendto(b"out", ("127.0.0.1", port))


def mount(path):
    called(libc.mount(b"none", path.encode(), b"tmpfs", 0, None))
    called(libc.umount2(path.encode(), 2))


def new_namespace():
    called(libc.unshare(0x04000000))  # CLONE_NEWUTS, which threads do not hinder


def raise_limit():
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def eat(megabytes):
    taken = [bytearray(1024 * 1024) for _ in range(megabytes)]
    return len(taken)


def leave(path):
    """A grandchild in a session of its own, which writes its number's file until it is ended."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(3, 200):
                try:
                    os.close(number)
                except OSError:
                    continue
            for number in range(100_000):
                Path(path).write_text(str(number))
                time.sleep(0.02)
        os._exit(0)
    os.wait()


def descriptors():
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[link.name] = str(link.readlink())
        except OSError:
            continue  # the directory's own
    return found


ATTACKS = {name: each for name, each in globals().items() if callable(each)}


class Attempt(Struct):
    what: str
    values: list[str | int] = []


class Nothing(Struct):
    pass


class Hostile(Plugin):
    name = "hostile"

    @operation
    async def attempt(self, params: Attempt) -> dict:
        """What came of it: `done`, or the error."""
        try:
            answer = ATTACKS[params.what](*params.values)
        except (OSError, ValueError, MemoryError) as error:
            return {"refused": f"{type(error).__name__}: {error}"}
        return {"done": answer if isinstance(answer, int | str | list | dict) else None}

    @operation
    async def inherited(self, params: Nothing) -> dict:
        """What it had when its program began."""
        return INHERITED


INHERITED = descriptors()

if __name__ == "__main__":
    serve(Hostile)
    sys.exit()
