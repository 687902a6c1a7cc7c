"""What the configuration's types are made of: the base of all blocks, and the scalars.

Beside msgspec's constraints, ``Meta.extra`` carries what msgspec does not know:

- ``private``: values below may be secret and are never shown in a message;
- ``path``: a file-system path; a relative one starts at the configuration file;
- ``read``: a file at that path is read, and never written (in the ``config:`` of plugins);
- ``form``: the words for a ``pattern``;
- ``types``: the plugin types that the key belongs to;
- ``needs``: keys of which one must be there for this one to mean anything.

Patterns end in ``$(?!\\n)`` because Python's ``$`` lets a last newline pass, and
JSON Schema's dialect knows no ``\\Z``.
"""

import base64
from typing import Annotated

import msgspec
from msgspec import Meta

from prism.contract import names


def _form(pattern: str, words: str) -> Meta:
    """Text of which ``pattern`` holds for the whole, and the words for that."""
    return Meta(pattern=rf"^{pattern}$(?!\n)", extra={"form": words})


Name = Annotated[str, _form(names.NAMESPACE, names.NAMESPACE_FORM)]
OperationName = Annotated[str, _form(names.OPERATION, names.OPERATION_FORM)]
ResultPath = Annotated[
    str,
    _form(
        r"(?:\$[.]?)?(?:\*{1,2}|[^.\[\]*]+|\[(?:\*|[0-9]{1,9})\])"
        r"(?:\.(?:\*{1,2}|[^.\[\]*]+)|\[(?:\*|[0-9]{1,9})\])*",
        "a path such as items[*].updated_at",
    ),
]
Version = Annotated[str, _form(names.VERSION, 'a version such as "v1.2"')]
Origin = Annotated[
    str,
    _form(
        r"(?:null|[A-Za-z][A-Za-z0-9+.-]*://[^/?#@*\s]+)",
        'scheme and host, as in "https://app.example.com", and no path',
    ),
]
HttpOrigin = Annotated[
    str,
    _form(
        r"https?://(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?",
        'scheme, host and port, as in "https://api.example.com", and no path',
    ),
]
Network = Annotated[
    str,
    _form(
        r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:/[0-9]{1,2})?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:/[0-9]{1,3})?)",
        'an IP address or network, such as "10.0.0.0/8"',
    ),
]
PythonClass = Annotated[
    str,
    _form(
        r"[A-Za-z_](?:[A-Za-z0-9_.]|\{version\})*:[A-Za-z_][A-Za-z0-9_]*",
        '"package.module:Class"',
    ),
]
Digest = Annotated[str, _form("[0-9a-f]{64}", "64 lower-case hex digits")]
PublicKey = Annotated[
    str,
    _form(
        "ed25519:[A-Za-z0-9+/]{43}=",
        '"ed25519:" and 44 characters, as `prism plugin keygen` prints it',
    ),
]
Revoked = Annotated[
    str,
    _form("(?:[0-9a-f]{16}|[0-9a-f]{64})", "a key's id (16 hex digits) or a plugin's digest (64)"),
]
Day = Annotated[
    str,
    _form(
        "[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])",
        'a day such as "2030-12-31", in quotes',
    ),
]
Who = Annotated[
    str,
    _form(
        r"(?:\*|[^\s*](?:[^*\r\n]{0,254}[^\s*])?\*?)",
        'a principal, one that ends in "*", "group:NAME", "scope:NAME", or "*" for all',
    ),
]
PERCENTILE_FORM = 'a percentile such as "p95", from p50 to p99.9'
Percentile = Annotated[str, _form(r"p(?:[5-8][0-9]|9[0-9](?:\.[0-9])?)", PERCENTILE_FORM)]
Text = Annotated[str, Meta(min_length=1)]
SecretName = Annotated[
    str,
    _form(names.SECRET, 'a name of letters, digits, ".", "_" and "-", such as "orders_password"'),
]
VaultPath = Annotated[
    str,
    _form(
        r"(?!\.{1,2}(?:/|$))[^/\s?#%]+(?:/(?!\.{1,2}(?:/|$))[^/\s?#%]+)*",
        'a path such as "prod/orders", without "/" at its ends',
    ),
]
Size = Annotated[
    str, _form("[1-9][0-9]{0,9}(?:KiB|MiB|GiB)", 'a size such as "256MiB" (KiB, MiB or GiB)')
]
PathText = Annotated[str, Meta(min_length=1, extra={"path": True})]
Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=1024, le=1024 * 1024 * 1024)]
# To a day: longer waits are mistakes of unit (milliseconds for seconds). From a millisecond:
# nothing is kept to more exactly, and what is computed of far less overflows.
Seconds = Annotated[float, Meta(ge=0.001, le=86_400)]

MIB = 1024 * 1024


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all blocks: frozen, unknown keys refused."""


PUBLIC_KEY_PREFIX = "ed25519:"
WEAK_KEYS = frozenset(
    bytes.fromhex(point)
    for point in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)
"""The points of small order, their last bit 0, in every encoding: for such a "key", which
no private key belongs to, anybody can make signatures that pass the check of RFC 8032."""


def public_bytes(text: str) -> bytes:
    """The 32 bytes of a public key as the configuration has it (its pattern was checked)."""
    return base64.b64decode(text.removeprefix(PUBLIC_KEY_PREFIX))


def is_weak(public: bytes) -> bool:
    """Is it a point for which anybody could sign, such as 32 zeros?"""
    return public[:-1] + bytes([public[-1] & 0x7F]) in WEAK_KEYS
