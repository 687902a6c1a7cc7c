"""Ed25519 keys: made, written, read, and used to sign and to check.

Everything here needs ``cryptography``, which is an extra: a proxy that checks no
signatures runs without it.
"""

import base64
import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from prism.config.verification import PREFIX, is_weak
from prism.contract.errors import PrismError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_KEY_FILE = 16 * 1024
INSTALL = "pip install 'prism-proxy[signatures]'"


class LibraryMissing(PrismError):
    """``cryptography`` is not installed."""

    def __init__(self) -> None:
        super().__init__(f"signatures need the cryptography library; install it: {INSTALL}")


class KeyFileError(PrismError):
    """A private key cannot be written or read; says why."""


def public_text(public: bytes) -> str:
    """A public key as the configuration has it."""
    return PREFIX + base64.b64encode(public).decode()


def key_id(public: bytes) -> str:
    """The name of a key in signatures: the first 8 bytes of its SHA-256, in hex."""
    return hashlib.sha256(public).hexdigest()[:16]


def is_signed_by(public: bytes, signature: bytes, payload: bytes) -> bool:
    """Did this key make this signature of this payload?

    Raises:
        LibraryMissing: it cannot be checked here.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise LibraryMissing from None
    if is_weak(public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, payload)
    except (InvalidSignature, ValueError):  # ValueError: these bytes are no key
        return False
    return True


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


def generate(path: Path) -> PrivateKey:
    """Make a key and write it to ``path``, which must not exist, readable by its owner only.

    Raises:
        KeyFileError: it cannot be written; an existing file is never replaced.
        LibraryMissing: no key can be made here.
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise LibraryMissing from None
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
        raise KeyFileError(f"{path} exists; it was left as it is. Choose another name") from None
    except OSError as error:
        raise KeyFileError(f"cannot write {path}: {error.strerror}") from None
    return PrivateKey(key)


def load(path: Path) -> PrivateKey:
    """Read a private key: PKCS #8 in PEM, not encrypted, as ``generate`` and openssl write it.

    Raises:
        KeyFileError: it cannot be read, others could read it too, or it is no such key.
        LibraryMissing: no key can be used here.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        raise LibraryMissing from None
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_KEY_FILE)
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyFileError(
            f"{path} is open to others (mode {stat.S_IMODE(mode):04o}); "
            f"if it has always been yours alone: chmod 0600 {path}"
        )
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(
            f"{path} is no Ed25519 private key without a password; make one: prism plugin keygen"
        )
    return PrivateKey(key)
