"""Making keys and signatures: on the machine that builds plugins, not on one that runs them."""

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from prism.contract import names
from prism.contract.errors import PrismError
from prism.verification import signature
from prism.verification.content import content_of
from prism.verification.signature import Statement, key_id
from prism.verification.trust import Trust

if TYPE_CHECKING:  # it is slow to import, and few processes sign
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_KEY_FILE = 16 * 1024
"""Bytes that are read of a file that should be a private key."""


class SigningKeyError(PrismError):
    """A private key cannot be written or read; says why."""


class CannotSign(PrismError):
    """A signature cannot be made or written; says why."""


# -- keys -----------------------------------------------------------------------------


class PrivateKey:
    """A key to sign with. Shows nothing of itself."""

    def __init__(self, key: "Ed25519PrivateKey") -> None:
        self._key = key

    @property
    def public(self) -> bytes:
        """The 32 bytes of its public half."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, payload: bytes) -> bytes:
        """The 64 bytes of its signature of ``payload``."""
        return self._key.sign(payload)


def generate_key(path: Path) -> PrivateKey:
    """Make a key and write it to ``path``, which must not exist, readable by its owner only.

    Raises:
        SigningKeyError: it cannot be written; an existing file is never replaced.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask
            file.write(text)
    except FileExistsError:
        raise SigningKeyError(f"{path} exists; it was left as it is. Choose another name") from None
    except OSError as error:
        raise SigningKeyError(f"cannot write {path}: {error.strerror}") from None
    return PrivateKey(key)


def load_key(path: Path) -> PrivateKey:
    """Read a private key: PKCS #8 in PEM, not encrypted, as ``generate_key`` and openssl write it.

    Raises:
        SigningKeyError: it cannot be read, others could read it too, or it is no such key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_KEY_FILE)
    except OSError as error:
        raise SigningKeyError(f"cannot read {path}: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SigningKeyError(
            f"{path} is open to others (mode {stat.S_IMODE(mode):04o}); "
            f"if it has always been yours alone: chmod 0600 {path}"
        )
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyError(
            f"{path} is no Ed25519 private key without a password; make one: prism plugin keygen"
        )
    return PrivateKey(key)


# -- signatures -------------------------------------------------------------------------


def check_words(name: str | None, version: str | None) -> None:
    """Raise CannotSign for what can be no plugin's name, or no version."""
    for word, pattern, what in ((name, names.PLUGIN, "name"), (version, names.VERSION, "version")):
        if word is not None and re.fullmatch(pattern, word) is None:
            raise CannotSign(f"{word!r} cannot be a plugin's {what} in a catalogue")


class _Anybody(Trust):
    """Trusts everybody: on the machine that builds a plugin its files are known."""

    def check(self, status: os.stat_result, place: str, descriptor: int | None = None) -> None:
        """Passes."""


def sign(
    path: str, key: PrivateKey, name: str | None, version: str | None
) -> tuple[Statement, Path]:
    """Sign what is at ``path`` and write the signature beside it; returns both.

    Raises:
        PluginRefused: it is nothing that could be signed.
        CannotSign: the name or version can be none, or the signature cannot be written.
    """
    check_words(name, version)
    target = os.path.abspath(path)  # noqa: PTH100 - drops the slash at the end
    trust = _Anybody(f"the plugin {path}", frozenset())
    with trust.open(target) as opened:
        content = content_of(opened, trust)
    statement = Statement(content.digest, key_id(key.public), name, version, content.files)
    written = signature.render(statement, key.sign(statement.payload()))
    place = Path(target + signature.SUFFIX)
    unfinished = place.with_name(place.name + ".new")
    try:
        unfinished.write_bytes(written)
        unfinished.replace(place)
    except OSError as error:
        raise CannotSign(f"cannot write {place}: {error.strerror}") from None
    return statement, place
