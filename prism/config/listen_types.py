"""The types of what listens: for clients, and for operators."""

from typing import Annotated, Literal

from msgspec import Meta

from prism.config.fields import (
    MIB,
    Block,
    Bytes,
    Count,
    Name,
    Network,
    Origin,
    PathText,
    Port,
    Seconds,
    Who,
)


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
    refusals_per_second: Annotated[
        Count | None,
        Meta(
            description="Refused calls of one namespace that are answered at once, and a tenth of "
            "that in one moment. Who has more refused, by asking again and again, is answered up "
            "to a second later, so that refusing does not keep the proxy from everybody else's "
            "calls. `null`: all at once."
        ),
    ] = 1000
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


AdminRole = Annotated[
    Literal["read", "operate", "change"],
    Meta(
        description="`read`: all that changes nothing, `/metrics` too. `operate`: also what is "
        "done to a plugin or its breaker, such as a reload. `change`: everything, the "
        "configuration and the proxy's own end too."
    ),
]


class AdminTokenConfig(Block, frozen=True, kw_only=True):
    """A bearer token of somebody, or something, that asks the admin port."""

    name: Annotated[
        Name, Meta(description="Whose it is: the log names it.", examples=["prometheus"])
    ]
    file: Annotated[
        PathText, Meta(description="File with the token, at least 16 characters, one line.")
    ]
    may: AdminRole = "read"


class AdminRule(Block, frozen=True):
    """Some of those whom `authentication` knows, and what they may do at the admin port."""

    who: Annotated[
        list[Who],
        Meta(
            description="As in `access`: principals, `group:NAME`, `scope:NAME`, or `*`.",
            min_length=1,
            examples=[["group:platform"]],
        ),
    ]
    may: AdminRole = "read"


class AdminConfig(Block, frozen=True):
    """The operator's port: the admin API, `/metrics`, `/healthz`, `/readyz` (docs/admin.md)."""

    enabled: Annotated[bool, Meta(description="Whether to open the port at all.")] = True
    address: Annotated[
        str,
        Meta(
            description="IP address to listen on, or `unix:` and the absolute path of a socket "
            "that this user and root may use. An address that is not loopback needs "
            "operators who can show who they are, and `tls` or `insecure: true`.",
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
    allow: Annotated[
        list[AdminRule],
        Meta(
            description="Operators who show a credential of `authentication`: an API key, a token, "
            "or a certificate of `tls.client_ca`."
        ),
    ] = []
    without_token: Annotated[
        Literal["probe", "read", "change"] | None,
        Meta(
            description="What is open over TCP to who shows no token: the probes, all that "
            "changes nothing, or everything. Without it: `probe` where there are operators who can "
            "show who they are, else `read`."
        ),
    ] = None

    @property
    def knows_operators(self) -> bool:
        """Whether somebody can show who they are, over TCP."""
        return self.token_file is not None or bool(self.tokens) or bool(self.allow)
