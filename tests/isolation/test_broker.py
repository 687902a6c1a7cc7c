"""Plugins' processes connect through the broker: real processes, under the real filter."""

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from prism.isolation.broker import DENIALS_TOLD, Broker, look_up
from prism.isolation.confinement import RESOLVER_OPTIONS
from prism.isolation.egress import EgressRules
from prism.isolation.egress_filter import MACHINES, program
from prism.isolation.machine import STUB, look
from prism.streams.tls import TLSFiles

pytestmark = pytest.mark.skipif(
    os.uname().machine not in MACHINES, reason="the filter is not known for this kind of machine"
)

PREPARED = """
import json, os, socket, sys, threading

given = json.loads(sys.argv[1])

def attempt(work):
    try:
        return work()
    except OSError as error:
        return type(error).__name__

def connect(address, family=socket.AF_INET, timeout=None):
    with socket.socket(family) as sock:
        sock.settimeout(timeout)
        sock.connect(tuple(address) if isinstance(address, list) else address)
        return sock.recv(100).decode()

def tell(value):
    print(json.dumps(value), flush=True)
"""


@contextmanager
def server(family: int = socket.AF_INET, address: Any = ("127.0.0.1", 0)) -> Iterator[Any]:
    """Greets everybody who connects; gives its address."""
    with socket.create_server(address, family=family, backlog=200) as listener:

        def greet() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(b"welcome")

        threading.Thread(target=greet, daemon=True).start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)


async def run(
    code: str,
    rules: Sequence[str | tuple[str, TLSFiles | None]],
    given: object = None,
    *,
    broker: Broker | None = None,
    names: dict[str, list[str]] | None = None,
    denied: list[str] | None = None,
) -> Any:
    """What ``code``, run under the filter and a broker, has told."""

    async def look_up(name: str) -> list[Any]:
        return [ip_address(text) for text in (names or {}).get(name, [])]

    if broker is None:
        entries = [(each, None) if isinstance(each, str) else each for each in rules]
        told = [] if denied is None else denied
        broker = Broker(EgressRules(entries), told.append, look_up=look_up)
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        words = [sys.executable, "-c", PREPARED + code, json.dumps(given)]
        process = await trio.lowlevel.open_process(
            confined(theirs.fileno(), words),
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
            env={**os.environ, **RESOLVER_OPTIONS},
        )
        theirs.close()
        try:
            await trio.lowlevel.wait_readable(ours)
            _, [listener], _, _ = socket.recv_fds(ours._sock, 1, 1)
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(broker.run, listener)
                    output = b"".join([data async for data in process.stdout])
                assert await process.wait() == 0
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                await process.stdout.aclose()
    return json.loads(output)


def confined(number: int, words: list[str]) -> list[str]:
    rules = program(os.uname().machine).hex()
    return [*STUB, "filter=auto", f"broker={number}:{rules}", "--", *words]


def test_the_machine_is_tried_for_real():
    assert look().no_broker == ""


async def test_what_is_declared_is_reached_and_nothing_else():
    denied: list[str] = []
    with server() as (host, port), server() as other:
        said = await run(
            "tell([attempt(lambda: connect(each)) for each in given])",
            [f"{host}:{port}"],
            [[host, port], list(other)],
            denied=denied,
        )
    assert said == ["welcome", "PermissionError"]
    [sentence] = denied
    assert sentence == f"it may not connect to {host}:{other[1]}, which `egress` does not declare"


async def test_sockets_that_block_and_that_do_not():
    with server() as (host, port):
        code = "tell([attempt(lambda: connect(given, timeout=each)) for each in (None, 60)])"
        assert await run(code, [f"{host}:{port}"], [host, port]) == ["welcome", "welcome"]


async def test_a_socket_made_to_block_meanwhile_stops_nothing_else(tmp_path):
    """The proxy's event loop goes on, whatever a process does to a socket that it shares."""
    path = str(tmp_path / "full")
    code = """
import fcntl
sock = socket.socket(socket.AF_UNIX)
ours, theirs = socket.socketpair()
other = os.fork()
if other == 0:
    ours.close()
    theirs.setblocking(False)
    while True:
        for _ in range(1000):
            fcntl.fcntl(sock, fcntl.F_SETFL, 0)
            fcntl.fcntl(sock, fcntl.F_SETFL, os.O_NONBLOCK)
        try:
            if theirs.recv(1) == b"":
                os._exit(0)
        except BlockingIOError:
            pass
theirs.close()
print(flush=True)
while True:
    attempt(lambda: sock.connect(given))
"""
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
        full.bind(path)
        full.listen(0)
        first.connect(path)
        watched = threading.Event()
        token = trio.lowlevel.current_trio_token()
        stuck: list[bool] = []

        def watch() -> None:
            """The loop answers throughout; else the server goes, which lets it go on."""
            for _ in range(300):
                answered = threading.Event()
                with suppress(trio.RunFinishedError):
                    token.run_sync_soon(answered.set)
                if not answered.wait(10):
                    stuck.append(True)
                    full.close()
                    return
                if watched.wait(0.01):
                    return

        thread = threading.Thread(target=watch)
        thread.start()
        with trio.move_on_after(3):
            await run(code, [f"unix:{path}"], path)
        watched.set()
        await trio.to_thread.run_sync(thread.join)
    assert not stuck


async def test_slow_names_take_no_thread_of_the_proxys(monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(60) and [])
    limiter = trio.to_thread.current_default_thread_limiter()
    try:
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(look_up, f"{number}.internal")
            await trio.testing.wait_all_tasks_blocked()
            assert limiter.borrowed_tokens == 0
            nursery.cancel_scope.cancel()
    finally:
        over.set()


async def test_a_refusal_is_the_backends_own():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host, port = unused.getsockname()
        code = "tell([attempt(lambda: connect(given, timeout=each)) for each in (None, 60)])"
        said = await run(code, [f"{host}:{port}"], [host, port])
    assert said == ["ConnectionRefusedError", "ConnectionRefusedError"]


async def test_event_loops_and_threads_connect_as_ever():
    code = """
import asyncio

async def greet():
    reader, writer = await asyncio.open_connection(*given)
    data = await reader.read()
    writer.close()
    return data.decode()

async def many():
    return await asyncio.gather(*[greet() for _ in range(20)])

found = asyncio.run(many())
threads = [threading.Thread(target=lambda: found.append(connect(given))) for _ in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
tell(found)
"""
    with server() as (host, port):
        assert await run(code, [f"{host}:{port}"], [host, port]) == ["welcome"] * 40


async def test_what_a_plugin_starts_is_under_the_broker_too():
    code = """
import subprocess
source = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])))"
words = [[sys.executable, "-c", source, *map(str, each)] for each in given]
tell([subprocess.run(each, stderr=subprocess.DEVNULL).returncode for each in words])
"""
    with server() as (host, port), server() as other:
        assert await run(code, [f"{host}:{port}"], [[host, port], list(other)]) == [0, 1]


async def test_names_are_asked_of_the_broker_alone():
    """The C library's resolver gets the broker's answers, and only about what is declared."""
    code = """
def addresses(name):
    return sorted({each[4][0] for each in socket.getaddrinfo(name, 1, type=socket.SOCK_STREAM)})

tell([attempt(lambda: addresses(name)) for name in given])
"""
    names = {"db.internal": ["10.1.2.3", "fd00::5"], "b1.kafka.internal": ["10.1.2.4"]}
    said = await run(
        code,
        ["db.internal:5432", "*.kafka.internal:9092", "gone.internal:1"],
        ["db.internal", "b1.kafka.internal", "gone.internal", "evil.example"],
        names={**names, "evil.example": ["10.6.6.6"]},
    )
    assert said == [["10.1.2.3", "fd00::5"], ["10.1.2.4"], "gaierror", "gaierror"]


async def test_a_name_that_turns_into_this_machine_leads_nowhere():
    """DNS rebinding: who answers for a declared name reaches nothing that is not declared."""
    denied: list[str] = []
    with server() as (_, port):
        code = f"""
def greet(host):
    return socket.create_connection((host, {port})).recv(100).decode()

tell([attempt(lambda: greet(each)) for each in ("db.internal", "127.0.0.1")])
"""
        names = {"db.internal": ["127.0.0.1"]}
        said = await run(code, [f"db.internal:{port}"], names=names, denied=denied)
    assert said == ["gaierror", "PermissionError"]
    assert denied[0].startswith("db.internal has the address 127.0.0.1, which no name may stand")


async def test_an_address_known_from_elsewhere_is_that_of_a_declared_name():
    with server() as (host, port):
        names = {"localhost": [host]}
        code = "tell(connect(given))"
        assert await run(code, [f"localhost:{port}"], [host, port], names=names) == "welcome"


async def test_unix_sockets(tmp_path):
    with (
        server(socket.AF_UNIX, str(tmp_path / "a")) as declared,
        server(socket.AF_UNIX, str(tmp_path / "b")) as other,
    ):
        code = "tell([attempt(lambda: connect(each, socket.AF_UNIX)) for each in given])"
        said = await run(code, [f"unix:{declared}"], [declared, other, "\0abstract"])
    assert said == ["welcome", "PermissionError", "PermissionError"]


async def test_a_link_in_the_place_of_a_unix_socket_leads_nowhere(tmp_path):
    """The plugin may be able to put one there; the broker has the proxy's rights, not its."""
    place, denied = tmp_path / "declared", []
    with server(socket.AF_UNIX, str(tmp_path / "other")) as other:
        place.symlink_to(other)
        code = "tell(attempt(lambda: connect(given, socket.AF_UNIX)))"
        said = await run(code, [f"unix:{place}"], str(place), denied=denied)
    assert said == "PermissionError"
    assert denied == [f"unix:{place} is a link, which may lead anywhere: declare unix:{other}"]


WAYS_AROUND = {
    "datagrams": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "datagrams over IPv6": "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
    "raw packets": "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)",
    "SCTP, which connects by sending": "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "packets of the link": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "virtual machines": "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
    "datagrams to Unix sockets": "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "a pair of datagram sockets": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "TCP Fast Open": "socket.socket().sendto(b'x', 0x20000000, tuple(given))",
    "TCP Fast Open, in a message": "socket.socket().sendmsg([b'x'], [], 0x20000000, tuple(given))",
    "to be connected to": "socket.create_server(('127.0.0.1', 0))",
}


async def test_ways_around_it_are_closed():
    work = ", ".join(f"attempt(lambda: {each} and 'done')" for each in WAYS_AROUND.values())
    with server() as address:
        said = await run(f"tell([{work}])", [f"{address[0]}:{address[1]}"], list(address))
    found = dict(zip(WAYS_AROUND, said, strict=True))
    assert found == dict.fromkeys(WAYS_AROUND, "PermissionError")


async def test_an_address_that_changes_while_it_is_looked_at_changes_nothing():
    """The broker connects to what it has judged: a thread that rewrites the address is too late."""
    code = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
good, bad = given
pack = lambda port: struct.pack("=H", 2) + struct.pack(">H4s8x", port, bytes([127, 0, 0, 1]))
memory = ctypes.create_string_buffer(pack(good), 16)
over = False

def rewrite():
    while not over:
        memory.raw = pack(bad)
        memory.raw = pack(good)

threading.Thread(target=rewrite).start()
reached = set()
for _ in range(300):
    with socket.socket() as sock:
        if libc.connect(sock.fileno(), memory, 16) == 0:
            reached.add(sock.getpeername()[1])
over = True
tell(sorted(reached))
"""
    with server() as (host, port), server() as other:
        assert await run(code, [f"{host}:{port}"], [port, other[1]]) in ([port], [])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("sock.fileno(), None, 16", "EFAULT"),
        ("sock.fileno(), ctypes.c_void_p(2**64 - 4096), 16", "EFAULT"),
        ("sock.fileno(), memory, 100000", "EINVAL"),
        ("sock.fileno(), memory, 1", "EINVAL"),
        ("-1, memory, 16", "EBADF"),
        ("0, memory, 16", "ENOTSOCK"),
        ("sock.fileno(), b'\\x63\\0' + bytes(14), 16", "EAFNOSUPPORT"),
    ],
)
async def test_nonsense_is_answered_as_the_kernel_would(arguments, code):
    source = f"""
import ctypes, errno, struct
libc = ctypes.CDLL(None, use_errno=True)
memory = struct.pack("=H", 2) + struct.pack(">H", given) + bytes([127, 0, 0, 1]) + bytes(8)
with socket.socket() as sock:
    assert libc.connect({arguments}) == -1
    tell(errno.errorcode[ctypes.get_errno()])
"""
    with server() as (host, port):
        assert await run(source, [f"{host}:{port}"], port) == code


async def test_denials_are_told_one_by_one_up_to_a_number():
    denied: list[str] = []
    broker = Broker(EgressRules([]), denied.append)
    code = "tell({attempt(lambda: connect(['10.0.0.1', each])) for each in range(101, 201)} and 1)"
    await run(code, [], broker=broker)
    assert broker.counts == {"denied": 100}
    assert len(denied) == DENIALS_TOLD


async def test_the_broker_speaks_tls_in_the_plugins_place(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("db.internal").configure_cert(context)
    seen: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: seen.append(name)

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with (
                    connection,
                    suppress(OSError),
                    context.wrap_socket(connection, server_side=True) as secure,
                ):
                    secure.sendall(b"safe " + secure.recv(100))

    code = """
def say(address):
    with socket.create_connection(address) as sock:
        sock.sendall(b"hello")
        return sock.recv(100).decode()

tell([attempt(lambda: say(("127.0.0.1", port))) for port in given])
"""
    files = TLSFiles(str(tmp_path / "ca.pem"), None, None, "db.internal")
    wrong = TLSFiles(str(tmp_path / "ca.pem"), None, None, "other.internal")
    denied: list[str] = []
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        for listener in (one, two):
            threading.Thread(target=serve, args=(listener,), daemon=True).start()
        ports = [listener.getsockname()[1] for listener in (one, two)]
        entries = [(f"127.0.0.1:{ports[0]}", files), (f"127.0.0.1:{ports[1]}", wrong)]
        said = await run(code, entries, ports, denied=denied)
        for listener in (one, two):
            listener.shutdown(socket.SHUT_RDWR)
    assert said[0] == "safe hello"
    assert said[1] in ("", "ConnectionResetError")
    assert seen[0] == "db.internal"
    [problem] = denied
    assert "certificate" in problem
    assert "127.0.0.1" in problem


async def test_strangers_get_nothing_from_the_broker():
    """Its own port is for the sockets that it has led there."""
    broker = Broker(EgressRules([("db.internal:1", None)]))
    with trio.socket.socket() as led:
        await led.bind(("127.0.0.1", 0))
        led.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker._serve_led, led)
            with trio.fail_after(60):
                async with await trio.open_tcp_stream(*led.getsockname()) as stream:
                    assert await stream.receive_some(1) == b""
            nursery.cancel_scope.cancel()
