"""A reload to a plugin that is refused is rolled back; the old one serves on."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from supervised_plugin import leased_call, supervised

from prism.supervision.lifecycle import State

INSIDE = """
from msgspec import Struct
from prism.sdk import Plugin, operation
from .answer import ANSWER

class Nothing(Struct):
    pass

class Inside(Plugin):
    name = "inside"
    @operation
    async def pid(self, params: Nothing) -> int:
        return ANSWER
"""


def pinned(spec, **keys):
    return msgspec.structs.replace(spec.plugin, **keys)


@pytest.fixture
def content(program):
    """The new version's program."""
    return Path(program).read_bytes() + b"\n# the new version\n"


async def test_a_tampered_process_is_not_swapped_in(make_spec, content, tmp_path):
    new = tmp_path / "new.py"
    new.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    spec = make_spec()
    versions = {"v2": pinned(spec, command=[sys.executable, str(new)], sha256=digest)}
    async with supervised(replace(spec, at_version=versions.__getitem__)) as supervisor:
        slot = supervisor.slots["ns"]
        pid = await leased_call(slot, "pid")
        new.write_bytes(content + b"raise SystemExit('tampered')\n")
        receipt = await supervisor.reload("ns", "v2")
        assert receipt.outcome == "rolled_back"
        assert "was refused (digest_mismatch)" in receipt.reason
        assert digest in receipt.reason
        assert await leased_call(slot, "pid") == pid
        assert supervisor.status_of("ns").state is State.READY
        new.write_bytes(content)
        receipt = await supervisor.reload("ns", "v2")
        assert receipt.outcome == "swapped"
        assert await leased_call(slot, "pid") == receipt.new.pid != pid


@pytest.fixture
def package(tmp_path):
    """A package in whose plugin ``pid`` answers what ``answer.py`` says."""
    root = tmp_path / "inside_plugin"
    root.mkdir(mode=0o755)
    for name, text in (("__init__", ""), ("answer", "ANSWER = 1\n"), ("plugin", INSIDE)):
        (root / f"{name}.py").write_text(text)
    yield root
    for name in [name for name in sys.modules if name.partition(".")[0] == root.name]:
        del sys.modules[name]
    sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "package", "") != root.name]


async def test_a_class_inside_the_proxy_is_renewed_from_what_was_verified(
    make_spec, package, tmp_path
):
    keys = {"type": "in_process", "module": "inside_plugin.plugin:Inside", "path": str(tmp_path)}
    async with supervised(make_spec(**keys)) as supervisor:
        slot = supervisor.slots["ns"]
        assert await leased_call(slot, "pid") == 1
        (package / "answer.py").write_text("ANSWER = 2\n")
        old = slot.current
        assert (await supervisor.reload("ns")).outcome == "swapped"
        assert await leased_call(slot, "pid") == 2
        assert slot.current is not old
        (package / "answer.py").chmod(0o666)
        (package / "answer.py").write_text("raise SystemExit('tampered')\n")
        receipt = await supervisor.reload("ns")
        assert receipt.outcome == "rolled_back"
        assert "was refused (world_writable)" in receipt.reason
        assert await leased_call(slot, "pid") == 2
