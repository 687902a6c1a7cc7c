"""What is planned for each kind of machine, and the sentences where something cannot be had."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from prism.config.isolation_types import IsolationConfig
from prism.isolation import cgroups, confinement
from prism.isolation.cgroups import ControlGroup
from prism.isolation.confinement import KEPT_BY_ROOT, Isolation, Subject, confine
from prism.isolation.machine import Machine, machine
from prism.isolation.policy import IsolationPolicy
from prism.streams.errors import LaunchError

WHOLE = Machine(7, "", "", "/usr/bin/bwrap", "", uid=1000)
NO_KERNEL = "the kernel does not have it"
FORBIDDEN = "it is forbidden here, as in many containers"


def planned(on=WHOLE, *, closed=(), program="/bin/true", directory="/srv", told=(), **settings):
    policy = IsolationPolicy(msgspec.convert(settings, IsolationConfig), tuple(closed))
    return confine(policy, Subject("plugin 'p'", program, directory, told), on)


def machine_with(**fields):
    return dataclasses.replace(WHOLE, **fields)


@pytest.mark.parametrize(
    ("on", "settings", "mechanism"),
    [
        (WHOLE, {}, "landlock"),
        (WHOLE, {"sandbox": "required"}, "bubblewrap"),
        (WHOLE, {"mechanism": "bubblewrap"}, "bubblewrap"),
        (WHOLE, {"sandbox": "required", "mechanism": "landlock"}, "landlock"),
        (machine_with(abi=4), {}, "bubblewrap"),  # signals could be sent
        (machine_with(abi=4, no_bubblewrap="no"), {}, "landlock"),
        (machine_with(abi=0, no_landlock=NO_KERNEL), {}, "bubblewrap"),
        (machine_with(no_bubblewrap="no"), {"mechanism": "bubblewrap"}, "landlock"),
        (Machine(no_seccomp=FORBIDDEN, uid=1000), {}, "limits"),
        (WHOLE, {"sandbox": "off"}, "none"),
    ],
)
def test_the_mechanism(on, settings, mechanism):
    with_it = planned(on, **settings)
    assert with_it.isolation.mechanism == mechanism
    assert with_it.confines is (mechanism != "none")
    assert with_it.wraps is (mechanism == "bubblewrap")
    with_it.close()


@pytest.mark.parametrize(
    ("on", "settings", "message"),
    [
        (
            Machine(0, NO_KERNEL, "", uid=1000),
            {},
            f"files cannot be confined here: Landlock: {NO_KERNEL}; bubblewrap: it was not looked",
        ),
        (
            machine_with(abi=4, no_bubblewrap="the trial failed: no user namespaces"),
            {},
            "other processes cannot be .* version 4, and signals need 6",
        ),
        (machine_with(no_seccomp=FORBIDDEN), {}, f"system calls cannot be .* seccomp: {FORBIDDEN}"),
        (
            machine_with(no_seccomp=FORBIDDEN, no_bubblewrap="no"),
            {"network": "none"},
            "(system calls|network) cannot be confined",
        ),
        (WHOLE, {"memory": "1GiB"}, "memory cannot be .* of all its processes together: .*cgroup"),
        (WHOLE, {"cpu": 1}, "cpu cannot be .*cgroup"),
    ],
)
def test_what_is_required_is_there_or_nothing_starts(on, settings, message, monkeypatch, tmp_path):
    monkeypatch.setattr(cgroups, "own_group", lambda: cgroups_absent(tmp_path))
    with pytest.raises(LaunchError, match=message) as caught:
        planned(on, sandbox="required", **settings)
    assert "sandbox: required" in str(caught.value)
    assert "with sandbox: auto" in str(caught.value)
    # Whoever asks for less gets it, and is told.
    less = planned(on, **settings)
    assert less.isolation.lacks
    less.close()


def cgroups_absent(root):
    raise cgroups.NoCgroups(f"{root} is not cgroup version 2")


def test_a_limit_of_each_process_is_told_as_such(monkeypatch, tmp_path):
    monkeypatch.setattr(cgroups, "own_group", lambda: cgroups_absent(tmp_path))
    found = planned(memory="256MiB", processes=8, cpu=1)
    assert f"limit=DATA:{256 << 20}" in found.words
    assert "each by itself is held to it (RLIMIT_DATA)" in found.isolation.lacks["memory"]
    assert "counts all that the user has" in found.isolation.lacks["processes"]
    assert not [word for word in found.words if "NPROC" in word or "limit=AS" in word]
    found = planned(mechanism="bubblewrap", processes=8)
    assert "limit=NPROC:9" in found.words  # bubblewrap's own first process is one
    assert "RLIMIT_NPROC" in found.isolation.holds["processes"]
    found.close()


def test_limits_of_a_control_group(monkeypatch, tmp_path):
    asked = []

    def make(limits):
        asked.append(dict(limits))
        return ControlGroup(tmp_path)

    monkeypatch.setattr(cgroups, "make", make)
    for mechanism in ("landlock", "bubblewrap"):
        found = planned(mechanism=mechanism, memory="256MiB", cpu=0.5, processes=32)
        assert {"memory", "cpu", "processes", "leftovers"} <= found.isolation.holds.keys()
        assert str(tmp_path / "cgroup.procs") in " ".join(found.words)
        assert found.group is not None
    assert asked[0] == {"memory": 256 << 20, "cpu": 0.5, "processes": 32}


@pytest.mark.parametrize("mode", [0o4755, 0o2755])
def test_a_program_that_changes_who_it_is(tmp_path, mode):
    program = tmp_path / "sudo"
    shutil.copy("/bin/true", program)
    program.chmod(mode)
    found = planned(program=str(program))
    assert (found.isolation.mechanism, found.confines) == ("none", False)
    assert "set-user-ID" in found.isolation.lacks["everything"]
    with pytest.raises(LaunchError, match="set-user-ID"):
        planned(program=str(program), sandbox="required")


def test_a_user(monkeypatch):
    with pytest.raises(LaunchError, match="only root can start processes of other users"):
        planned(user="nobody")
    with pytest.raises(LaunchError, match="no such user"):
        planned(machine_with(uid=0), user="not-a-user-here")
    found = planned(machine_with(uid=0), user="61234", processes=4)
    assert {"uid=61234", "gid=61234", "groups=61234", "keep=0"} <= set(found.words)
    assert found.environment == {"HOME": "/"}
    assert "RLIMIT_NPROC" in found.isolation.holds["processes"]


def test_root_keeps_what_its_files_need_unless_more_is_required():
    root = machine_with(uid=0)
    assert f"keep={KEPT_BY_ROOT:x}" in planned(root).words
    assert "keep=0" in planned(root, sandbox="required", mechanism="landlock").words
    assert "keep=0" in planned().words


def test_what_it_is_told_of_is_its_own(tmp_path):
    closed = [tmp_path / "mine.db", tmp_path / "others.db"]
    for each in closed:
        each.touch()
    told = ({"path": f"{tmp_path}/mine.db"},)
    words = planned(closed=map(str, closed), told=told, mechanism="bubblewrap").words
    assert words.count(str(closed[1])) == 1  # over which nothing is put
    assert words[words.index(str(closed[1])) - 1] == "/dev/null"
    assert words[words.index(str(closed[0])) - 1] != "/dev/null"


def test_what_landlock_cannot_hide_is_told(tmp_path):
    (tmp_path / "prism.yaml").touch()
    (tmp_path / "key.pem").touch()
    closed = [str(tmp_path / name) for name in ("prism.yaml", "key.pem")]
    own = planned(machine_with(uid=1000), closed=closed, directory=str(tmp_path))
    assert f"cannot hide {closed[0]} and " in own.isolation.lacks["files"]
    with pytest.raises(LaunchError, match="cannot hide"):
        planned(closed=closed, directory=str(tmp_path), sandbox="required", mechanism="landlock")


def test_no_network_but_some_ports_or_sockets():
    for on, holds in ((WHOLE, True), (machine_with(abi=3), False)):
        policy = IsolationPolicy(
            IsolationConfig(network="none", mechanism="landlock"), (), (), (5432,)
        )
        found = confine(policy, Subject("p", "/bin/true", "/srv"), on)
        assert ("network" in found.isolation.holds) is holds
        if holds:
            assert {"tcp=listed", "port=5432", "sockets=2,10"} <= set(found.words)
    policy = IsolationPolicy(IsolationConfig(network="none"), (), ("/run/x.sock",))
    found = confine(policy, Subject("p", "/bin/true", "/srv"), WHOLE)
    assert "sockets=1" in found.words
    assert "unix_sockets" in found.isolation.lacks


def test_in_words():
    isolation = Isolation("landlock", {"files": "x", "user": "y"}, {"cpu": "no cgroups"})
    assert str(isolation) == "landlock: files, user; not cpu (no cgroups)"


# -- for real ------------------------------------------------------------------------------------


def run(found, *words):
    """Run words so confined; returns what they print, and how they ended."""
    command = found.command(2, list(words), None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found.close()
    return done


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root starts others' processes")
needs_landlock = pytest.mark.skipif(bool(machine().no_landlock), reason=machine().no_landlock)

FORKS = "i=0; while [ $i -lt 40 ]; do sleep 1 & i=$((i+1)); done; wait; echo all"


@needs_root
@needs_landlock
def test_forks_without_end_of_a_user_of_its_own():
    free = run(planned(machine(), user="61234"), "/bin/sh", "-c", FORKS)
    assert "all" in free.stdout
    held = run(planned(machine(), user="61234", processes=8), "/bin/sh", "-c", FORKS)
    assert "all" not in held.stdout
    assert "fork" in held.stderr


@needs_root
@needs_landlock
def test_a_set_user_id_program_gives_nothing(tmp_path_factory):
    place = Path("/srv") / f"prism-test-{os.getpid()}"
    place.mkdir(mode=0o755)
    try:
        program = place / "id"
        shutil.copy("/usr/bin/id", program)
        program.chmod(0o4755)
        outside = ["setpriv", "--reuid", "61234", "--clear-groups", str(program), "-u"]
        done = subprocess.run(outside, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == "0"
        done = run(planned(machine(), user="61234"), str(program), "-u")
        assert done.stdout.strip() == "61234", done.stderr
    finally:
        shutil.rmtree(place)


@needs_landlock
def test_a_failure_is_told_and_nothing_runs():
    found = planned(machine(), mechanism="landlock")
    found.words.insert(4, "join=/no/such/group/cgroup.procs")
    done = run(found, "/bin/echo", "it ran")
    assert (done.returncode, done.stdout) == (126, "")
    assert done.stderr == "cgroup 2\n"


@needs_landlock
def test_the_environment_is_what_was_given():
    found = planned(machine(), mechanism="landlock")
    command = found.command(2, ["/usr/bin/env"], None)
    done = subprocess.run(
        command, env={"A": "1", "LC_ALL": "C"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["A=1", "LC_ALL=C"]
    assert sys.executable == command[0]


def test_nothing_is_left_of_a_private_directory(monkeypatch):
    made = []
    monkeypatch.setattr(
        confinement.tempfile, "mkdtemp", lambda **options: made.append(options) or "/nonexistent-x"
    )
    found = planned(mechanism="bubblewrap", directory="/srv")
    assert made
    assert "/nonexistent-x" in found.words
    found.close()


@pytest.mark.parametrize(
    ("fields", "settings", "why"),
    [
        ({"no_broker": FORBIDDEN}, {}, FORBIDDEN),
        ({"no_broker": "", "uid": 0, "traces": False}, {"user": "1"}, "no CAP_SYS_PTRACE"),
    ],
)
def test_connections_that_cannot_be_decided_are_told(fields, settings, why):
    with_it = planned(machine_with(**fields), egress=["db:1"], **settings)
    assert with_it.egress is None
    assert why in with_it.isolation.lacks["network"]
    with pytest.raises(LaunchError, match=r"network cannot be confined here: deciding its conn"):
        planned(machine_with(**fields), egress=["db:1"], sandbox="required", **settings)


@pytest.mark.parametrize("traces", [True, False])
def test_connections_are_decided(traces):
    with_it = planned(machine_with(no_broker="", traces=traces), egress=["db:1", {"to": "unix:/a"}])
    assert [each.to for each in with_it.egress] == ["db:1", "unix:/a"]
    assert with_it.isolation.holds["network"] == "connections to db:1, unix:/a alone"
    assert with_it.environment["RES_OPTIONS"] == "use-vc"
