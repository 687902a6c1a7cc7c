"""Bearer tokens that are JWTs (RFC 7519, 8725, 9068).

Which issuer signed, with which algorithms, and where its keys are, is the configuration's to say
and never the token's: a header that brings a key, or says where one is, is refused. Of what is
in a token nothing is believed before its signature has been verified, but the issuer's name,
which chooses by whose keys that is done.
"""

import base64
import binascii
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

import msgspec

from prism.access.identity import Identity, unfit_name
from prism.access.issuer_keys import IssuerKeys
from prism.config.types import JWTIssuerConfig
from prism.contract.errors import Unauthenticated

TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""``typ`` of an access token, in lower case; one that has none is taken for one."""
REFUSED_HEADERS = ("jku", "jwk", "x5u", "crit", "b64", "zip")
MAX_GROUPS = 1000
"""Groups, and scopes, of one token."""
MAX_SHOWN, MAX_SHOWN_ITEMS = 100, 4
"""Characters of a text of a claim, and texts, that the log shows."""

_is_token = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*").fullmatch


class Issuer:
    """One issuer: judges its tokens."""

    def __init__(self, config: JWTIssuerConfig, keys: IssuerKeys) -> None:
        from joserfc.jws import JWSRegistry

        # RFC 9864 has other names for it, which issuers do not use yet.
        warnings.filterwarnings("ignore", "EdDSA is deprecated")
        self.keys = keys
        self._config = config
        self._registry = JWSRegistry(algorithms=config.algorithms, strict_check_header=False)
        self._registry.max_header_length = 4096  # a certificate may be in it, which is ignored

    def judge(self, token: bytes, header: Mapping[str, Any], now: float) -> Identity:
        """Who ``token``, whose header says ``header``, was issued to.

        Raises:
            Unauthenticated: it is not good.
            KeysAwaited: that can be said in a moment.
            AuthenticationUnavailable: that cannot be said.
        """
        claims = self._verified(token, header)
        expires = self._check_claims(claims, now)
        name = claims.get(self._config.principal_claim)
        if why := unfit_name(name):
            raise _refused(f"its {self._config.principal_claim} cannot name a principal: {why}")
        prefix = self._config.prefix
        groups = texts_of(find_claim(claims, self._config.groups_claim))
        return Identity(
            f"{prefix}{name}",
            frozenset(f"{prefix}{group}" for group in groups),
            frozenset(texts_of(claims.get("scope", claims.get("scp")))),
            expires=expires,
        )

    def _verified(self, token: bytes, header: Mapping[str, Any]) -> dict[str, Any]:
        """The claims of ``token``, once its signature is known to be good."""
        from joserfc.errors import JoseError
        from joserfc.jws import deserialize_compact

        algorithm, key_id = header.get("alg"), header.get("kid")
        allowed = self._config.algorithms
        if algorithm not in allowed:
            raise _refused(
                "its algorithm is none that its issuer may use",
                f"its alg is {_shown(algorithm)}, where {_shown(allowed)} is expected",
            )
        if key_id is not None and not isinstance(key_id, str):
            raise _refused("its header cannot be read")
        key = self.keys.find(key_id, algorithm)
        try:
            payload = deserialize_compact(token, key, registry=self._registry).payload
        except (JoseError, ValueError, TypeError):
            raise _refused("its signature is not its issuer's") from None
        return _json(payload)

    def _check_claims(self, claims: Mapping[str, Any], now: float) -> float:
        """See that the token is for here, and for now; returns when it has expired."""
        config = self._config
        if claims.get("iss") != config.issuer:
            raise _refused("it is of another issuer")
        audience = claims.get("aud")
        if config.audience not in (audience if isinstance(audience, list) else [audience]):
            raise _refused(
                "it is for another audience",
                f"its aud is {_shown(audience)}, where {config.audience!r} is expected",
            )
        if "cnf" in claims:  # RFC 7800: who shows it must prove that it holds a key
            raise _refused("it is bound to a key, which is not checked here")
        expires = _time(claims, "exp")
        leeway = config.leeway_seconds
        if now >= expires + leeway:
            raise _refused("it has expired")
        if expires > now + config.max_lifetime_seconds + leeway:
            raise _refused(
                "it is good for longer than tokens may be here",
                f"for {expires - now:.10g} seconds; max_lifetime_seconds is "
                f"{config.max_lifetime_seconds:g}",
            )
        for name in ("nbf", "iat"):
            if name in claims and _time(claims, name) > now + leeway:
                raise _refused("it is not good yet")
        return expires + leeway


def is_from(token: bytes, issuers: Mapping[str, Issuer]) -> bool:
    """Does ``token`` say that it is a JWT of one of ``issuers``? No more is known of it yet."""
    if _is_token(token) is None:
        return False
    try:
        claimed = _json(_decoded(token.split(b".")[1])).get("iss")
    except Unauthenticated:
        return False
    return isinstance(claimed, str) and claimed in issuers


def judge_token(token: bytes, issuers: Mapping[str, Issuer], now: float) -> Identity:
    """Who ``token`` was issued to. Raises as ``Issuer.judge``."""
    if _is_token(token) is None:
        raise _refused("it is no JWT")
    first, second, _ = token.split(b".")
    header = _json(_decoded(first))
    for name in REFUSED_HEADERS:
        if name in header:
            raise _refused(f"its header has {name}")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise _refused("it is no access token")
    claimed = _json(_decoded(second)).get("iss")
    issuer = issuers.get(claimed) if isinstance(claimed, str) else None
    if issuer is None:
        raise _refused(
            "it is of an issuer that is not known here",
            f"its iss is {_shown(claimed)}, where {_shown(list(issuers))} is expected",
        )
    return issuer.judge(token, header, now)


def _refused(why: str, found: str = "") -> Unauthenticated:
    """``found`` is for the log alone: what was found, and what is expected."""
    detail = f"this token is not good: {why}"
    logged = f"{detail}: {found}" if found else detail
    return Unauthenticated(detail, shown=True, logged=logged)


def _shown(claim: object) -> str:
    """A text, or a list of texts, as a line of the log has room for; anything else by its type."""
    items = claim if isinstance(claim, list) else [claim]
    shown = [
        repr(item[:MAX_SHOWN]) if isinstance(item, str) else f"a {type(item).__name__}"
        for item in items[:MAX_SHOWN_ITEMS]
        if item is not None
    ]
    return ", ".join(shown) or "missing"


def _decoded(part: bytes) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        raise _refused("it is no JWT") from None


def _json(text: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        found = None
    if not isinstance(found, dict):
        raise _refused("it is no JWT")
    return found


def _time(claims: Mapping[str, Any], name: str) -> float:
    seconds = time_of(claims.get(name))
    if seconds is None:
        raise _refused(f"its {name} is missing, or no time")
    return seconds


def time_of(value: object) -> float | None:
    """The Unix time that a claim's ``value`` (a NumericDate) says; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return seconds if math.isfinite(seconds) else None


def find_claim(claims: Mapping[str, Any], name: str) -> object:
    """The claim of that name, or, where there is none, the one at that path of names."""
    if name in claims:
        return claims[name]
    found: object = claims
    for step in name.split("."):
        found = found.get(step) if isinstance(found, dict) else None
    return found


def texts_of(value: object) -> list[str]:
    """A list of texts, or a text of words; anything else counts as none."""
    items = value.split(" ") if isinstance(value, str) else value
    if not isinstance(items, list):
        return []
    return [item for item in items[:MAX_GROUPS] if isinstance(item, str) and item]
