"""Contents of files and packages: their digests, and what cannot be read or held."""

import errno
import os
import subprocess

import pytest

from prism.verification.content import TREE
from prism.verification.refusals import PluginRefused


def test_a_system_that_makes_no_copy(verify, refused, program, monkeypatch):
    def no_memory(*_):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    pinned = verify().content.digest.hexdigest
    monkeypatch.setattr(os, "memfd_create", no_memory)
    error = refused(sha256=pinned)
    assert error.reason == "copy_failed"
    assert "Cannot allocate memory" in error.found
    assert not verify().vouched, "nothing needs a copy then"


@pytest.mark.parametrize("kind", ["command", "package"])
def test_a_disk_that_fails(refused, program, monkeypatch, kind):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    if kind == "command":
        monkeypatch.setattr(os, "read", broken)
        error = refused()
    else:
        monkeypatch.setattr("prism.verification.content._TreeReader.read", broken)
        package = program.parent / "orders"
        package.mkdir(mode=0o755)
        (package / "__init__.py").touch(0o644)
        error = refused(module="orders:Orders", path=str(program.parent))
    assert error.reason == "unreadable"
    assert "Input/output error" in error.found


def test_a_file_over_the_limit(refused, program, monkeypatch):
    monkeypatch.setattr("prism.verification.content.MAX_FILE", 10)
    assert refused().reason == "too_large"


def test_the_digest_of_a_tree_can_be_made_by_a_shell(verify, inside, package):
    """As docs/plugin-verification.md shows it."""
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "plugin.cpython-311.pyc").write_bytes(b"forged")
    shell = (
        "(printf 'prism tree v1\\n'; find . -type f -not -path '*/__pycache__/*' "
        "-printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum) | sha256sum"
    )
    printed = subprocess.run(["sh", "-c", shell], cwd=package, capture_output=True, text=True)
    verdict = verify(**inside)
    assert printed.stdout.split()[0] == verdict.content.digest.hexdigest
    assert verdict.content.digest.kind == TREE
    assert list(verdict.content.files) == ["__init__.py", "data/text.txt", "parts.py", "plugin.py"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda root: (root / "link.py").symlink_to("parts.py"), "symlink"),
        (lambda root: os.mkfifo(root / "pipe"), "not_regular"),
        (lambda root: (root / "parts.py").chmod(0o666), "world_writable"),
        (lambda root: (root / "data").chmod(0o777), "world_writable"),
        (lambda root: (root / "a\nb.py").touch(0o644), "module_unverifiable"),
        (lambda root: (root / ("d/" * 40)).mkdir(parents=True), "too_large"),
    ],
)
def test_what_does_not_belong_into_a_package(verify, inside, package, make, reason):
    make(package)
    for directory in (package / "d").rglob("."):
        directory.chmod(0o755)
    with pytest.raises(PluginRefused) as caught:
        verify(**inside)
    assert caught.value.reason == reason
    assert caught.value.place.startswith(str(package))


@pytest.mark.parametrize("limit", ["MAX_FILES", "MAX_BYTES"])
def test_a_package_over_a_limit(verify, inside, monkeypatch, limit):
    monkeypatch.setattr(f"prism.verification.content.{limit}", 2)
    with pytest.raises(PluginRefused) as caught:
        verify(**inside)
    assert caught.value.reason == "too_large"
