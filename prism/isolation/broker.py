"""The broker of a plugin's connections: decides and makes every one of its processes.

Theory of operation. Before it becomes the plugin, the program that confines itself puts a filter
on its system calls (``egress_filter``) and sends the filter's *listener* to the proxy. From then on
the kernel holds each ``connect`` of the plugin's processes, and tells the listener of it. The
broker reads the address out of the process's memory, once, and decides by that copy; what is
allowed it connects itself, on a duplicate of the process's own socket. So the process can change
nothing between look and deed, any driver in any language works as it is, and what flows then flows
without the proxy. A socket that does not block does not block here either: the process learns
``EINPROGRESS`` and waits by itself.

Names: a plugin has no UDP, so its resolver asks over TCP (``RES_OPTIONS=use-vc``). Such a
connection, to whatever server, is led to the broker's own answers, which know the declared names
alone: there is no tunnel through DNS, and what an address stands for is known without a guess.
Where a process knows an address from elsewhere (``/etc/hosts``), the declared names are looked up.
"""

import ctypes
import errno
import fcntl
import ipaddress
import logging
import os
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio

from prism.isolation.egress import (
    AF_INET,
    AF_UNIX,
    DNS_PORT,
    EgressRules,
    IPAddress,
    Permission,
    SocketAddress,
    answer,
    read_question,
    read_target,
)
from prism.isolation.notifications import (
    Attempt,
    duplicate,
    is_valid,
    read_memory,
    receive,
    respond,
)
from prism.streams import tcp
from prism.streams.destinations import UNIX
from prism.streams.errors import LaunchError

log = logging.getLogger("prism.isolation")

MAX_PENDING = 64
"""Connections that one plugin may have under way; the next ones wait in the kernel."""
LOOK_UP_TIMEOUT = 10.0
"""Seconds for the addresses of a name."""
LOOK_UP_AGAIN = 5.0
"""Seconds for which the answer about a name is not asked for again."""
MAX_LOOK_UPS = 16
"""Names that are asked for at a time, for all plugins together."""
MAX_CONNECTING = 8
"""Threads of one plugin that begin a connection, which takes them an instant."""
MAX_LOOKED_UP = 1024
"""Names whose answers are kept for so long: under a wildcard a plugin asks for what it likes."""
FULL_TIMEOUT, FULL_PAUSE = 10.0, 0.05
"""Seconds to wait for room at a Unix socket's server, and between two looks."""
MAX_LED = 256
"""Connections of one plugin that are led to the broker: resolvers', and those it speaks TLS for."""
ACCEPT_AGAIN = 0.1
"""Seconds until it is tried again to take one, where that failed."""
TLS_TIMEOUT = 30.0
CARRIED = 64 * 1024
"""Bytes that are carried at a time."""
NAME_CACHE = "/var/run/nscd/socket"
"""The C library looks for a daemon here before it asks for a name, and does without."""
DNS_TIMEOUT = 30.0
"""Seconds in which a resolver asks something, or is closed."""
MAX_QUESTION = 4096
DENIALS_TOLD = 10
"""Denied connections that are told one by one in ``DENIALS_PERIOD`` seconds; others are counted."""
DENIALS_PERIOD = 60.0

_libc = ctypes.CDLL(None, use_errno=True)

LookUp = Callable[[str], Awaitable[list[IPAddress]]]
Serve = Callable[[trio.SocketStream], Awaitable[None]]


async def look_up(name: str) -> list[IPAddress]:
    """The addresses of a host; none where it has none, or cannot be asked for in time."""
    entries: Sequence[Any] = ()
    ask = partial(socket.getaddrinfo, name, None, type=socket.SOCK_STREAM)
    with suppress(OSError, UnicodeError), trio.move_on_after(LOOK_UP_TIMEOUT):
        entries = await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=_look_ups())
    texts = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in entries)
    return [ipaddress.ip_address(text) for text in texts]


_look_ups_of_run: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("look_ups")


def _look_ups() -> trio.CapacityLimiter:
    """Threads that ask for names: not those that the rest of the proxy works with, since a plugin
    can ask for as many slow ones as it likes."""
    try:
        return _look_ups_of_run.get()
    except LookupError:
        _look_ups_of_run.set(made := trio.CapacityLimiter(MAX_LOOK_UPS))
        return made


class Broker:
    """Connects the processes of one plugin to what ``rules`` allow.

    ``on_denied`` gets the sentence that says what was denied; it must not block. ``counts`` has how
    many connections were ``allowed`` and ``denied``.
    """

    def __init__(
        self,
        rules: EgressRules,
        on_denied: Callable[[str], None] = lambda _what: None,
        *,
        counts: Counter[str] | None = None,
        look_up: LookUp = look_up,
    ) -> None:
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._rules = rules
        self._on_denied = on_denied
        self._look_up = look_up
        self._looked_up: dict[str, tuple[float, list[IPAddress]]] = {}
        self._expected: dict[tuple[str, int], Serve] = {}
        self._port = 0
        self._threads = trio.CapacityLimiter(MAX_CONNECTING)
        self._told_since = -DENIALS_PERIOD
        self._told = 0

    async def run(self, listener: int) -> None:
        """Serve ``listener``, which is closed at the end, until the last process has gone.
        Cancelling has the plugin's further connections fail."""
        room = trio.Semaphore(MAX_PENDING)
        with trio.socket.socket() as led:
            try:
                await led.bind(("127.0.0.1", 0))
                led.listen(MAX_LED)
                self._port = led.getsockname()[1]
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._serve_led, led)
                    while True:
                        await room.acquire()
                        await trio.lowlevel.wait_readable(listener)
                        attempt = receive(listener)
                        if attempt is None:
                            break
                        nursery.start_soon(self._serve, listener, attempt, room)
                    nursery.cancel_scope.cancel()
            finally:
                trio.lowlevel.notify_closing(listener)
                os.close(listener)

    # -- connections ------------------------------------------------------------------------

    async def _serve(self, listener: int, attempt: Attempt, room: trio.Semaphore) -> None:
        try:
            if attempt.number:
                code = await self._decide(listener, attempt)
                respond(listener, attempt.number, code)
        except Exception:
            log.exception("a connection of a plugin could not be decided")
            respond(listener, attempt.number, errno.EACCES)
        finally:
            room.release()

    async def _decide(self, listener: int, attempt: Attempt) -> int:
        """Connect, if that is allowed; returns the number of the error that the process gets."""
        try:
            sockaddr = read_memory(attempt)
            sock = duplicate(attempt)
        except OSError as error:
            if error.errno in (errno.EBADF, errno.EFAULT):
                return error.errno
            self._tell(f"its connection cannot be looked at: {error}")
            return errno.EACCES
        try:
            if not is_valid(listener, attempt.number):
                return 0  # it has gone, and what was read may be another's
            try:
                target = read_target(sockaddr)
            except ValueError:
                return errno.EAFNOSUPPORT if len(sockaddr) >= 2 else errno.EINVAL
            if target is None:
                return await _connect(sock, sockaddr, self._threads)
            permission = await self._find(target)
            if permission is None:
                if target.port == DNS_PORT and target.address is not None:
                    return await self._lead(sock, sockaddr, self._answer_resolver)
                if target.path == NAME_CACHE:
                    return errno.ENOENT
                self.counts["denied"] += 1
                self._tell(f"it may not connect to {target}, which `egress` does not declare")
                return errno.EACCES
            if target.path:
                return await self._connect_unix(sock, target)
            self.counts["allowed"] += 1
            if permission.tls is not None:
                speak = partial(self._speak_tls, target, permission)
                return await self._lead(sock, sockaddr, speak)
            return await _connect(sock, sockaddr, self._threads)
        finally:
            os.close(sock)

    async def _connect_unix(self, sock: int, target: SocketAddress) -> int:
        """Connect to a Unix socket, unless a link leads there: the plugin may be able to make one,
        where the socket lies, to what it may not reach."""
        try:
            place = os.open(target.path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            return error.errno or errno.EACCES
        try:
            found = _leads_to(place, target.path)
            if found:
                self.counts["denied"] += 1
                self._tell(f"{target} is a link, which may lead anywhere: declare {UNIX}{found}")
                return errno.EACCES
            self.counts["allowed"] += 1
            return await _connect(sock, b"", self._threads, place)
        finally:
            os.close(place)

    async def _find(self, target: SocketAddress) -> Permission | None:
        found = self._rules.find(target, trio.current_time())
        if found is None and target.address is not None:
            names = self._rules.names_for(target.port)
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(self._addresses, name)
            if names:
                found = self._rules.find(target, trio.current_time())
        return found

    async def _addresses(self, name: str) -> list[IPAddress]:
        """Those that ``name`` may stand for. It is not asked for again at once."""
        until, known = self._looked_up.get(name, (0.0, []))
        if until > trio.current_time():
            return known
        found = await self._look_up(name)
        now = trio.current_time()
        good = self._rules.learn(name, found, now)
        if len(good) < len(found):
            refused = ", ".join(str(each) for each in found if each not in good)
            self._tell(
                f"{name} has the address {refused}, which no name may stand for; if that is "
                "meant, declare it by its number"
            )
        if len(self._looked_up) >= MAX_LOOKED_UP:
            self._looked_up.clear()
        self._looked_up[name] = (now + LOOK_UP_AGAIN, good)
        return good

    def _tell(self, what: str) -> None:
        now = trio.current_time()
        if now - self._told_since >= DENIALS_PERIOD:
            if self._told > DENIALS_TOLD:
                self._on_denied(f"{self._told - DENIALS_TOLD} more were not told one by one")
            self._told_since, self._told = now, 0
        self._told += 1
        if self._told <= DENIALS_TOLD:
            self._on_denied(what)

    # -- connections that are led here --------------------------------------------------------

    async def _lead(self, sock: int, sockaddr: bytes, serve: Serve) -> int:
        """Connect a process's socket to this broker, which will ``serve`` it."""
        (family,) = struct.unpack_from("=H", sockaddr)
        local = ipaddress.IPv4Address("127.0.0.1").packed
        if family == AF_INET:
            ours = struct.pack("=H", family) + struct.pack(">H4s8x", self._port, local)
        else:
            mapped = b"\0" * 10 + b"\xff\xff" + local
            ours = struct.pack("=H", family) + struct.pack(">HI16sI", self._port, 0, mapped, 0)

        # It is bound first: once it is connected, we may have taken it before we know its address.
        with socket.socket(fileno=os.dup(sock)) as copy:
            if copy.family != family:
                return errno.EINVAL if copy.family == socket.AF_UNIX else errno.EAFNOSUPPORT
            if copy.getsockname()[1] == 0:
                copy.bind(("127.0.0.1" if family == AF_INET else "::ffff:127.0.0.1", 0))
            host, port = copy.getsockname()[:2]
        key = (host.removeprefix("::ffff:"), port)
        is_new = key not in self._expected
        if is_new:
            if len(self._expected) >= MAX_LED:
                del self._expected[next(iter(self._expected))]  # given up on its way
            self._expected[key] = serve
        code = await _connect(sock, ours, self._threads)
        if is_new and code not in (0, errno.EINPROGRESS):
            self._expected.pop(key, None)
        return code

    async def _serve_led(self, listener: trio.socket.SocketType) -> None:
        room = trio.Semaphore(MAX_LED)
        async with trio.open_nursery() as nursery:
            while True:
                await room.acquire()
                try:
                    connection, peer = await listener.accept()
                except OSError as error:  # there are no descriptors, or it was given up
                    log.warning("a connection of a plugin was not taken: %s", error)
                    room.release()
                    await trio.sleep(ACCEPT_AGAIN)
                    continue
                serve = self._expected.pop(peer[:2], None)
                nursery.start_soon(self._serve_one, connection, serve, room)

    async def _serve_one(
        self, connection: trio.socket.SocketType, serve: Serve | None, room: trio.Semaphore
    ) -> None:
        try:
            if serve is not None:  # else it is not the plugin's
                await serve(trio.SocketStream(connection))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, EOFError):
            pass
        except Exception:  # one connection's, which must not end the others
            log.exception("a connection of a plugin that was led to the broker failed")
        finally:
            connection.close()
            room.release()

    async def _speak_tls(
        self, target: SocketAddress, permission: Permission, plugin: trio.SocketStream
    ) -> None:
        """Carry what the plugin says in the clear to ``target`` in TLS, and back."""
        host = permission.name or str(target.address)
        try:
            with trio.fail_after(TLS_TIMEOUT):
                backend = await tcp.dial(
                    host, target.port, permission.tls, address=str(target.address)
                )
        except (LaunchError, trio.TooSlowError) as error:
            self._tell(f"the connection to {host}:{target.port} in its place failed: {error}")
            return
        async with backend, trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            nursery.start_soon(_carry, plugin, backend, scope)
            nursery.start_soon(_carry, backend, plugin, scope)

    async def _answer_resolver(self, stream: trio.SocketStream) -> None:
        """Answer the questions of a resolver."""
        while True:
            with trio.fail_after(DNS_TIMEOUT):
                (length,) = struct.unpack(">H", await _receive_exactly(stream, 2))
                if length > MAX_QUESTION:
                    break
                question = read_question(await _receive_exactly(stream, length))
            if question is None:
                break
            addresses: list[IPAddress] = []
            if self._rules.may_ask_for(question.name):
                addresses = await self._addresses(question.name)
            reply = answer(question, addresses or None)
            with trio.fail_after(DNS_TIMEOUT):
                await stream.send_all(struct.pack(">H", len(reply)) + reply)


async def _receive_exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


async def _carry(
    source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, scope: trio.CancelScope
) -> None:
    """Carry bytes until ``source`` ends or either breaks, which ends both ways: TLS has no
    half."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await source.receive_some(CARRIED):
            await sink.send_all(data)
    scope.cancel()


# -- connecting for a process -------------------------------------------------------------------


def _leads_to(place: int, path: str) -> str:
    """Where a link has led, if ``place`` is what was opened by ``path``; empty if none has, but
    for the system's own."""
    found = str(Path(f"/proc/self/fd/{place}").readlink())
    plain = os.path.normpath(path)
    if plain.startswith("/var/run/") and found == plain.removeprefix("/var"):
        return ""
    return found if found != plain else ""


async def _connect_now(
    descriptor: int, sockaddr: bytes, threads: trio.CapacityLimiter, place: int | None
) -> int:
    """Call ``connect``, in a thread: a process can have its socket block again at any moment, and
    must not stop the event loop by that. It is given up when this is cancelled."""
    copies = [[os.dup(each) for each in (descriptor, place) if each is not None]]
    # Whoever takes them closes them: a path is looked up again while a connection waits.

    def connect() -> int:
        try:
            mine = copies.pop()
        except IndexError:  # it was cancelled before this thread ran
            return errno.EACCES
        where = sockaddr
        if place is not None:
            where = struct.pack("=H", AF_UNIX) + f"/proc/self/fd/{mine[1]}\0".encode()
        try:
            if _libc.connect(mine[0], where, len(where)) == 0:
                return 0
            return ctypes.get_errno()
        finally:
            for each in mine:
                os.close(each)

    try:
        return await trio.to_thread.run_sync(connect, abandon_on_cancel=True, limiter=threads)
    finally:
        with suppress(IndexError):
            for each in copies.pop():
                os.close(each)


async def _connect(
    descriptor: int, sockaddr: bytes, threads: trio.CapacityLimiter, place: int | None = None
) -> int:
    """Connect as the process would: if its socket blocks, until it is connected or refused.
    ``place`` is a Unix socket's file, open as a path, instead of ``sockaddr``."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    blocks = not flags & os.O_NONBLOCK
    if blocks:
        # Its threads see that too; but the one whose socket it is waits for this very call.
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    try:
        code = await _connect_now(descriptor, sockaddr, threads, place)
        until = trio.current_time() + FULL_TIMEOUT
        while blocks and code == errno.EAGAIN and trio.current_time() < until:
            await trio.sleep(FULL_PAUSE)  # a Unix socket whose server is behind; it says no more
            code = await _connect_now(descriptor, sockaddr, threads, place)
        # EALREADY: it was begun while the socket did not block.
        if blocks and code in (errno.EINPROGRESS, errno.EALREADY):
            await trio.lowlevel.wait_writable(descriptor)
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return code
    finally:
        if blocks:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
