"""The configuration's types: one frozen Struct for each block of the file.

They are the one source of truth: the loader's checks and messages, the JSON
Schema and the reference page are all generated from the annotations here.
What is large is in files of its own (``access_types``, ``listen_types``, ``namespace_types``,
``plugin_types``, ``resilience_types``), and imported from here. What concerns several keys is in
``prism.config.rules`` and ``plugin_rules``: a new section is a type here, and a function there.
"""

from typing import Annotated, Literal

from msgspec import Meta

from prism.config.access_types import (
    AccessRule,
    APIKeysConfig,
    AuthenticationConfig,
    CertificatePrincipal,
    IntrospectionConfig,
    JWTIssuerConfig,
    NamespaceAccess,
)
from prism.config.fields import (
    MIB,
    Block,
    Count,
    Day,
    Name,
    PathText,
    PublicKey,
    Revoked,
    Seconds,
    SecretName,
    Text,
    VaultPath,
)
from prism.config.isolation_types import IsolationConfig
from prism.config.listen_types import (
    AdminConfig,
    AdminRule,
    AdminTokenConfig,
    ListenConfig,
    ListenerTLS,
    ListenLimits,
)
from prism.config.namespace_types import CacheConfig, NamespaceConfig, NamespaceLimits
from prism.config.plugin_types import (
    CataloguePlugin,
    CatalogueVersion,
    ClientTLS,
    HealthConfig,
    Launch,
    PluginConfig,
    PluginForm,
    PluginType,
    RestartConfig,
    SignaturePolicy,
)
from prism.config.resilience_types import (
    BreakerConfig,
    HedgingConfig,
    LimitsStoreConfig,
    RateLimitConfig,
    RecordConfig,
    RetriesConfig,
    ShadowConfig,
    SheddingConfig,
)

__all__ = [
    "APIKeysConfig",
    "AccessLogConfig",
    "AccessRule",
    "AdminConfig",
    "AdminRule",
    "AdminTokenConfig",
    "AuditConfig",
    "AuthenticationConfig",
    "BreakerConfig",
    "CacheConfig",
    "CataloguePlugin",
    "CatalogueVersion",
    "CertificatePrincipal",
    "ClientTLS",
    "Config",
    "HealthConfig",
    "HedgingConfig",
    "IntrospectionConfig",
    "IsolationConfig",
    "JWTIssuerConfig",
    "Launch",
    "LimitsStoreConfig",
    "ListenConfig",
    "ListenLimits",
    "ListenerTLS",
    "LogConfig",
    "NamespaceAccess",
    "NamespaceConfig",
    "NamespaceLimits",
    "PluginConfig",
    "PluginForm",
    "PluginType",
    "RateLimitConfig",
    "RecordConfig",
    "RestartConfig",
    "RetriesConfig",
    "SecretsConfig",
    "ShadowConfig",
    "SheddingConfig",
    "SignaturePolicy",
    "TrustedKey",
    "VaultConfig",
    "VaultSecret",
    "VerificationConfig",
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


class VaultSecret(Block, frozen=True, kw_only=True):
    """One secret that Vault has; no other of Vault's can be named in this file."""

    name: Annotated[SecretName, Meta(description="What placeholders call it.")]
    path: Annotated[
        VaultPath, Meta(description="Where it is below `mount`.", examples=["prod/orders"])
    ]
    key: Annotated[
        str,
        Meta(description="Which of the values there.", min_length=1, examples=["password"]),
    ]


class VaultConfig(Block, frozen=True, kw_only=True):
    """HashiCorp Vault, or OpenBao: secrets of a KV engine, version 2.

    One of `token`, `role_id` and `kubernetes_role` says how Prism logs in.
    """

    address: Annotated[
        str,
        Meta(
            description="Where it is asked: `https`, or `http` on loopback.",
            examples=["https://vault.example.com:8200"],
        ),
    ]
    ca_cert: Annotated[
        PathText | None, Meta(description="Authorities for `address`; without it the system's.")
    ] = None
    namespace: Annotated[
        Text | None, Meta(description="The namespace within Vault, if it has any.")
    ] = None
    mount: Annotated[VaultPath, Meta(description="Where the KV engine is mounted.")] = "secret"
    token: Annotated[
        Text | None,
        Meta(
            description='A token; better `"{{ secret:name }}"`, of a file or the environment.',
            examples=["{{ secret:vault_token }}"],
            extra={"private": True},
        ),
    ] = None
    role_id: Annotated[Text | None, Meta(description="The role to log in as with AppRole.")] = None
    secret_id: Annotated[
        Text | None,
        Meta(
            description='What goes with `role_id`; better `"{{ secret:name }}"`, as for `token`.',
            examples=["{{ secret:vault_secret_id }}"],
            extra={"private": True},
        ),
    ] = None
    kubernetes_role: Annotated[
        Text | None,
        Meta(description="The role to log in as with the pod's service account."),
    ] = None
    kubernetes_token_file: Annotated[
        PathText, Meta(description="The token of that service account.")
    ] = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a file
    auth_mount: Annotated[
        VaultPath | None,
        Meta(description="Where that way to log in is mounted: `approle` or `kubernetes`."),
    ] = None
    timeout_seconds: Annotated[
        Seconds, Meta(description="For each answer, all in all; then Vault counts as down.")
    ] = 5.0
    refresh_seconds: Annotated[
        Seconds, Meta(description="How often Vault is asked whether a secret has changed.")
    ] = 60.0
    secrets: Annotated[
        list[VaultSecret], Meta(description="Which secrets come from it.", min_length=1)
    ]


class SecretsConfig(Block, frozen=True):
    """Where secrets come from: each from the one place that names it, which else is a file."""

    directory: Annotated[
        PathText, Meta(description="Directory with one file per secret, named like the secret.")
    ] = "/run/secrets"
    environment: Annotated[
        list[SecretName],
        Meta(
            description="Variables of the proxy's environment that are secrets, by the name that "
            "they have there. No other variable can be read.",
            examples=[["ORDERS_PASSWORD"]],
        ),
    ] = []
    vault: Annotated[VaultConfig | None, Meta(description="Secrets that HashiCorp Vault has.")] = (
        None
    )


class AccessLogConfig(Block, frozen=True):
    """The line of each request, on the logger `prism.access`."""

    requests: Annotated[
        Literal["all", "failed", "none"],
        Meta(
            description="Which requests have a line. Those that failed by no fault of their client "
            "are warnings, all others infos: with `level: warning` only those are seen."
        ),
    ] = "all"
    sample: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="The share of requests that did not fail which has a line, at random.",
        ),
    ] = 1.0


class LogConfig(Block, frozen=True):
    """What is logged, and how."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severity shown.")
    ] = "info"
    format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description="`auto` is console on a terminal and JSON lines elsewhere."),
    ] = "auto"
    access: Annotated[AccessLogConfig, Meta(description="Lines for requests.")] = AccessLogConfig()


class AuditConfig(Block, frozen=True, kw_only=True):
    """A record of every call, refused ones too, which shows if it was changed since."""

    file: Annotated[
        PathText,
        Meta(description="Where records are added, as JSON lines; or a device, as `/dev/stdout`."),
    ]
    when_it_fails: Annotated[
        Literal["fail_closed", "degrade"],
        Meta(
            description="While no record can be written, calls are refused with 503 "
            "(`audit_unavailable`); or let pass, and records that find no room are counted as lost."
        ),
    ] = "fail_closed"
    sync_seconds: Annotated[
        Seconds, Meta(description="Time after which a record is sealed, and on disk for good.")
    ] = 1.0
    rotate_bytes: Annotated[
        Annotated[int, Meta(ge=MIB, le=1024 * 1024 * MIB)],
        Meta(description="Size from which a file is put aside under a name with the time in it."),
    ] = 256 * MIB
    keep_files: Annotated[
        Count | None, Meta(description="Files put aside that are kept; without it, all of them.")
    ] = None


class Config(Block, frozen=True):
    """The whole file."""

    listen: Annotated[ListenConfig, Meta(description="Where clients connect.")] = ListenConfig()
    admin: Annotated[AdminConfig, Meta(description="The operator's port.")] = AdminConfig()
    authentication: Annotated[
        AuthenticationConfig | None, Meta(description="How clients say who they are.")
    ] = None
    namespaces: Annotated[list[NamespaceConfig], Meta(description="What clients can reach.")] = []
    plugins: Annotated[
        list[CataloguePlugin], Meta(description="The catalogue: plugins to refer to by name.")
    ] = []
    verification: Annotated[
        VerificationConfig, Meta(description="Whose code may run as a plugin.")
    ] = VerificationConfig()
    isolation: Annotated[
        IsolationConfig,
        Meta(description="What the processes of plugins may do, where a namespace does not say."),
    ] = IsolationConfig()
    secrets: Annotated[SecretsConfig, Meta(description="Where secrets come from.")] = (
        SecretsConfig()
    )
    log: Annotated[LogConfig, Meta(description="Logging.")] = LogConfig()
    audit: Annotated[AuditConfig | None, Meta(description="A record of every call.")] = None
    shedding: Annotated[
        SheddingConfig | None,
        Meta(
            description="Which calls are refused while there are too many; without it, none. "
            "`{}` takes the defaults."
        ),
    ] = None
    zone: Annotated[
        str,
        Meta(
            description="Where this proxy runs: calls go to endpoints of the same `zone` while "
            "enough of them are there.",
            examples=["eu-west-1a"],
        ),
    ] = ""
    limits_store: Annotated[
        LimitsStoreConfig | None,
        Meta(
            description="Where rate limits are counted for several proxies together; without it "
            "each counts by itself."
        ),
    ] = None
    drain_timeout_seconds: Annotated[
        Seconds,
        Meta(
            description="For open requests to end after SIGTERM. Longer than a call may take by "
            "default, or it would cut off those that had just begun."
        ),
    ] = 35.0
    handover_timeout_seconds: Annotated[
        Seconds, Meta(description="For a successor to get ready after SIGUSR2.")
    ] = 60.0
    insecure: Annotated[
        bool,
        Meta(
            description="Allow listening beyond loopback although clients are not "
            "authenticated, or in plain text."
        ),
    ] = False
