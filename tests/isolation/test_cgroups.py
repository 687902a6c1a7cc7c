"""Control groups, on a folder that looks like a delegated one; the kernel's part is not there."""

import os
import shutil
from pathlib import Path

import pytest

from prism.isolation import cgroups
from prism.isolation.cgroups import NoCgroups, make, own_group


@pytest.fixture
def group(tmp_path):
    """A delegated group, with one process in it."""
    made = tmp_path / "system.slice" / "prism.service"
    made.mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (made / "cgroup.controllers").write_text("cpu memory pids\n")
    (made / "cgroup.subtree_control").write_text("")
    (made / "cgroup.procs").write_text("4711\n")
    return made


def test_limits_are_those_of_a_group_of_its_own(group, monkeypatch):
    # The kernel makes these with the directory.
    monkeypatch.setattr(cgroups, "_limit", with_files(cgroups._limit, "memory.swap.max"))
    limits = {"memory": 256 << 20, "cpu": 0.5, "processes": 32}
    made = make(limits, group=group, pid=4711)
    assert made.path.parent == group
    assert made.procs == str(made.path / "cgroup.procs")
    found = {each.name: each.read_text() for each in made.path.iterdir()}
    assert found == {
        "memory.max": str(256 << 20),
        "memory.swap.max": "0",
        "cpu.max": "50000 100000",
        "pids.max": "32",
    }
    # It had to get out of the way first.
    assert (group / "prism/cgroup.procs").read_text() == "4711"
    assert set((group / "cgroup.subtree_control").read_text().split()) == {
        *("+memory", "+cpu", "+pids"),
    }


def with_files(limit, *names):
    def call(path, limits):
        for name in names:
            (path / name).write_text("max")
        limit(path, limits)

    return call


def test_what_is_enabled_already_moves_nobody(group):
    (group / "cgroup.subtree_control").write_text("memory pids")
    first, second = make({"memory": 4096}, group=group), make({"memory": 4096}, group=group)
    assert first.path != second.path
    assert not (group / "prism").exists()
    assert (group / "cgroup.subtree_control").read_text() == "memory pids"


def test_it_is_removed(group, monkeypatch):
    monkeypatch.setattr(Path, "rmdir", shutil.rmtree)  # the kernel's files go with the directory
    (group / "cgroup.subtree_control").write_text("pids")
    made = make({"processes": 1}, group=group)
    made.close()
    assert not made.path.exists()
    made.close()


def test_a_group_that_stays_is_no_fault(group, monkeypatch):
    monkeypatch.setattr(cgroups, "REMOVE_TIMEOUT", 0.0)
    (group / "cgroup.subtree_control").write_text("pids")
    made = make({"processes": 1}, group=group)
    made.close()
    assert (made.path / "cgroup.kill").read_text() == "1"


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"memory": 4096}, "no controller memory"), ({"cpu": 1}, "no controller cpu")],
)
def test_a_controller_that_is_not_there(group, limits, message):
    (group / "cgroup.controllers").write_text("pids hugetlb\n")
    with pytest.raises(NoCgroups, match=message):
        make(limits, group=group)
    assert [each.name for each in group.iterdir() if each.is_dir()] == []


def test_a_group_that_is_not_delegated(group, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(NoCgroups, match=r"not delegated.*Delegate=yes"):
        make({"processes": 1}, group=group)


def test_a_kernel_that_refuses(group, monkeypatch):
    def refuse(path, limits):
        raise OSError(16, "Device or resource busy", str(path))

    monkeypatch.setattr(cgroups, "_limit", refuse)
    (group / "cgroup.subtree_control").write_text("pids")
    with pytest.raises(NoCgroups, match="busy"):
        make({"processes": 1}, group=group)
    assert [each.name for each in group.iterdir() if each.is_dir()] == []


@pytest.mark.parametrize("below", ["", "/prism"])
def test_the_own_group_is_found_before_and_after_a_limit(group, tmp_path, below):
    membership = tmp_path / "membership"
    membership.write_text(f"1:name=systemd:/\n0::/system.slice/prism.service{below}\n")
    assert own_group(tmp_path, membership) == group


def test_no_version_2(tmp_path):
    with pytest.raises(NoCgroups, match="is not cgroup version 2"):
        own_group(tmp_path, tmp_path)
    (tmp_path / "cgroup.controllers").write_text("")
    (tmp_path / "membership").write_text("1:memory:/x\n")
    with pytest.raises(NoCgroups, match="in no group"):
        own_group(tmp_path, tmp_path / "membership")
