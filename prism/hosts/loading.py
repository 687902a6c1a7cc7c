"""Loads native libraries: into a process of theirs, or into one that has others.

What is loaded stays loaded. To unload a library in which threads may run, or whose runtime (as
Go's) knows no end, would take the code away from under them.
"""

import sys
import threading
from pathlib import Path

from prism.contract.errors import PrismError

try:
    from prism.hosts import _library
except ImportError:  # it is built where there is a compiler
    # What is called of it, is after a look whether it is there.
    _library = None  # type: ignore[assignment]


class LibraryUnfit(PrismError):
    """A library cannot be loaded, or is no plugin; says why."""


_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64", 258: "loongarch64"}
_ELF_HEADER = 20
_SHARED_OBJECT = 3


def load_library(source: str, place: str) -> "_library.Library":
    """Load the library at ``source``, which its user knows as ``place``. It is never unloaded.

    Blocks, and runs the library's own code: its constructors. Loading one ``source`` twice gives
    the first one, whatever is there by then.

    Raises:
        LibraryUnfit: it cannot be loaded, or its table is wrong.
    """
    if _library is None:
        raise LibraryUnfit(
            f"{place} cannot be loaded: this Prism was installed without its part in C "
            "(prism.hosts._library), which takes a C compiler; a wheel brings it"
        )
    check_library(source, place)
    try:
        return _library.load(source)
    except OSError as error:
        text = str(error).removeprefix(f"{source}: ")
        raise LibraryUnfit(f"{place} cannot be loaded: {text}") from None
    except ValueError as error:
        raise LibraryUnfit(f"{place} is no plugin: {error}") from None


def check_library(source: str, place: str) -> None:
    """That it looks like a library for this machine; without running any of it.

    Raises:
        LibraryUnfit: it does not.
    """
    try:
        _check_elf(source)
    except OSError as error:
        raise LibraryUnfit(f"{place} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise LibraryUnfit(f"{place} cannot be loaded: {error}") from None


def _check_elf(source: str) -> None:
    """What the loader says of these would lead nobody to the cause.

    Raises:
        OSError: it cannot be read. ValueError: it is no library for this machine.
    """
    with Path(source).open("rb") as file:
        head = file.read(_ELF_HEADER)
    if len(head) < _ELF_HEADER or not head.startswith(b"\x7fELF"):
        raise ValueError("it is no shared library (ELF)")
    with Path("/proc/self/exe").open("rb") as file:
        own = file.read(_ELF_HEADER)
    machine, our_machine = _machine(head), _machine(own)
    if machine != our_machine:
        raise ValueError(f"it is built for {machine}, and this is {our_machine}")
    kind = int.from_bytes(head[16:18], sys.byteorder)
    if kind != _SHARED_OBJECT:
        raise ValueError("it is no shared library (build it with -shared)")


def _machine(head: bytes) -> str:
    bits, order = {1: 32, 2: 64}.get(head[4], 0), "big" if head[5] == 2 else "little"
    number = int.from_bytes(head[18:20], order)  # type: ignore[arg-type] # it is one of the two
    return f"{_MACHINES.get(number, f'machine {number}')} ({bits} bits, {order} endian)"


_loaded: dict[str, "_library.Library"] = {}
"""Those that ``shared_library`` has loaded, by the digest of their content."""
_loading = threading.Lock()


def shared_library(source: str, place: str, digest: str) -> "_library.Library":
    """Load a library into a process that may have others, once for each content.

    ``source`` is a path under ``/proc/self/fd`` of a copy in memory. Raises as ``load_library``.
    """
    with _loading:
        library = _loaded.get(digest)
        if library is None:
            # The loader takes the same path for the same library. Descriptors are used again, so
            # it gets one that never was there: how many slashes it has makes no difference.
            directory, _, descriptor = source.rpartition("/")
            unique = "".join("/./" if bit == "1" else "//" for bit in f"{len(_loaded) + 1:b}")
            library = _loaded[digest] = load_library(directory + unique + descriptor, place)
    return library


def forget_library(library: "_library.Library") -> None:
    """Have the next ``shared_library`` load it anew: what this one holds may be locked for good."""
    with _loading:
        for digest, each in _loaded.items():
            if each is library:
                _loaded[f"{digest}, stuck, {id(each)}"] = _loaded.pop(digest)
                return
