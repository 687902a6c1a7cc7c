"""Who sends a request: one answer for every door, from what the request itself shows.

A credential is judged once, and its identity then found by the bytes of the header: a warm call
costs a look through its headers and into one table. Nothing here waits. What has to be fetched
or read is fetched and read by ``run``, beside the calls.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from prism.access.api_keys import APIKeys, is_api_key
from prism.access.identity import Identity
from prism.config.errors import ConfigError
from prism.config.sources import INTERVAL
from prism.config.types import AuthenticationConfig, JWTIssuerConfig, SecretsConfig
from prism.contract.errors import InvalidRequest, Unauthenticated
from prism.secrets import Secrets

if TYPE_CHECKING:
    from prism.access.certificates import NameKind
    from prism.access.introspection import Introspection
    from prism.access.tokens import Issuer

MAX_KNOWN = 10_000
"""Credentials that are remembered; the oldest half goes when there are more."""
KNOWN_SECONDS = 300.0
"""How long one is remembered at most, until it is judged again."""
REVIEW_SECONDS = 5.0
"""Between two looks at what is open, for credentials that have ended meanwhile."""
MAX_CREDENTIAL = 8192
"""Bytes of a credential: more is refused before it is looked at."""

log = logging.getLogger("prism.authentication")

Headers = list[tuple[bytes, bytes]]

_Known = dict[bytes, tuple[Identity, float, float]]
"""Whose each credential is, when that was found, and until when it holds, in Unix time. A clock
that was set back makes it no longer: it is judged anew then."""


class Authentication:
    """The ways for clients to say who they are. ``run`` keeps them up to date.

    ``changed`` is called when a credential that was good may not be any more.
    """

    def __init__(
        self,
        api_keys: APIKeys | None = None,
        jwt: Sequence[JWTIssuerConfig] = (),
        certificate_name: "NameKind | None" = None,
        introspection: "Introspection | None" = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._api_keys = api_keys
        self._issuers = _issuers(jwt, self.forget) if jwt else {}
        self._introspection = introspection
        self._clock = clock
        self._reloading = trio.Lock()
        self._certificate_name = certificate_name
        self.takes_tokens = api_keys is not None or bool(jwt) or introspection is not None
        self.takes_certificates = certificate_name is not None
        ways = {
            "authorization: Bearer, and a token": self.takes_tokens,
            "a client certificate": self.takes_certificates,
        }
        self._ways = ", or ".join(way for way, is_open in ways.items() if is_open)
        self._known: _Known = {}
        # Apart from the others: a certificate is no secret, and must not be found as a token.
        self._known_certificates: _Known = {}

    @classmethod
    def from_config(
        cls, config: AuthenticationConfig, places: SecretsConfig, secrets: Secrets
    ) -> "Authentication":
        """As configured; blocks. ``secrets`` reads what is named, at ``places``.

        Raises ConfigError if a file cannot be used.
        """
        keys = APIKeys(Path(config.api_keys.file)) if config.api_keys is not None else None
        certificates = config.client_certificates
        name = certificates.principal if certificates is not None else None
        return cls(keys, config.jwt, name, _introspection(config, places, secrets))

    def identify(self, headers: Headers, certificate: bytes | None = None) -> Identity:
        """Who sends a request with these headers, on a connection with this client certificate
        (DER). What is in the headers goes first, and alone: a connection may carry the requests
        of many.

        Raises:
            Unauthenticated: it does not say, or wrongly.
            InvalidRequest: it says so twice.
            KeysAwaited: whether it says so rightly is known in a moment.
            AuthenticationUnavailable: whether it says so rightly cannot be known now.
        """
        authorization = None
        for name, value in headers:
            if name == b"authorization":
                if authorization is not None:
                    raise InvalidRequest("the request has more than one authorization header")
                authorization = value
        if authorization is None:
            if certificate is not None and self._certificate_name is not None:
                return self._identify_certificate(certificate, self._certificate_name)
            raise Unauthenticated(f"say who you are: {self._ways}")
        known = self._known.get(authorization)
        now = self._clock()
        if known is not None and known[1] <= now < known[2]:
            return known[0]
        identity = self._judge(authorization, now)
        if b"  " not in authorization:  # else each padding would be one more to be remembered
            _remember(self._known, authorization, identity, now)
        return identity

    def _identify_certificate(self, certificate: bytes, kind: "NameKind") -> Identity:
        known = self._known_certificates.get(certificate)
        now = self._clock()
        if known is not None and known[1] <= now < known[2]:
            return known[0]
        from prism.access.certificates import identify_certificate

        identity = identify_certificate(certificate, kind, now)
        _remember(self._known_certificates, certificate, identity, now)
        return identity

    def _judge(self, authorization: bytes, now: float) -> Identity:
        scheme, _, credential = authorization.partition(b" ")
        is_bearer = scheme.lower() == b"bearer"
        if not self.takes_tokens:
            why = f"no token is taken here; say who you are: {self._ways}"
            raise Unauthenticated(why, shown=is_bearer)
        credential = credential.strip(b" ")
        if not is_bearer or not credential:
            raise Unauthenticated("the authorization header must be: Bearer, and a token")
        if len(credential) > MAX_CREDENTIAL:
            raise Unauthenticated(f"a token has at most {MAX_CREDENTIAL} bytes", shown=True)
        if self._api_keys is not None and is_api_key(credential):
            identity = self._api_keys.identify(credential, now)
            if identity is None:
                raise Unauthenticated(
                    "this API key is not good: it is unknown, revoked, or has expired", shown=True
                )
            return identity
        if self._introspection is None and is_api_key(credential):
            why = "no API keys are taken here (authentication.api_keys)"
            raise Unauthenticated(why, shown=True)
        if self._issuers and (self._introspection is None or _is_from(credential, self._issuers)):
            return _judge_token(credential, self._issuers, now)
        if self._introspection is not None:
            return self._introspection.find(credential)
        looks_like_jwt = credential.count(b".") == 2
        also = ", and no JWTs are taken here (authentication.jwt)" if looks_like_jwt else ""
        raise Unauthenticated(f"this is no API key{also}", shown=True)

    def is_good(self, identity: Identity) -> bool:
        """Would ``identity``, found before, be found again?"""
        now = self._clock()
        if identity.key and self._api_keys is not None:
            return self._api_keys.has(identity, now)
        if identity.token and self._introspection is not None:
            return self._introspection.is_good(identity)
        return now < identity.expires

    def forget(self) -> None:
        """Judge every credential anew."""
        self._known.clear()
        self.changed()

    # -- beside the calls --------------------------------------------------------

    async def run(self) -> None:
        """Keep up with what changes outside, until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._api_keys is not None:
                nursery.start_soon(self._watch_keys, self._api_keys)
            for issuer in self._issuers.values():
                nursery.start_soon(issuer.keys.run)
            if self._introspection is not None:
                nursery.start_soon(self._introspection.run)
            while True:
                await trio.sleep(REVIEW_SECONDS)
                self.changed()  # a credential may have ended

    async def reload(self) -> None:
        """Read the files again. What cannot be used is left as it was, and the log says why."""
        if self._api_keys is not None:
            await self._reload_keys(self._api_keys)

    async def _watch_keys(self, keys: APIKeys) -> None:
        while True:
            await trio.sleep(INTERVAL)
            if await trio.to_thread.run_sync(keys.is_changed, abandon_on_cancel=True):
                await self._reload_keys(keys)

    async def _reload_keys(self, keys: APIKeys) -> None:
        async with self._reloading:  # else what was read before a change could come after it
            try:
                entries = await trio.to_thread.run_sync(keys.read, abandon_on_cancel=True)
            except ConfigError as error:
                log.error("the API keys in use stay: %s", error)
                return
            log.info("the API keys are read anew from %s", keys.file)
            keys.use(entries)
            self.forget()


def _remember(known: _Known, credential: bytes, identity: Identity, now: float) -> None:
    if len(known) >= MAX_KNOWN:
        for old in list(islice(known, MAX_KNOWN // 2)):
            del known[old]
    known[credential] = identity, now, min(identity.expires, now + KNOWN_SECONDS)


def _issuers(
    configs: Sequence[JWTIssuerConfig], changed: Callable[[], None]
) -> "dict[str, Issuer]":
    # Imported here: it costs memory, which is for proxies that take tokens.
    from prism.access.issuer_keys import IssuerKeys
    from prism.access.tokens import Issuer

    return {config.issuer: Issuer(config, IssuerKeys(config, changed)) for config in configs}


def _introspection(
    config: AuthenticationConfig, places: SecretsConfig, secrets: Secrets
) -> "Introspection | None":
    if config.introspection is None:
        return None
    from prism.access.introspection import Introspection

    texts = {"client_secret": config.introspection.client_secret}
    credentials = secrets.credentials(texts, places)
    # It is called in a thread, since that is where the server is asked.
    return Introspection(
        config.introspection, lambda: trio.from_thread.run(credentials)["client_secret"]
    )


def _is_from(token: bytes, issuers: "Mapping[str, Issuer]") -> bool:
    from prism.access.tokens import is_from

    return is_from(token, issuers)


def _judge_token(token: bytes, issuers: "Mapping[str, Issuer]", now: float) -> Identity:
    from prism.access.tokens import judge_token

    return judge_token(token, issuers, now)
