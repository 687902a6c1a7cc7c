"""Code in this process: old and new side by side, and where modules are looked for."""

import sys
import threading

import pytest
import trio
from supervised_plugin import eventually, held, leased_call, supervised

from prism.streams.errors import LaunchError
from prism.supervision import loading
from prism.supervision.loading import explain_missing, load_plugin, look_in

CODE = """
from msgspec import Struct
from prism.sdk import Plugin, operation
from . import part

class Versioned(Plugin):
    name = "versioned"
    @operation
    async def which(self, params: dict[str, int]) -> str:
        return part.VERSION
"""


@pytest.fixture
def package(tmp_path, monkeypatch, make_spec):
    """A package of two modules on the disk; returns a function that rewrites one of them."""
    directory = tmp_path / "versioned_package"
    directory.mkdir()
    (directory / "__init__.py").write_text("")
    (directory / "plugin.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text):
        (directory / "part.py").write_text(text)

    write("VERSION = 'one'")
    yield write
    for name in [name for name in sys.modules if name.startswith("versioned_package")]:
        del sys.modules[name]


async def test_old_and_new_code_run_side_by_side(package, make_spec):
    spec = make_spec(type="in_process", module="versioned_package.plugin:Versioned")
    async with supervised(spec) as supervisor:
        slot = supervisor.slots["ns"]
        with held(slot) as old:
            package("VERSION = 'two'")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.reload, "ns")
                await eventually(lambda: slot.current is not old)
                assert await leased_call(slot, "which") == "two"
                call = old.channel._plugin.which
                assert await call({}) == "one"
                old.release()
                old.acquire()  # the drain may end: this lease is the test's own
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("fresh", [False, True])
async def test_the_event_loop_goes_on_meanwhile(package, make_spec, fresh):
    package("import threading; WHERE = threading.get_ident()")
    spec = make_spec(type="in_process", module="versioned_package.plugin:Versioned")
    await load_plugin(spec, fresh=fresh)
    assert threading.get_ident() != sys.modules["versioned_package.part"].WHERE


async def test_code_that_cannot_be_imported_leaves_the_loaded_code_alone(package, make_spec):
    spec = make_spec(type="in_process", module="versioned_package.plugin:Versioned")
    async with supervised(spec) as supervisor:
        before = dict(sys.modules)
        package("VERSION = 1 / 0")
        receipt = await supervisor.reload("ns")
        assert receipt.outcome == "rolled_back"
        assert "ZeroDivisionError" in receipt.reason
        assert await leased_call(supervisor.slots["ns"], "which") == "one"
        assert {k: v for k, v in sys.modules.items() if k.startswith("versioned_package")} == {
            k: v for k, v in before.items() if k.startswith("versioned_package")
        }


@pytest.mark.parametrize("fresh", [False, True])
async def test_the_class_that_is_named(package, make_spec, fresh):
    spec = make_spec(type="in_process", module="versioned_package.plugin:Versioned")
    assert (await load_plugin(spec, fresh=fresh)).__name__ == "Versioned"
    missing = make_spec(type="in_process", module="versioned_package.plugin:None")
    with pytest.raises(LaunchError, match="has no 'None'") as caught:
        await load_plugin(missing, fresh=fresh)
    assert caught.value.crashed


# -- where modules are looked for ---------------------------------------------------------


def test_a_directory_is_looked_in_last_and_named_when_a_module_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(loading, "_added", [])
    assert explain_missing("x", None) == (
        f"no module 'x': it is not installed for {sys.executable}; "
        "`path` names the directory of a plugin's module"
    )
    look_in(tmp_path)
    look_in(tmp_path)
    assert sys.path[-1] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1
    here = sys.executable
    assert f"neither installed for {here} nor in {tmp_path};" in explain_missing("x", None)
    assert explain_missing("x", "/opt") == f"no module 'x' in /opt, nor installed for {here}"
