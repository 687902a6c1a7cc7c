"""What a machine offers, on machines that offer less: a filter makes the kernel older."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prism.isolation import machine as machine_module
from prism.isolation.confine_main import filter_program
from prism.isolation.machine import look, machine

ROOT = Path(__file__).parents[2]
needs_seccomp = pytest.mark.skipif(bool(machine().no_seccomp), reason=machine().no_seccomp)
OLDER = """
import sys
sys.path.insert(0, sys.argv[1])
from prism.isolation.confine_main import enforce_filter, filter_program, no_new_privileges
from prism.isolation.machine import look
no_new_privileges()
import os
denied = {}
for each in sys.argv[2:]:
    name, x86, arm = each.split(":")
    denied[name] = (int(x86), int(arm))
program = filter_program(denied, "all", os.uname().machine)
enforce_filter(program)
found = look()
print(found.no_landlock, found.no_seccomp, found.no_bubblewrap, sep="|")
"""
LANDLOCK = "landlock_create_ruleset:444:444"
PRCTL = "prctl:157:167"


def looked_at(*denied):
    """What is found where these system calls are denied; new namespaces are, too."""
    command = [sys.executable, "-c", OLDER, str(ROOT), *denied]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip().split("|")


@needs_seccomp
def test_a_kernel_that_forbids_landlock_and_namespaces():
    no_landlock, no_seccomp, no_bubblewrap = looked_at(LANDLOCK)
    assert "forbidden here" in no_landlock
    assert no_seccomp == ""
    # It is not installed, or needs namespaces.
    assert "not installed" in no_bubblewrap or "the trial failed" in no_bubblewrap


@needs_seccomp
def test_a_container_that_forbids_seccomp():
    _, no_seccomp, _ = looked_at(PRCTL)
    assert "forbidden" in no_seccomp


def answers(monkeypatch, text, code=0):
    done = subprocess.CompletedProcess([], code, text, "bwrap: No permissions\n")
    monkeypatch.setattr(machine_module, "_run", lambda _words: done)
    return look()


@pytest.mark.parametrize(
    ("printed", "abi", "no_landlock", "no_seccomp"),
    [
        ("abi 7\nprivileges ok\nlandlock ok\nseccomp ok\n", 7, "", ""),
        ("abi -38\nprivileges ok\nseccomp ok\n", 0, "the kernel does not have it", ""),
        ("abi -95\nprivileges ok\nseccomp ok\n", 0, "not among the security modules", ""),
        ("abi 1\nprivileges ok\nseccomp 1\n", 1, "version 1", "forbidden here"),
        ("abi 7\nlandlock 22\nseccomp unknown\n", 7, "the trial failed: Invalid", "not known for"),
        ("Traceback\n", 0, "the trial failed", "the trial failed"),
    ],
)
def test_what_the_trial_says(monkeypatch, printed, abi, no_landlock, no_seccomp):
    found = answers(monkeypatch, printed)
    assert found.abi == abi
    for said, meant in ((found.no_landlock, no_landlock), (found.no_seccomp, no_seccomp)):
        assert meant in said
        assert bool(meant) is bool(said)
    assert found.has_scopes is (abi >= 6 and not no_landlock)


def test_bubblewrap_that_does_not_work(monkeypatch):
    monkeypatch.setattr(machine_module.shutil, "which", lambda _name: "/usr/bin/bwrap")
    found = answers(monkeypatch, "abi 7\nlandlock ok\nseccomp ok\n", code=1)
    assert "the trial failed: bwrap: No permissions" in found.no_bubblewrap
    monkeypatch.setattr(machine_module.shutil, "which", lambda _name: None)
    assert "package `bubblewrap`" in answers(monkeypatch, "abi 7\n").no_bubblewrap


def test_a_trial_that_cannot_be_made(monkeypatch):
    def fail(_words):
        raise OSError(os.strerror(11))

    monkeypatch.setattr(machine_module, "_run", fail)
    monkeypatch.setattr(machine_module.shutil, "which", lambda _name: "/usr/bin/bwrap")
    found = look()
    assert "the trial failed" in found.no_landlock
    assert "the trial failed" in found.no_bubblewrap


def test_a_filter_for_a_machine_that_is_not_known():
    with pytest.raises(KeyError):
        filter_program({}, "all", "sparc64")
