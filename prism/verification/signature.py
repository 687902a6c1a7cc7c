"""Signatures of plugins: a small text file beside the plugin that says what was signed.

::

    prism plugin signature v1
    digest: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    name: orders
    version: v1.3
    key: 3cd9f5de02a46f3f
    signature: base64 of 64 bytes

What is signed (Ed25519, RFC 8032) is the text above the last line, exactly as it
stands; its first line separates these signatures from all others that the key
may make. ``name`` and ``version`` may be missing. For a package there is a line
``file: DIGEST NAME`` for each of its files, before ``key``, sorted by name.

There is one way to write a statement: what differs by a byte is no signature.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prism.config.fields import PUBLIC_KEY_PREFIX, is_weak
from prism.contract import names
from prism.verification.content import FILE, TREE, Digest

HEADER = "prism plugin signature v1"
SUFFIX = ".sig"
MAX_BYTES = 2 * 1024 * 1024
"""A signature file; the longest are those of packages of many files."""

_Match = Callable[[str], re.Match[str] | None]
_HEADER = re.compile(HEADER).fullmatch
_DIGEST = re.compile(rf"digest: ({FILE}|{TREE}):([0-9a-f]{{64}})").fullmatch
_NAME = re.compile(rf"name: ({names.PLUGIN})").fullmatch
_VERSION = re.compile(rf"version: ({names.VERSION})").fullmatch
_FILE = re.compile(r"file: ([0-9a-f]{64}) (.+)").fullmatch
_KEY = re.compile(r"key: ([0-9a-f]{16})").fullmatch
_SIGNATURE = re.compile(r"signature: ([A-Za-z0-9+/]{86}==)").fullmatch


# -- keys -----------------------------------------------------------------------------


def public_text(public: bytes) -> str:
    """A public key as the configuration has it."""
    return PUBLIC_KEY_PREFIX + base64.b64encode(public).decode()


def key_id(public: bytes) -> str:
    """The name of a key in signatures: the first 8 bytes of its SHA-256, in hex."""
    return hashlib.sha256(public).hexdigest()[:16]


def is_signed_by(public: bytes, signature: bytes, payload: bytes) -> bool:
    """Did this key make this signature of this payload? No bytes make it fail."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if is_weak(public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, payload)
    except (InvalidSignature, ValueError):  # ValueError: these bytes are no key
        return False
    return True


# -- statements -------------------------------------------------------------------------


class NotASignature(ValueError):
    """The bytes are no signature; the message says where, and what belongs there."""


@dataclass(frozen=True)
class Statement:
    """What a signature says: this content is this version of this plugin, says this key.

    ``files`` maps the names of a package's files to their SHA-256.
    """

    digest: Digest
    key: str
    name: str | None = None
    version: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def payload(self) -> bytes:
        """The bytes that are signed."""
        lines = [HEADER, f"digest: {self.digest}"]
        if self.name is not None:
            lines.append(f"name: {self.name}")
        if self.version is not None:
            lines.append(f"version: {self.version}")
        lines.extend(
            f"file: {self.files[name]} {name}" for name in sorted(self.files, key=str.encode)
        )
        lines.append(f"key: {self.key}")
        return ("\n".join(lines) + "\n").encode()


def render(statement: Statement, signature: bytes) -> bytes:
    """The signature file."""
    encoded = base64.b64encode(signature)
    return statement.payload() + b"signature: " + encoded + b"\n"


def parse(content: bytes) -> tuple[Statement, bytes]:
    """What a signature file says, and the 64 bytes by which it was signed.

    Nothing of it is to be believed before the signature of ``statement.payload()``
    has been checked; these are exactly the bytes that stood in the file.

    Raises:
        NotASignature: these bytes are none. They cause no other exception.
    """
    if len(content) > MAX_BYTES:
        raise NotASignature(f"it has more than {MAX_BYTES} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise NotASignature(f"byte {error.start + 1} is not UTF-8 text") from None
    lines = _Lines(text)
    lines.take(_HEADER, f'"{HEADER}"')
    kind, hexdigest = lines.take(_DIGEST, '"digest: sha256:" and 64 hex digits').groups()
    name = lines.match(_NAME)
    version = lines.match(_VERSION)
    files: dict[str, str] = {}
    while found := lines.match(_FILE):
        files[found[2]] = found[1]
    key = lines.take(_KEY, '"key: " and 16 hex digits')[1]
    encoded = lines.take(_SIGNATURE, '"signature: " and 88 characters of base64')[1]
    lines.end()
    statement = Statement(
        Digest(kind, hexdigest),
        key,
        name=name[1] if name else None,
        version=version[1] if version else None,
        files=files,
    )
    signature = base64.b64decode(encoded)
    # Files out of order or twice, and base64 with stray bits, read well and are not
    # the one way to write it.
    if render(statement, signature) != content:
        raise NotASignature("it is not written in the one way that a signature is")
    return statement, signature


class _Lines:
    """The lines of a text, taken one by one."""

    def __init__(self, text: str) -> None:
        # Not splitlines(), for which a line ends at a dozen characters.
        self._lines = text.split("\n")
        self._next = 0

    def match(self, pattern: _Match) -> re.Match[str] | None:
        """Take the next line if it fits."""
        found = pattern(self._lines[self._next]) if self._next < len(self._lines) else None
        self._next += found is not None
        return found

    def take(self, pattern: _Match, expected: str) -> re.Match[str]:
        """Take the next line, which must fit."""
        found = self.match(pattern)
        if found is None:
            where = f"line {self._next + 1}"
            raise NotASignature(f"{where} does not read {expected}")
        return found

    def end(self) -> None:
        """There must be no more lines, and the last one must have been a whole one."""
        if self._lines[self._next :] != [""]:
            raise NotASignature("its last line does not end it")
