"""Python packages: what is imported is what was verified."""

import hashlib
import os
import pkgutil
import py_compile
import sys
import traceback

import pytest

from prism.verification import signature
from prism.verification.module import TreeFinder
from prism.verification.refusals import PluginRefused
from prism.verification.signature import Statement


@pytest.fixture(autouse=True)
def _nothing_stays_imported():
    modules, finders = dict(sys.modules), list(sys.meta_path)
    yield
    sys.modules.clear()
    sys.modules.update(modules)
    sys.meta_path[:] = finders


def digest(verify, inside):
    return verify(**inside).content.digest.hexdigest


def sign(release, verify, inside, package, **said):
    content = verify(**inside).content
    statement = Statement(content.digest, release.id, files=content.files, **said)
    path = package.with_name("orders.sig")
    path.write_bytes(signature.render(statement, release.private.sign(statement.payload())))


def name_of(verified):
    return verified.import_module().Orders.name


def test_a_module_of_one_file(verify, verifier, home):
    (home / "single.py").write_text("class Orders:\n    name = 'single'\n")
    keys = {"module": "single:Orders", "path": str(home)}
    expected = hashlib.sha256((home / "single.py").read_bytes()).hexdigest()
    assert digest(verify, keys) == expected
    verified = verifier(sha256=expected, **keys).module()
    (home / "single.py").write_text("raise SystemExit")
    assert name_of(verified) == "single"
    assert verified.import_module().__file__ == str(home / "single.py")


@pytest.mark.parametrize("change", ["changed", "added", "missing", "data"])
def test_any_change_to_the_package_is_noticed(verify, inside, package, release, change):
    pinned = digest(verify, inside)
    sign(release, verify, inside, package)
    config = {"policy": "require", "trusted_keys": [release.trusted]}
    assert verify(config, sha256=pinned, **inside).signer == "release"
    if change == "missing":
        (package / "parts.py").unlink()
    else:
        names = {"changed": "parts.py", "added": "extra.py", "data": "data/text.txt"}
        (package / names[change]).write_text("NAME = 'tampered'\n")
    for keywords in ({"sha256": pinned}, {}):
        with pytest.raises(PluginRefused) as caught:
            verify(config if not keywords else None, **keywords, **inside)
        assert caught.value.reason == "digest_mismatch"
    files = {"changed": "parts.py (changed)", "added": "extra.py (added)"}
    files |= {"missing": "parts.py (missing)", "data": "data/text.txt (changed)"}
    assert files[change] in str(caught.value)


def test_what_is_imported_is_what_was_verified(verify, verifier, inside, package):
    verified = verifier(sha256=digest(verify, inside), **inside).module()
    (package / "parts.py").write_text("NAME = 'tampered'\n")
    (package / "later.py").write_text("")
    assert name_of(verified) == "genuine"
    module = verified.import_module()
    assert module.__file__ == str(package / "plugin.py")
    assert pkgutil.get_data("orders", "data/text.txt") == b"data"
    with pytest.raises(FileNotFoundError):
        pkgutil.get_data("orders", "data/none.txt")
    with pytest.raises(ModuleNotFoundError, match=r"has no module 'orders\.later'"):
        __import__("orders.later")
    assert not (package / "__pycache__").exists()


def test_forged_bytecode_is_not_run(verify, verifier, inside, package, tmp_path):
    source = package / "parts.py"
    forged = tmp_path / "forged.py"
    forged.write_text("NAME = 'tampered'\n")
    os.utime(forged, (source.stat().st_mtime, source.stat().st_mtime))
    cache = package / "__pycache__"
    cache.mkdir(mode=0o755)
    compiled = cache / f"parts.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(
        str(forged), str(compiled), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    compiled.chmod(0o644)
    assert name_of(verifier(sha256=digest(verify, inside), **inside).module()) == "genuine"


def test_old_and_new_side_by_side(verify, verifier, inside, package):
    old = verifier(sha256=digest(verify, inside), **inside).module().import_module()
    assert verifier(**inside).module().import_module() is old, "the same content, the same module"
    (package / "parts.py").write_text("NAME = 'new'\n")
    new = verifier(sha256=digest(verify, inside), **inside).module().import_module()
    assert (old.Orders.name, new.Orders.name) == ("genuine", "new")
    assert (old.parts.NAME, new.parts.NAME) == ("genuine", "new")
    assert sum(isinstance(finder, TreeFinder) for finder in sys.meta_path) == 1


def test_one_that_cannot_be_imported_leaves_the_old_in_place(verify, verifier, inside, package):
    old = verifier(sha256=digest(verify, inside), **inside).module().import_module()
    (package / "plugin.py").write_text("from . import parts\nraise ValueError('no')\n")
    broken = verifier(sha256=digest(verify, inside), **inside).module()
    with pytest.raises(ValueError, match="no") as caught:
        broken.import_module()
    shown = "".join(traceback.format_exception(caught.value))
    assert f'{package}/plugin.py", line 2' in shown
    assert sys.modules["orders.plugin"] is old
    assert sys.modules["orders.parts"].NAME == "genuine"
    assert sum(isinstance(finder, TreeFinder) for finder in sys.meta_path) == 1


@pytest.mark.parametrize("name", ["json", "prism", "msgspec"])
def test_a_name_that_the_proxy_has_taken(verify, verifier, home, name):
    (home / f"{name}.py").write_text("class Orders: pass\n")
    keys = {"module": f"{name}:Orders", "path": str(home)}
    with pytest.raises(PluginRefused) as caught:
        verifier(sha256=digest(verify, keys), **keys).module().import_module()
    assert caught.value.reason == "module_unverifiable"


def test_an_installed_package_is_found_by_python_itself(verify, verifier, package, monkeypatch):
    monkeypatch.syspath_prepend(str(package.parent))
    keys = {"module": "orders.plugin:Orders"}
    pinned = digest(verify, keys)
    verified = verifier(sha256=pinned, **keys).module()
    (package / "parts.py").write_text("NAME = 'tampered'\n")
    assert name_of(verified) == "genuine"
    with pytest.raises(PluginRefused):
        verify(sha256=pinned, **keys)


def test_an_installed_package_that_nothing_vouches_for_is_imported_as_ever(
    verifier, package, monkeypatch
):
    monkeypatch.syspath_prepend(str(package.parent))
    verified = verifier(module="orders.plugin:Orders").module()
    assert verified.tree is None
    assert name_of(verified) == "genuine"
