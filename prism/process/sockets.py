"""Listening sockets that were given to this process, and how many connections it may have.

Given sockets come from systemd (socket activation, sd_listen_fds(3)), from a command line
(``--fd 3``), or from a predecessor. What is waiting in their queues is kept over a
restart, since the kernel's socket lives as long as any process holds it.
"""

import logging
import os
import resource
import socket
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from prism.process.descriptors import raise_limit
from prism.streams.errors import ListenError

logger = logging.getLogger("prism.process")

FIRST_FD = 3
"""systemd's first descriptor (SD_LISTEN_FDS_START)."""

VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""How systemd announces sockets. Meant for one process, so never passed on."""

RESERVE = 256
"""Descriptors for everything but clients: the admin port, plugins, files, a successor."""

Role = Literal["data", "admin"]
ROLES: tuple[Role, ...] = ("data", "admin")


class GivenSocket(NamedTuple):
    """A listening socket and what it is for.

    ``place`` is the configured address that a predecessor opened it for; empty if
    it stands in for whatever the configuration says.
    """

    role: Role
    socket: socket.socket
    place: str = ""


def from_service_manager(environment: Mapping[str, str]) -> list[GivenSocket]:
    """The sockets that systemd passed to this process, and to no other.

    Sockets named ``data`` and ``admin`` (``FileDescriptorName=``) are for those
    ports. If none has such a name, all are for data.

    Raises:
        ListenError: the variables make no sense, a descriptor is not a listening
            stream socket, or only some names are known.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    try:
        count = int(environment.get("LISTEN_FDS", ""))
    except ValueError:
        why = f"LISTEN_FDS is {environment.get('LISTEN_FDS')!r}, not a number"
        raise ListenError("sockets from systemd", why, "see sd_listen_fds(3)") from None
    given = environment.get("LISTEN_FDNAMES", "")
    names = given.split(":") if given else [""] * count
    if len(names) != count:
        why = f"LISTEN_FDS is {count}, but LISTEN_FDNAMES has {len(names)} names"
        raise ListenError("sockets from systemd", why, "see sd_listen_fds(3)")
    known = set(names) & set(ROLES)
    found = []
    for number, name in enumerate(names, FIRST_FD):
        role: Role = "admin" if name == "admin" else "data"
        if known and name not in known:
            why = f"its name is {name!r}"
            way_out = "set FileDescriptorName=data, or admin, in its unit"
            raise ListenError(f"descriptor {number} from systemd", why, way_out)
        found.append(from_descriptor(number, role))
    return found


def from_descriptor(number: int, role: Role, place: str = "") -> GivenSocket:
    """The listening socket with this number, which from now on is ours to close.

    It is marked close-on-exec, so that no plugin inherits it.

    Raises:
        ListenError: it is not a listening stream socket (TCP or Unix).
    """
    what = f"descriptor {number}"
    way_out = "give the number of a listening TCP or Unix stream socket"
    try:
        given = socket.socket(fileno=number)
    except OSError as error:
        raise ListenError(what, f"it is {_reason(error)}", way_out) from None
    listening = given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if given.type is not socket.SOCK_STREAM or not listening:
        given.detach()  # its giver may mean something by it
        raise ListenError(what, "it is not a listening stream socket", way_out)
    given.set_inheritable(False)
    return GivenSocket(role, given, place)


def for_place(given: Iterable[GivenSocket], role: Role, place: str) -> list[GivenSocket]:
    """Those of ``given`` that serve the configured address ``place``.

    A predecessor's socket for another address is not among them: the configuration
    has moved on.
    """
    return [item for item in given if item.role == role and item.place in ("", place)]


def _reason(error: OSError) -> str:
    return "not open" if error.errno == 9 else f"not usable ({error.strerror})"


def connections_that_fit(wanted: int) -> int:
    """Raise the limit on open files; returns ``wanted`` connections, or what fits.

    A process without a free descriptor cannot accept, open a log or start a plugin, so
    clients must run into a limit before.

    Raises:
        TooFewDescriptors: the limit is too low for any use.
    """
    limit = raise_limit()
    if limit == resource.RLIM_INFINITY:
        return wanted
    fits = max(limit - RESERVE, limit // 2)
    if fits < wanted:
        logger.warning(
            "%d open files are allowed, so at most %d connections are kept instead of %d "
            "(ulimit -n, or LimitNOFILE= of systemd)",
            limit,
            fits,
            wanted,
        )
    return min(fits, wanted)
