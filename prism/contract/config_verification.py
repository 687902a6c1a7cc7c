"""The configuration of plugin verification: whose code may run (docs/plugin-verification.md)."""

from typing import Annotated, Literal

from msgspec import Meta

from prism.contract.config_base import Block, Name

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
