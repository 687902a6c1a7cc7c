"""The configuration of plugin verification: whose code may run (docs/plugin-verification.md)."""

import base64
from typing import Annotated, Literal

from msgspec import Meta

from prism.config.base import Block, Name

SignaturePolicy = Literal["require", "allow_missing"]

Digest = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)", extra={"form": "64 lower-case hex digits"})
]
PublicKey = Annotated[
    str,
    Meta(
        pattern=r"^ed25519:[A-Za-z0-9+/]{43}=$(?!\n)",
        extra={"form": '"ed25519:" and 44 characters, as `prism plugin keygen` prints it'},
    ),
]
Day = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])$(?!\n)",
        extra={"form": 'a day such as "2030-12-31", in quotes'},
    ),
]
Revoked = Annotated[
    str,
    Meta(
        pattern=r"^(?:[0-9a-f]{16}|[0-9a-f]{64})$(?!\n)",
        extra={"form": "a key's id (16 hex digits) or a plugin's digest (64)"},
    ),
]


PREFIX = "ed25519:"
WEAK = frozenset(
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


class TrustedKey(Block, frozen=True, kw_only=True):
    """A key whose signatures are accepted."""

    name: Annotated[Name, Meta(description="Whose key it is, for messages.")]
    key: Annotated[
        PublicKey,
        Meta(
            description="The public key.",
            examples=["ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="],
        ),
    ]
    expires: Annotated[
        Day | None, Meta(description="Last day (UTC) on which its signatures are accepted.")
    ] = None


class VerificationConfig(Block, frozen=True):
    """Whose code may run as a plugin. Owner and permissions are always checked."""

    policy: Annotated[
        SignaturePolicy,
        Meta(
            description="Whether a plugin that Prism starts must be signed. A signature that is "
            "there is checked under either, once there are `trusted_keys`."
        ),
    ] = "allow_missing"
    trusted_keys: Annotated[
        list[TrustedKey], Meta(description="Keys whose signatures are accepted.")
    ] = []
    revoked: Annotated[
        list[Revoked],
        Meta(
            description="Ids of keys, and digests of plugins, that are refused whatever else holds."
        ),
    ] = []
    trusted_owners: Annotated[
        list[Annotated[str, Meta(min_length=1)]],
        Meta(
            description="Users (names, or numbers in quotes) who may own plugins and the "
            "directories above them, beside root and the user that runs the proxy.",
            examples=[["deploy"]],
        ),
    ] = []


def public_bytes(text: str) -> bytes:
    """The 32 bytes of a public key as the configuration has it (its pattern was checked)."""
    return base64.b64decode(text.removeprefix(PREFIX))


def is_weak(public: bytes) -> bool:
    """Is it a point for which anybody could sign, such as 32 zeros?"""
    return public[:-1] + bytes([public[-1] & 0x7F]) in WEAK
