"""The types of who may come in: how clients say who they are, and what they may do."""

from typing import Annotated, Literal

from msgspec import Meta

from prism.config.fields import Block, PathText, Seconds, Who


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
            extra={"private": True},
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
