"""A plugin's file to verify, keys to sign it with, and verifiers of both."""

import hashlib
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prism.config.types import PluginConfig, VerificationConfig
from prism.verification import Verdict, Verifier, signature
from prism.verification.content import FILE, Digest
from prism.verification.refusals import PluginRefused
from prism.verification.signature import Statement, key_id, public_text
from prism.verification.signing import generate_key


class Signer:
    """A key, and what the configuration says of it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.file = directory / f"{name}.key"
        self.private = generate_key(self.file)
        self.id = key_id(self.private.public)

    @property
    def trusted(self) -> dict[str, Any]:
        return {"name": self.name, "key": public_text(self.private.public)}

    def sign(self, file: Path, content: bytes | None = None, **said: Any) -> Path:
        """Sign a file, or other ``content`` in its place; returns the signature's path."""
        statement = Statement(digest_of(content or file.read_bytes()), self.id, **said)
        path = file.with_name(file.name + signature.SUFFIX)
        path.write_bytes(signature.render(statement, self.private.sign(statement.payload())))
        return path


def digest_of(content: bytes) -> Digest:
    return Digest(FILE, hashlib.sha256(content).hexdigest())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory like that of an installed plugin, whatever the umask."""
    home = tmp_path / "opt"
    home.mkdir()
    home.chmod(0o755)
    return home


@pytest.fixture
def program(home: Path) -> Path:
    """An installed plugin."""
    path = home / "plugin"
    path.write_text("#!/bin/sh\necho ran\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def release(tmp_path: Path) -> Signer:
    return Signer(tmp_path, "release")


@pytest.fixture
def other(tmp_path: Path) -> Signer:
    return Signer(tmp_path, "other")


MakeVerifier = Callable[..., Verifier]


@pytest.fixture
def verifier(program: Path) -> MakeVerifier:
    """A verifier of the installed plugin, or of whatever ``plugin`` says."""

    def make(
        config: dict[str, Any] | None = None, *, day: date = date(2026, 1, 1), **plugin: Any
    ) -> Verifier:
        if not plugin.keys() & {"command", "module", "library", "file"}:
            plugin["command"] = [str(program)]
        kind = "sidecar" if "command" in plugin else "wasm" if "file" in plugin else "in_process"
        return Verifier(
            msgspec.convert({"type": kind, **plugin}, PluginConfig),
            "plugin 'small'",
            msgspec.convert(config or {}, VerificationConfig),
            on_day=lambda: day,
        )

    return make


@pytest.fixture
def verify(verifier: MakeVerifier) -> Callable[..., Verdict | None]:
    """Verify the installed plugin, or whatever ``plugin`` says."""

    def check(config: dict[str, Any] | None = None, **plugin: Any) -> Verdict | None:
        return verifier(config, **plugin).verify(os.environ["PATH"])

    return check


@pytest.fixture
def refused(verify: Callable[..., Verdict | None]) -> Callable[..., PluginRefused]:
    """Verify what must be refused; the refusal, which must say everything that it has to."""

    def check(*arguments: Any, **keywords: Any) -> PluginRefused:
        with pytest.raises(PluginRefused) as caught:
            verify(*arguments, **keywords)
        error = caught.value
        for part in (error.plugin, error.reason, error.place, error.found, error.expected):
            assert part
            assert part in str(error)
        assert error.way_out in str(error)
        return error

    return check


PLUGIN = """
from orders.parts import NAME
from . import parts

class Orders:
    name = NAME
"""


@pytest.fixture
def package(home: Path) -> Path:
    """An installed package, ``orders``."""
    root = home / "orders"
    (root / "data").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "plugin.py").write_text(PLUGIN)
    (root / "parts.py").write_text("NAME = 'genuine'\n")
    (root / "data" / "text.txt").write_text("data")
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return root


@pytest.fixture
def inside(package: Path) -> dict[str, str]:
    """The keys of a plugin in that package."""
    return {"module": "orders.plugin:Orders", "path": str(package.parent)}
