"""The configuration's types: one frozen Struct for each block of the file.

They are the one source of truth: the loader's checks and messages, the JSON
Schema and the reference page are all generated from the annotations here.
What concerns several keys is in ``prism.config.rules``: a new section is a type
here, and a function there.
"""

import math
from typing import Annotated, Any, Literal

from msgspec import Meta

from prism.config.fields import (
    MIB,
    Block,
    Bytes,
    Count,
    Day,
    Name,
    Network,
    OperationName,
    Origin,
    PathText,
    Percentile,
    Port,
    PublicKey,
    ResultPath,
    Revoked,
    Seconds,
    SecretName,
    Text,
    VaultPath,
    Who,
)
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

__all__ = [
    "APIKeysConfig",
    "AccessLogConfig",
    "AccessRule",
    "AdminConfig",
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


class ListenerTLS(Block, frozen=True):
    """TLS towards clients. The files are PEM."""

    cert: Annotated[PathText, Meta(description="The certificate chain, the server's own first.")]
    key: Annotated[PathText, Meta(description="The private key of the certificate.")]
    client_ca: Annotated[
        PathText | None,
        Meta(
            description="Authorities for client certificates; given, clients must present one "
            "(but see `listen.client_certificates`)."
        ),
    ] = None
    client_crl: Annotated[
        PathText | None,
        Meta(
            description="Revocation lists of `client_ca`, one for each authority in it. While one "
            "is out of date, none of that authority's certificates is accepted."
        ),
    ] = None


class ListenLimits(Block, frozen=True):
    """What clients may use of the proxy before they are refused, or must wait."""

    max_connections: Annotated[Count, Meta(description="Open connections, all clients.")] = 4096
    max_connections_per_peer: Annotated[
        Count, Meta(description="Open connections from one IP address.")
    ] = 1024
    max_concurrent_streams: Annotated[
        Count, Meta(description="Requests at a time on one HTTP/2 connection.")
    ] = 128
    max_concurrent_handshakes: Annotated[
        Count, Meta(description="TLS handshakes at a time; more wait for their turn.")
    ] = 32
    request_memory_bytes: Annotated[
        Bytes,
        Meta(
            description="What all requests may take at a time, from their first bytes to their "
            "answer; one that does not fit is answered 503 (`memory_full`)."
        ),
    ] = 128 * MIB
    request_memory_bytes_per_connection: Annotated[
        Bytes, Meta(description="Of these, the requests of one connection.")
    ] = 32 * MIB
    answer_memory_bytes: Annotated[
        Bytes,
        Meta(
            description="What answers, and messages of streams, may take that their clients have "
            "not taken yet; one that does not fit is replaced by 503 (`answer_dropped`)."
        ),
    ] = 128 * MIB
    answer_memory_bytes_per_connection: Annotated[
        Bytes,
        Meta(
            description="Of these, the answers of one connection, and as much again the messages "
            "that plugins have for its streams."
        ),
    ] = 32 * MIB
    max_connection_age_seconds: Annotated[
        Seconds | None,
        Meta(
            description="After this time, give or take a tenth, a connection is closed gracefully, "
            "so that its client must present its certificate anew. Without it, never."
        ),
    ] = None


class TrustedProxiesConfig(Block, frozen=True, kw_only=True):
    """Reverse proxies and load balancers before this port, which say who has asked them."""

    networks: Annotated[
        list[Network],
        Meta(
            description="Their addresses. What anybody else says is not believed.",
            examples=[["10.0.0.0/8", "2001:db8::7/128"]],
        ),
    ]
    header: Annotated[
        Literal["x-forwarded-for", "forwarded"],
        Meta(
            description="The header to which each of them adds the address that it was asked from. "
            "The other one is not looked at, since clients may write it."
        ),
    ] = "x-forwarded-for"
    proxy_protocol: Annotated[
        bool,
        Meta(
            description="Whether they begin each connection with a PROXY header, version 1 or 2, "
            "before TLS. Theirs without one are then closed, and nobody else may send one."
        ),
    ] = False


class ListenConfig(Block, frozen=True):
    """Where clients connect."""

    address: Annotated[
        str,
        Meta(
            description="IP address to listen on. One that is not loopback needs "
            "`authentication` and `tls`, or `insecure: true`.",
            examples=["127.0.0.1", "::1"],
        ),
    ] = "127.0.0.1"
    port: Annotated[Port, Meta(description="TCP port; 0 picks a free one.")] = 50051
    server: Annotated[
        Literal["prism", "hypercorn"],
        Meta(
            description="Which HTTP server serves the data port: Prism's own, or hypercorn. The "
            "admin port always has Prism's own."
        ),
    ] = "prism"
    tls: Annotated[ListenerTLS | None, Meta(description="Serve TLS; without it, plain text.")] = (
        None
    )
    client_certificates: Annotated[
        Literal["none", "optional", "required"] | None,
        Meta(
            description="Whether clients must, may, or need not present a certificate of "
            "`tls.client_ca`; without it `required` where there is one."
        ),
    ] = None
    trusted_proxies: Annotated[
        TrustedProxiesConfig | None,
        Meta(
            description="Proxies before this port: the log and the limits for each client address "
            "then go by whom they name."
        ),
    ] = None
    web_origins: Annotated[
        list[Origin],
        Meta(
            description="Origins of web pages that may call here (CORS) and open WebSockets, "
            "beside pages of the same host and port. Clients that are no browsers need none.",
            examples=[["https://app.example.com"]],
        ),
    ] = []
    limits: Annotated[ListenLimits, Meta(description="Limits for clients.")] = ListenLimits()


class AdminTokenConfig(Block, frozen=True, kw_only=True):
    """A bearer token of somebody, or something, that asks the admin port."""

    name: Annotated[
        Name, Meta(description="Whose it is: the log names it.", examples=["prometheus"])
    ]
    file: Annotated[
        PathText, Meta(description="File with the token, at least 16 characters, one line.")
    ]
    may: Annotated[
        Literal["read", "change"],
        Meta(description="`read`: all that changes nothing, `/metrics` too. `change`: everything."),
    ] = "read"


class AdminConfig(Block, frozen=True):
    """The operator's port: the admin API, `/metrics`, `/healthz`, `/readyz` (docs/admin.md)."""

    enabled: Annotated[bool, Meta(description="Whether to open the port at all.")] = True
    address: Annotated[
        str,
        Meta(
            description="IP address to listen on, or `unix:` and the absolute path of a socket "
            "that this user and root may use. An address that is not loopback needs a "
            "token, and `tls` or `insecure: true`.",
            examples=["127.0.0.1", "unix:/run/prism/admin.sock"],
        ),
    ] = "127.0.0.1"
    port: Annotated[
        Port, Meta(description="TCP port; 0 picks a free one. A Unix socket has none.")
    ] = 50052
    tls: Annotated[ListenerTLS | None, Meta(description="Serve TLS; without it, plain text.")] = (
        None
    )
    token_file: Annotated[
        PathText | None,
        Meta(
            description="File with a token that may do everything, at least 16 characters, one "
            "line. The log calls who shows it `token`; `tokens` have names."
        ),
    ] = None
    tokens: Annotated[
        list[AdminTokenConfig],
        Meta(description="Tokens with names: one for each operator, one for Prometheus."),
    ] = []
    without_token: Annotated[
        Literal["probe", "read", "change"] | None,
        Meta(
            description="What is open over TCP to who shows no token: the probes, all that "
            "changes nothing, or everything. Without it: `probe` where there is a token, "
            "else `read`."
        ),
    ] = None

    @property
    def has_tokens(self) -> bool:
        """Whether somebody can show a token."""
        return self.token_file is not None or bool(self.tokens)


class APIKeysConfig(Block, frozen=True):
    """Keys that `prism key create` makes."""

    file: Annotated[
        PathText,
        Meta(description="The file of keys, which holds hashes alone; read again as it changes."),
    ]


class JWTIssuerConfig(Block, frozen=True, kw_only=True):
    """Bearer tokens of one issuer: JWTs that it signs with keys it publishes."""

    issuer: Annotated[
        str,
        Meta(
            description="The `iss` of its tokens, exactly.",
            min_length=1,
            examples=["https://idp.example.com"],
        ),
    ]
    audience: Annotated[str, Meta(description="What their `aud` must have.", min_length=1)]
    jwks_url: Annotated[
        str | None,
        Meta(
            description="Where its keys are: `https`, or `http` on loopback. Without it, where "
            "`/.well-known/openid-configuration` below `issuer` says.",
            examples=["https://idp.example.com/keys"],
        ),
    ] = None
    ca_cert: Annotated[
        PathText | None, Meta(description="Authorities for these; without it the system's.")
    ] = None
    algorithms: Annotated[
        list[
            Literal[
                "RS256",
                "RS384",
                "RS512",
                "PS256",
                "PS384",
                "PS512",
                "ES256",
                "ES384",
                "ES512",
                "EdDSA",
                "Ed25519",
            ]
        ],
        Meta(
            description="The algorithms that it signs with.",
            min_length=1,
            examples=[["RS256", "ES256"]],
        ),
    ]
    principal_claim: Annotated[
        str, Meta(description="The claim that names the principal.", min_length=1)
    ] = "sub"
    groups_claim: Annotated[
        str,
        Meta(
            description="The claim with its groups, or a path to it, as `realm_access.roles`.",
            min_length=1,
        ),
    ] = "groups"
    prefix: Annotated[
        str,
        Meta(
            description="Put before the names of its principals and groups, so that they are never "
            "taken for those of another source.",
            examples=["idp:"],
        ),
    ] = ""
    leeway_seconds: Annotated[
        float, Meta(ge=0, le=60, description="By which its clock may differ from this one's.")
    ] = 30.0
    max_lifetime_seconds: Annotated[
        Seconds, Meta(description="A token that is good for longer than this is refused.")
    ] = 86_400.0
    refresh_seconds: Annotated[
        Seconds, Meta(description="After which its keys are fetched again.")
    ] = 300.0
    keys_max_age_seconds: Annotated[
        Seconds,
        Meta(
            description="For which its keys are used while no newer ones can be fetched; after "
            "that its tokens are answered 503."
        ),
    ] = 86_400.0


class IntrospectionConfig(Block, frozen=True, kw_only=True):
    """Opaque bearer tokens: the server that issues them is asked about each (RFC 7662)."""

    url: Annotated[
        str,
        Meta(
            description="Where it is asked: `https`, or `http` on loopback.",
            examples=["https://idp.example.com/introspect"],
        ),
    ]
    client_id: Annotated[str, Meta(description="Who asks.", min_length=1, examples=["prism"])]
    client_secret: Annotated[
        str,
        Meta(
            description='Its secret; better `"{{ secret:name }}"`.',
            min_length=1,
            examples=["{{ secret:introspection }}"],
        ),
    ]
    ca_cert: Annotated[
        PathText | None, Meta(description="Authorities for `url`; without it the system's.")
    ] = None
    audience: Annotated[
        str | None, Meta(description="What `aud` must have; without it, it is not looked at.")
    ] = None
    principal_claim: Annotated[
        str, Meta(description="What names the principal.", min_length=1, examples=["username"])
    ] = "sub"
    groups_claim: Annotated[
        str, Meta(description="What has its groups, or a path to it.", min_length=1)
    ] = "groups"
    prefix: Annotated[
        str, Meta(description="Put before the names of its principals and groups.")
    ] = ""
    cache_seconds: Annotated[
        float,
        Meta(
            gt=0, le=3600, description="For which an answer holds: so long is a revoked one good."
        ),
    ] = 30.0


class CertificatePrincipal(Block, frozen=True):
    """Client certificates as credentials."""

    principal: Annotated[
        Literal["spiffe", "san_dns", "san_email", "common_name"],
        Meta(
            description="Which name of a certificate names the principal: its SPIFFE id, the DNS "
            "name or the email address among its alternative names, or its common name. It must "
            "have exactly one."
        ),
    ]


class AuthenticationConfig(Block, frozen=True):
    """How clients say who they are ([Security](security.md)). Absent: all are `anonymous`."""

    client_certificates: Annotated[
        CertificatePrincipal | None,
        Meta(description="Client certificates, of the authorities of `listen.tls.client_ca`."),
    ] = None
    jwt: Annotated[
        list[JWTIssuerConfig], Meta(description="Bearer tokens, of one or more issuers.")
    ] = []
    introspection: Annotated[
        IntrospectionConfig | None, Meta(description="Bearer tokens of other forms.")
    ] = None
    api_keys: Annotated[APIKeysConfig | None, Meta(description="API keys.")] = None


class AccessRule(Block, frozen=True):
    """Some callers, and what they may do."""

    who: Annotated[
        list[Who],
        Meta(
            description="Principals (`reports`, `spiffe://prod/web/*`), `group:NAME`, "
            "`scope:NAME`, or `*` for all who are authenticated.",
            min_length=1,
            examples=[["reports", "group:billing"]],
        ),
    ]
    permissions: Annotated[
        list[Literal["read", "write", "admin"]],
        Meta(
            description="The operations that they may call, by what the plugin declares of each; "
            "none includes another.",
            min_length=1,
        ),
    ]


class NamespaceAccess(Block, frozen=True):
    """Who may use a namespace. Nobody else may, once there is `authentication`."""

    owners: Annotated[list[Who], Meta(description="Who may do everything.")] = []
    allow: Annotated[list[AccessRule], Meta(description="Who may do what.")] = []
    mode: Annotated[
        Literal["enforce", "dry_run"],
        Meta(description="`dry_run` refuses nothing, and logs what would be refused."),
    ] = "enforce"


class AdaptiveLimit(Block, frozen=True):
    """A limit that follows how long calls take."""

    min: Annotated[Count, Meta(description="Never fewer calls at a time than these.")] = 4
    max: Annotated[Count | None, Meta(description="Never more; without it `max_in_flight`.")] = None


class RateLimitConfig(Block, frozen=True, kw_only=True):
    """How many calls may come: a steady rate, and a burst on top ([Resilience](resilience.md))."""

    calls_per_second: Annotated[
        float,
        Meta(
            gt=0,
            le=1_000_000,
            description="The rate at which what was used comes back; below 1 for less than one a "
            "second.",
            examples=[100, 0.5],
        ),
    ]
    burst: Annotated[
        Count | None,
        Meta(
            description="What may be used at once. Without it what comes back in one second, at "
            "least 1.",
            examples=[200],
        ),
    ] = None
    per: Annotated[
        Literal["namespace", "principal", "operation", "client"],
        Meta(
            description="Who has such a budget: the namespace as a whole, or each principal, "
            "operation or client address (of IPv6, each /64) in it."
        ),
    ] = "namespace"
    operations: Annotated[
        list[OperationName],
        Meta(
            description="The operations that are limited; without it all.",
            examples=[["get", "scan"]],
        ),
    ] = []
    costs: Annotated[
        dict[OperationName, Annotated[int, Meta(ge=0, le=1_000_000)]],
        Meta(
            description="What a call of an operation uses, before what the plugin declares of it; "
            "else 1. With 0 it is not limited.",
            examples=[{"scan": 10, "exists": 0}],
        ),
    ] = {}
    when_store_is_down: Annotated[
        Literal["local", "deny", "allow"] | None,
        Meta(
            description="With a `limits_store` that cannot be asked: each proxy limits by itself "
            "(`local`, so without this key), calls are answered 503, or let pass."
        ),
    ] = None

    @property
    def most_at_once(self) -> int:
        """The burst, also where it is not written."""
        return max(1, math.ceil(self.calls_per_second)) if self.burst is None else self.burst


class NamespaceLimits(Block, frozen=True):
    """What one namespace's callers may use."""

    max_payload_bytes: Annotated[Bytes, Meta(description="Largest request body.")] = MIB
    request_memory_bytes: Annotated[
        Bytes | None,
        Meta(
            description="What its requests may take of `listen.limits.request_memory_bytes`. "
            "Without it, half."
        ),
    ] = None
    answer_memory_bytes: Annotated[
        Bytes | None,
        Meta(
            description="What its answers may take of `listen.limits.answer_memory_bytes`. "
            "Without it, half."
        ),
    ] = None
    max_in_flight: Annotated[
        Count,
        Meta(description="Calls at a time; one more is answered 429, or waits (`max_queued`)."),
    ] = 1024
    max_queued: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Calls that wait for a place, the earliest deadline first; one more, or "
            "one that would wait beyond its deadline, is answered 429.",
        ),
    ] = 0
    fair_shares: Annotated[
        bool,
        Meta(
            description="Whether principals share the places, and the queue, equally where there "
            "are too few."
        ),
    ] = False
    adaptive: Annotated[
        AdaptiveLimit | None,
        Meta(
            description="Have fewer calls than `max_in_flight` at a time while more would only "
            "wait for each other in the plugin; without it `max_in_flight` alone holds."
        ),
    ] = None
    max_streams: Annotated[
        Count, Meta(description="Open streams, beside the calls; one more is answered 429.")
    ] = 1024
    max_streams_per_client: Annotated[
        Count, Meta(description="Open streams of one client address.")
    ] = 256
    stream_idle_timeout_seconds: Annotated[
        Seconds, Meta(description="A stream ends when no message went either way for so long.")
    ] = 300.0
    max_waiting: Annotated[
        Count,
        Meta(description="Calls at a time that wait for a plugin to come back; one more is 503."),
    ] = 1024
    timeout_seconds: Annotated[
        Seconds, Meta(description="Deadline of a call whose caller names none.")
    ] = 30.0
    max_timeout_seconds: Annotated[
        Seconds, Meta(description="Longest deadline that a caller may ask for.")
    ] = 300.0
    rate: Annotated[
        RateLimitConfig | list[RateLimitConfig] | None,
        Meta(
            description="How many calls may come; one more is answered 429. Of several limits each "
            "call must pass all."
        ),
    ] = None

    @property
    def rates(self) -> list[RateLimitConfig]:
        """The rate limits, none or more."""
        if self.rate is None:
            return []
        return [self.rate] if isinstance(self.rate, RateLimitConfig) else self.rate


class RetriesConfig(Block, frozen=True):
    """Calls that failed are made again, where that is safe ([Retries](resilience.md#retries))."""

    attempts: Annotated[
        int,
        Meta(ge=2, le=10, description="How often a call is made at most, the first time included."),
    ] = 2
    budget: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="How many retries there may be for each call of the last seconds; "
            "one a second is allowed beside.",
        ),
    ] = 0.1


class HedgingConfig(Block, frozen=True):
    """Calls that take long are made a second time, and the first answer counts.

    Only where the plugin has declared the operation idempotent ([Hedging](resilience.md#hedging)).
    """

    after: Annotated[
        Percentile | Seconds,
        Meta(
            description="What is long: a number of seconds, or a percentile of what the "
            "operation's calls take, from `p50` to `p99.9`.",
            examples=["p95", 0.05],
        ),
    ] = "p95"
    budget: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="How many second attempts there may be for each call of the last seconds; "
            "one a second is allowed beside.",
        ),
    ] = 0.05


class CacheConfig(Block, frozen=True):
    """What a plugin may keep of its results."""

    operations: Annotated[
        list[OperationName],
        Meta(
            min_length=1,
            description="Operations whose results are kept. A plugin that cannot refuses to start; "
            "those on the SDK's keys and values can `get`, `mget` and `exists`.",
            examples=[["get"]],
        ),
    ]
    ttl_seconds: Annotated[
        Seconds,
        Meta(
            description="For how long a result is kept. What other proxies and programs write, and "
            "that a key expires, shows so much later at most.",
        ),
    ] = 30.0
    max_bytes: Annotated[
        Bytes, Meta(description="Of results in memory; those not used for longest go first.")
    ] = 64 * MIB
    write_through: Annotated[
        bool,
        Meta(
            description="Whether a write puts what it wrote into the cache (by reading it back), "
            "instead of only removing what was there."
        ),
    ] = False


Rate = Annotated[float, Meta(gt=0, le=1)]
"""A share of calls."""


class BreakerConfig(Block, frozen=True):
    """A circuit breaker: a plugin that fails, or is slow, gets no calls for a while."""

    error_rate: Annotated[
        Rate,
        Meta(
            description="It opens when so many of the calls failed: those that the plugin "
            "answered UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL or RESOURCE_EXHAUSTED, did not "
            "answer in time, or crashed under."
        ),
    ] = 0.5
    slow_seconds: Annotated[
        Seconds | None,
        Meta(description="From when on a call is slow; without it none is. Streams are not."),
    ] = None
    slow_rate: Annotated[
        Rate, Meta(description="It opens when so many of the calls were slow.")
    ] = 0.8
    window_seconds: Annotated[
        Seconds, Meta(description="The calls that count are those of so long.")
    ] = 10.0
    min_calls: Annotated[
        Count, Meta(description="It does not open for fewer calls within that time.")
    ] = 20
    open_seconds: Annotated[
        Seconds,
        Meta(
            description="How long it stays open, give or take a fifth; twice as long each time "
            "that it opens again before it was well, up to twelve times as long."
        ),
    ] = 5.0
    probes: Annotated[
        Count,
        Meta(
            description="Then calls are let through one after another; it closes when so many in "
            "a row were good, and opens again with the first that is not."
        ),
    ] = 3


class ShadowConfig(Block, frozen=True):
    """A second plugin, which gets copies of calls; its answers are compared, and go nowhere."""

    plugin: Annotated[
        PluginConfig | None,
        Meta(
            description="The plugin and how it runs, as a namespace's `plugin`: `version` alone is "
            "another version of the namespace's. Without it, the namespace's own."
        ),
    ] = None
    config: Annotated[
        dict[str, Any] | None,
        Meta(
            description="Its backend settings; without it, the namespace's `config`.",
            extra={"private": True},
        ),
    ] = None
    credentials: Annotated[
        dict[str, str] | None,
        Meta(
            description="Its secrets; without it, the namespace's `credentials`.",
            extra={"private": True},
        ),
    ] = None
    share: Annotated[
        float, Meta(ge=0, le=1, description="The share of calls that is copied, at random.")
    ] = 1.0
    operations: Annotated[
        list[OperationName],
        Meta(
            description="Further operations that are copied, beside those that the plugin declares "
            "as idempotent and reads. A write named here is carried out by the shadow, too.",
        ),
    ] = []
    ignore: Annotated[
        list[ResultPath],
        Meta(
            description="Parts of results that are not compared, since they differ each time: "
            "`*` is any key, `[*]` any index, `**` any number of steps.",
            examples=[["items[*].updated_at", "**.etag"]],
        ),
    ] = []
    values: Annotated[
        Literal["redact", "keep"],
        Meta(
            description="Whether the report shows values that differ, and all keys of objects, or "
            "only where and how they differ."
        ),
    ] = "redact"
    max_in_flight: Annotated[
        Count, Meta(description="Copies at a time; more calls are not copied, and counted.")
    ] = 64
    max_bytes: Annotated[
        Bytes, Meta(description="What the copies, and both answers to each, may take at a time.")
    ] = 16 * MIB


class RecordConfig(Block, frozen=True, kw_only=True):
    """A recording of calls, for `prism replay`."""

    file: Annotated[
        PathText,
        Meta(description="Where calls are added, as JSON lines; only this user may read it."),
    ]
    share: Annotated[
        float, Meta(ge=0, le=1, description="The share of calls that is recorded, at random.")
    ] = 1.0
    values: Annotated[
        Literal["redact", "keep"],
        Meta(
            description="`redact` keeps the types and lengths of params and results. `keep` keeps "
            "all that clients send and get, which a replay needs to compare results."
        ),
    ] = "redact"
    max_bytes: Annotated[
        Annotated[int, Meta(ge=MIB, le=1024 * 1024 * MIB)],
        Meta(description="Size from which a file is put aside under a name with the time in it."),
    ] = 64 * MIB
    keep_files: Annotated[
        Count, Meta(description="Files put aside that are kept; older ones are deleted.")
    ] = 4


class NamespaceConfig(Block, frozen=True):
    """One namespace: a name for clients, and the plugin behind it."""

    name: Annotated[Name, Meta(description="Unique; part of the URL.", examples=["user-profiles"])]
    backend: Annotated[
        Name,
        Meta(
            description="Kind of backend, told to the plugin. Without a `plugin` block it also "
            "names the plugin: a catalogue entry, or a built-in one (`sqlite`).",
            examples=["sqlite", "postgres"],
        ),
    ]
    description: Annotated[str, Meta(description="For people.")] = ""
    plugin: Annotated[PluginConfig, Meta(description="The plugin and how it runs.")] = (
        PluginConfig()
    )
    config: Annotated[
        dict[str, Any],
        Meta(
            description="Backend settings, handed to the plugin as they are. No secrets here.",
            extra={"private": True},
        ),
    ] = {}
    credentials: Annotated[
        dict[str, str],
        Meta(
            description="Secrets for the plugin. `{{ secret:name }}` in a value is replaced by "
            "[that secret](#secrets) when the plugin starts; when it changes, the plugin is "
            "reloaded.",
            examples=[{"password": "{{ secret:postgres_password }}"}],
            extra={"private": True},
        ),
    ] = {}
    cache: Annotated[
        CacheConfig | None, Meta(description="A cache in the plugin; without it there is none.")
    ] = None
    access: Annotated[
        NamespaceAccess | None,
        Meta(description="Who may use it, where there is `authentication`; without it nobody."),
    ] = None
    limits: Annotated[NamespaceLimits, Meta(description="Limits of this namespace.")] = (
        NamespaceLimits()
    )
    priority: Annotated[
        Literal["high", "normal", "low"],
        Meta(
            description="How important its calls are, with `shedding`: the low ones are refused "
            "first, the high ones last. A client may say `prism-priority: low` of its own."
        ),
    ] = "normal"
    breaker: Annotated[
        BreakerConfig | None,
        Meta(description="Its circuit breaker; without it there is none. `{}` takes the defaults."),
    ] = None
    retries: Annotated[
        RetriesConfig | None,
        Meta(
            description="Calls that failed are made again. Without it, once, and only if their "
            "plugin's process or connection is gone and that is safe."
        ),
    ] = None
    hedging: Annotated[
        HedgingConfig | None,
        Meta(description="Calls that take long are made a second time; without it never."),
    ] = None
    shadow: Annotated[
        ShadowConfig | None,
        Meta(description="A plugin that gets copies of its calls; without it there is none."),
    ] = None
    record: Annotated[
        RecordConfig | None,
        Meta(description="A recording of its calls; without it there is none."),
    ] = None
    while_unavailable: Annotated[
        Literal["wait", "fail"],
        Meta(
            description="What becomes of calls while the plugin restarts. `wait`: they wait, up to "
            "their deadline, until it has had its first new start; if that fails, they are "
            "answered 503 at once until it is back. `fail`: 503 at once."
        ),
    ] = "wait"
    required: Annotated[
        bool,
        Meta(
            description="Whether the proxy is ready (`/readyz`, gRPC's health of the whole) only "
            "with this namespace's plugin. With `false` its failure takes no other namespace off "
            "a load balancer."
        ),
    ] = True


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
        ),
    ] = None
    role_id: Annotated[Text | None, Meta(description="The role to log in as with AppRole.")] = None
    secret_id: Annotated[
        Text | None,
        Meta(
            description='What goes with `role_id`; better `"{{ secret:name }}"`, as for `token`.',
            examples=["{{ secret:vault_secret_id }}"],
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


class SheddingConfig(Block, frozen=True):
    """When the proxy has more to do than it can: it refuses calls, the least important first."""

    loop_lag_seconds: Annotated[
        Seconds | None,
        Meta(
            description="How late its event loop may be, which is by how much longer every call "
            "takes; null: that is not looked at."
        ),
    ] = 0.2
    memory_bytes: Annotated[
        Annotated[int, Meta(ge=64 * MIB, le=1024 * 1024 * MIB)] | None,
        Meta(
            description="What the process may take of memory; calls are refused from nine tenths "
            "of it. Without it, nine tenths of what its control group may take, if that is limited."
        ),
    ] = None


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


class LimitsStoreConfig(Block, frozen=True, kw_only=True):
    """A Redis, or Valkey, by which several proxies share their rate limits."""

    url: Annotated[
        str,
        Meta(
            description="Where it is: `rediss://HOST:PORT/DATABASE`, or `redis://` in plain text.",
            examples=["rediss://limits.example.com:6379/0"],
        ),
    ]
    username: Annotated[
        Text | None,
        Meta(description="As whom; without it as `default`, where there is a password."),
    ] = None
    password: Annotated[
        Text | None,
        Meta(
            description='Its password; better `"{{ secret:name }}"`.',
            examples=["{{ secret:limits_password }}"],
        ),
    ] = None
    ca_cert: Annotated[
        PathText | None, Meta(description="Authorities for `url`; without it the system's.")
    ] = None
    timeout_seconds: Annotated[
        Annotated[float, Meta(gt=0, le=10)],
        Meta(
            description="For each answer; then it counts as down. A call waits for it twice as "
            "long at most."
        ),
    ] = 0.1


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
