"""A plugin that tries to break out, and what it could not do, by mechanism.

Each attack is made without a sandbox, too, where it succeeds: so it is the sandbox that holds. The
tests may run as root, whom permissions of files do not keep out.
"""

import os
import socket
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from prism.isolation import machine as machine_module
from prism.isolation.machine import Machine, machine
from prism.supervision import connect

is_root = os.getuid() == 0
needs_root = pytest.mark.skipif(not is_root, reason="only root may do this without a sandbox")


@contextmanager
def servers():
    """A TCP port, a UDP port, and an abstract Unix socket."""
    name = f"prism-test-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        udp.bind(("127.0.0.1", 0))
        abstract.bind("\0" + name)
        abstract.listen()
        yield tcp.getsockname()[1], udp.getsockname()[1], name


def attacks(place, tcp, udp, abstract):
    """What is tried: a word for it, what must hold for it to fail, and how."""
    me = os.getpid()
    others = place.others
    yield "configuration", "files", ("read", str(others / "prism.yaml"))
    yield "database", "files", ("read", str(others / "other.db"))
    yield "private key", "files", ("read", str(others / "key.pem"))
    yield "written database", "files", ("open_to_write", str(others / "other.db"))
    yield "secret", "files", ("read", str(others / "secrets/password"))
    yield "environment", "other_processes", ("read", f"/proc/{me}/environ")
    yield "memory", "other_processes", ("read_memory", me)
    yield "tracing", "other_processes", ("attach", me)
    yield "reading memory", "other_processes", ("read_remote", me)
    yield "signal", "other_processes", ("send_signal", me)
    yield "socket", "unix_sockets", ("connect_path", place.socket)
    yield "abstract socket", "abstract_sockets", ("connect_abstract", abstract)
    yield "port", "network", ("connect_tcp", tcp)
    yield "datagram", "network", ("send_udp", udp)
    if is_root:
        yield "passwords", "files", ("read", "/etc/shadow")
        yield "kernel settings", "files", ("open_to_write", "/proc/sys/kernel/core_pattern")
        yield "mount", "privileges", ("mount", "/mnt")
        yield "namespace", "privileges", ("new_namespace",)
        for disk in ("/dev/vda", "/dev/sda", "/dev/nvme0n1"):
            if _can_open(disk):  # not everywhere, not even by root
                yield "disk", "files", ("read", disk)


def _can_open(path):
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return False
    return True


async def outcomes(hostile, place, spec):
    """What came of each attack: the word and what should hold, to the answer."""
    with servers() as (tcp, udp, abstract):
        async with hostile(spec) as (attempt, connector):
            found = {
                (word, measure): await attempt(*attack)
                for word, measure, attack in attacks(place, tcp, udp, abstract)
            }
            # Tracing stops a process until its tracer ends; nobody else is to notice.
            return found, connector.isolation


async def test_without_a_sandbox_all_of_it_succeeds(place, hostile):
    """But tracing, which would stop the tests; and what a kernel keeps from everybody."""
    with servers() as (tcp, udp, abstract):
        async with hostile(place.spec(sandbox="off")) as (attempt, connector):
            assert connector.isolation.lacks == {"everything": "sandbox: off"}
            for word, _, attack in attacks(place, tcp, udp, abstract):
                if word in ("tracing", "memory", "reading memory"):
                    continue  # yama may forbid it to all but parents
                assert "done" in await attempt(*attack), word


HOLDS = {
    # mechanism and sandbox: what holds for certain where the tests' place may be split
    ("landlock", "auto"): {"other_processes", "abstract_sockets", "privileges", "system_calls"},
    ("landlock", "required"): {
        *("files", "other_processes", "abstract_sockets", "privileges", "system_calls"),
    },
    ("bubblewrap", "auto"): {
        *("files", "temporary_files", "other_processes", "abstract_sockets", "unix_sockets"),
        *("privileges", "system_calls", "leftovers"),
    },
    ("bubblewrap", "required"): {
        *("files", "temporary_files", "other_processes", "abstract_sockets", "unix_sockets"),
        *("privileges", "system_calls", "leftovers"),
    },
}


@pytest.mark.parametrize("network", ["all", "none"])
@pytest.mark.parametrize("sandbox", ["auto", "required"])
async def test_what_holds_holds(place, hostile, mechanism, sandbox, network):
    spec = place.spec(sandbox=sandbox, mechanism=mechanism, network=network)
    found, isolation = await outcomes(hostile, place, spec)
    assert isolation.mechanism == mechanism
    if machine().has_scopes and not machine().no_seccomp:
        assert HOLDS[mechanism, sandbox] <= isolation.holds.keys()
    assert not isolation.holds.keys() & isolation.lacks.keys()
    assert ("network" in isolation.holds) is (network == "none")
    for (word, measure), outcome in found.items():
        if measure in isolation.holds:
            assert "refused" in outcome, f"{word}: {outcome}"
    if is_root and place.root.parent.name == "srv":
        # Landlock cannot hide a file of /etc from all, but those of the proxy elsewhere.
        for word in ("configuration", "database", "secret", "written database"):
            assert "refused" in found[word, "files"]
        assert "refused" in found["kernel settings", "files"]
    if network == "all":
        assert "done" in found["port", "network"]
        assert "done" in found["datagram", "network"]


async def test_limits_alone_still_take_privileges_away(place, hostile, monkeypatch):
    bare = Machine(no_seccomp=machine().no_seccomp, no_bubblewrap="none", no_landlock="none")
    monkeypatch.setattr(connect, "machine", lambda: bare)
    found, isolation = await outcomes(hostile, place, place.spec())
    assert isolation.mechanism == "limits"
    assert {"files", "other_processes", "unix_sockets", "leftovers"} <= isolation.lacks.keys()
    for (word, measure), outcome in found.items():
        if measure in isolation.holds:
            assert "refused" in outcome, f"{word}: {outcome}"
        elif measure == "files" and word != "disk":
            assert "done" in outcome, f"{word}: {outcome}"
    if not machine().no_seccomp:
        assert "refused" in found["tracing", "other_processes"]


@pytest.mark.parametrize("sandbox", ["auto", "required"])
async def test_the_plugin_still_does_its_work(place, hostile, mechanism, sandbox):
    with servers() as (tcp, _, _):
        async with hostile(place.spec(sandbox=sandbox, mechanism=mechanism)) as (attempt, _):
            assert "done" in await attempt("create", str(place.own / "new.db"))
            assert "done" in await attempt("read", place.program)
            assert "done" in await attempt("create", "/tmp/prism-test-own")
            assert "done" in await attempt("read", "/etc/hosts")
            assert "done" in await attempt("read", "/dev/urandom")
            assert "done" in await attempt("open_to_write", "/dev/null")
            assert "done" in await attempt("connect_tcp", tcp)
            assert "done" in await attempt("list_directory", "/")
    assert (place.own / "new.db").read_text() == "mine"
    in_tmp = trio.Path("/tmp/prism-test-own")
    assert await in_tmp.exists() is (mechanism == "landlock")
    await in_tmp.unlink(missing_ok=True)


async def test_listed_files_are_all_there_are(place, hostile, mechanism):
    more = place.root / "more"
    more.mkdir()
    (more / "read").write_text("for the plugin")
    hidden = place.root / "hidden"
    hidden.write_text("for nobody")
    spec = place.spec(mechanism=mechanism, read=[str(more)])
    async with hostile(spec) as (attempt, _):
        assert "done" in await attempt("read", str(more / "read"))
        assert "refused" in await attempt("create", str(more / "written"))
        assert "refused" in await attempt("read", str(hidden))
        assert "refused" in await attempt("read", str(place.others / "other.db"))
        assert "done" in await attempt("create", str(place.own / "new.db"))
        assert "done" in await attempt("read", "/etc/hosts")
        assert "done" in await attempt("open_to_write", "/dev/null")
    spec = place.spec(mechanism=mechanism, write=[str(more)])
    async with hostile(spec) as (attempt, _):
        assert "done" in await attempt("create", str(more / "written"))
    assert (more / "written").read_text() == "mine"


async def test_it_inherits_its_connection_alone(place, hostile, mechanism):
    for sandbox in ("off", "auto"):
        async with hostile(place.spec(sandbox=sandbox, mechanism=mechanism)) as (attempt, _):
            found = await attempt("inherited")
        others = {number: link for number, link in found.items() if int(number) > 2}
        kinds = sorted(link.split(":")[0] for link in others.values())
        assert kinds in (["socket"], ["pipe", "socket"]), others
        if mechanism == "landlock":
            assert kinds == ["socket"]


async def test_limits_cannot_be_raised(place, hostile, mechanism):
    async with hostile(place.spec(mechanism=mechanism, memory="256MiB")) as (attempt, connector):
        assert "refused" in await attempt("raise_limit")
        assert "done" in await attempt("eat", 16)
        if connector.isolation.holds.get("memory") != "its control group":
            assert "RLIMIT_DATA" in connector.isolation.lacks["memory"]
            assert "MemoryError" in (await attempt("eat", 400))["refused"]


async def test_what_it_leaves_ends_with_it(place, hostile, mechanism):
    ticks = place.own / "ticks"
    async with hostile(place.spec(mechanism=mechanism)) as (attempt, connector):
        assert "done" in await attempt("leave", str(ticks))
        with trio.fail_after(60):
            while not ticks.exists():  # noqa: ASYNC110 - it is another process
                await trio.sleep(0.01)
        assert ("leftovers" in connector.isolation.holds) is (mechanism == "bubblewrap")
    if mechanism == "bubblewrap":
        last = ticks.read_text()
        await trio.sleep(0.3)
        assert ticks.read_text() == last
    else:
        os.kill(_writer_of(place.program), 9)


def _writer_of(program):
    """The process that still runs this program."""
    for entry in Path("/proc").iterdir():
        try:
            if program in (entry / "cmdline").read_text().split("\0"):
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError("nothing was left")


def test_the_machine_is_looked_at_once():
    assert machine_module.machine() is machine_module.machine()
