"""Who may do what at the admin port.

Ways to say who one is: the kernel does, over a Unix socket; a bearer token of this port does, or
a credential as clients show them, a certificate too; or, on loopback, nobody does, which suffices
for as much as the configuration says.

Who says nothing might be a web page in a browser on this machine, so that two more things
are asked of it. Its Host must be this machine's loopback: a page whose name was rebound to
127.0.0.1 (DNS rebinding) has another. And a change must come as JSON, which a page
cannot send across origins without being asked first, and the admin port never agrees.
"""

import hashlib
import hmac
import logging
import os
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Literal

from prism.access.authentication import Authentication, Headers
from prism.access.identity import Identity, KeysAwaited
from prism.access.permissions import ADMIN, READ, WRITE, AccessTable
from prism.config.errors import ConfigError, ConfigProblem
from prism.config.types import AccessRule, AdminConfig, AdminRule, NamespaceAccess
from prism.contract.errors import AuthenticationUnavailable, Forbidden, Unauthenticated
from prism.secrets import read_token
from prism.server.exchange import Peer
from prism.streams.addresses import is_loopback

log = logging.getLogger("prism.admin")

_NONE_OF_OURS = "this is no token of the admin port (admin.token_file, admin.tokens)"


class Right(IntEnum):
    """What a route needs, and what somebody has; each includes those before it."""

    PROBE = 0
    READ = 1
    OPERATE = 2
    CHANGE = 3


# An access table decides who has which right, by the permissions of operations in their place.
_PERMISSIONS: dict[str, Literal["read", "write", "admin"]] = {
    "read": "read",
    "operate": "write",
    "change": "admin",
}
_BY_RIGHT = {Right.READ: READ, Right.OPERATE: WRITE, Right.CHANGE: ADMIN}


class AdminToken:
    """What is in ``file``, or was when it could last be read; ``right`` is what it is good for.

    Kept as a digest: the token itself is nowhere in memory for longer than it takes to
    make one, and digests have one length, whatever is compared. ``name`` is for the log; that of
    ``admin.token_file`` has none.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, file: Path, name: str = "", right: Right = Right.CHANGE) -> None:
        self.right = right
        self.label = f"token {name!r}" if name else "token"
        self._file = file
        self._path = f"admin.tokens ({name})" if name else "admin.token_file"
        self.digest = self._read()

    def matches(self, given: bytes) -> bool:
        """Is this the token? Takes the same time wherever the difference is."""
        return hmac.compare_digest(hashlib.sha256(given).digest(), self.digest)

    def reload(self) -> bool:
        """Read the file again. If it cannot be used, say why and keep the token in use."""
        try:
            self.digest = self._read()
        except ConfigError as error:
            log.error("the admin token in use stays: %s", error)
            return False
        return True

    def problem(self, message: str) -> ConfigError:
        """An error about this token's file."""
        return ConfigError([ConfigProblem(str(self._file), 0, 0, self._path, message)])

    def _read(self) -> bytes:
        try:
            token = read_token(self._file)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise self.problem(f"the admin token cannot be used: {reason}") from None
        return hashlib.sha256(token.encode("ascii")).digest()


class Operators:
    """Those whom ``authentication`` knows, and what ``rules`` let them do."""

    def __init__(self, authentication: Authentication, rules: Sequence[AdminRule]) -> None:
        self._authentication = authentication
        allow = [AccessRule(who=rule.who, permissions=[_PERMISSIONS[rule.may]]) for rule in rules]
        # By its name identities remember what was found; no namespace has this one.
        self._table = AccessTable("", NamespaceAccess(allow=allow))
        self.is_good = authentication.is_good

    async def identify(self, headers: Headers, certificate: bytes | None) -> Identity:
        """Who shows these; raises as ``Authentication.identify``, but waits for keys."""
        try:
            return self._authentication.identify(headers, certificate)
        except KeysAwaited as awaited:
            await awaited.wait()
        try:
            return self._authentication.identify(headers, certificate)
        except KeysAwaited:
            raise AuthenticationUnavailable("the token issuer's keys keep changing") from None

    def right(self, identity: Identity) -> Right:
        """The highest that a rule gives; ``PROBE`` where none does."""
        given = self._table.permissions(identity)
        found = [right for right, word in _BY_RIGHT.items() if given & word]
        return max(found, default=Right.PROBE)


class Access:
    """The rule of one admin port.

    Args:
        tokens: who shows one of them may do what it is good for.
        without_token: what others may do, over TCP.
        operators: who else may do what, by credentials of the data port.
    """

    def __init__(
        self,
        tokens: Sequence[AdminToken] = (),
        without_token: Right = Right.READ,
        operators: Operators | None = None,
    ) -> None:
        self.tokens = tuple(tokens)
        self.without_token = without_token
        self.operators = operators

    @classmethod
    def from_config(
        cls, admin: AdminConfig, authentication: Authentication | None = None
    ) -> "Access":
        """As configured; blocks. Raises ConfigError if a token's file cannot be used."""
        tokens = []
        if admin.token_file is not None:
            tokens.append(AdminToken(Path(admin.token_file)))
        for given in admin.tokens:
            token = AdminToken(Path(given.file), given.name, Right[given.may.upper()])
            if any(token.digest == other.digest for other in tokens):
                raise token.problem("another file has the same token; each needs its own")
            tokens.append(token)
        word = admin.without_token or ("probe" if admin.knows_operators else "read")
        operators = None
        if admin.allow and authentication is not None:
            operators = Operators(authentication, admin.allow)
        return cls(tokens, Right[word.upper()], operators)

    def reload(self) -> None:
        """Read the tokens again; one that cannot be used stays as it was, and the log says why.

        Blocks, in a worker thread; each token is replaced in one step.
        """
        for token in self.tokens:
            token.reload()

    async def recognize(self, peer: Peer, headers: Headers) -> Identity | None:
        """Who asks, where a credential of the data port says so; else None.

        Raises:
            CallError: what is shown as a token is none, or may be one, which cannot be said now.
        """
        shown = [value for name, value in headers if name == b"authorization"]
        if self.operators is None or peer.uid is not None or not (shown or peer.certificate):
            return None
        if shown and self._shown(shown[-1]) is not None:
            return None
        try:
            return await self.operators.identify(headers, peer.certificate)
        except Unauthenticated as error:
            if not shown:  # TLS asks for a certificate, which need not name anybody
                return None
            detail = f"{_NONE_OF_OURS}, nor good otherwise: {error}"
            logged = f"{_NONE_OF_OURS}, nor good otherwise: {error.logged}"
            raise Unauthenticated(detail, shown=True, logged=logged) from None

    def identify(
        self, peer: Peer, headers: Mapping[bytes, bytes], identity: Identity | None = None
    ) -> str:
        """Who asks, whatever they may: for the log. A token that fits nothing is ``anonymous``."""
        if peer.uid is not None:
            return f"uid {peer.uid}"
        if identity is not None:
            return _label(identity)
        token = self._shown(headers.get(b"authorization", b""))
        return "anonymous" if token is None else token.label

    def admit(
        self,
        peer: Peer,
        headers: Mapping[bytes, bytes],
        needed: Right,
        identity: Identity | None = None,
    ) -> str:
        """Who asks, for the log. ``identity`` is whom ``recognize`` has found.

        Raises:
            Unauthenticated: it must show a token, or show another.
            Forbidden: it may not, or there is no token that it could show.
        """
        if peer.uid is not None:
            return _admit_user(peer.uid)
        given = headers.get(b"authorization")
        if self.operators is not None and identity is not None:
            if needed > Right.READ and given is None:  # browsers show a certificate by themselves
                _check_json(headers)
            return _admit_right(_label(identity), self.operators.right(identity), needed, "allow")
        if given is not None and self.tokens:
            return self._admit_token(given, needed)
        if needed > self.without_token and (self.tokens or self.operators is not None):
            keys = "admin.token_file or admin.tokens"
            if self.operators is not None:
                keys += ", or of somebody whom admin.allow names"
            raise Unauthenticated(f"show a token of {keys}: authorization: Bearer, and the token")
        if needed > self.without_token:  # there is nothing to show that would help
            what = "reads" if self.without_token is Right.READ else "the probes"
            raise Forbidden(
                f"without a token only {what} are open here; set admin.token_file or admin.tokens, "
                "or admin.address to a Unix socket (unix:/path)"
            )
        if needed > Right.PROBE:
            _check_host(headers.get(b"host", b""))
        if needed > Right.READ:
            _check_json(headers)
        return "anonymous"

    def _shown(self, given: bytes) -> AdminToken | None:
        scheme, _, credentials = given.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        # All are compared: the time does not tell which one fits.
        fitting = [token for token in self.tokens if token.matches(credentials.strip())]
        return fitting[0] if fitting else None

    def _admit_token(self, given: bytes, needed: Right) -> str:
        token = self._shown(given)
        if token is None:
            raise Unauthenticated(_NONE_OF_OURS, shown=True)
        return _admit_right(token.label, token.right, needed, "tokens")

    def may_read(
        self, peer: Peer, headers: Mapping[bytes, bytes], identity: Identity | None = None
    ) -> bool:
        """Whether reads are open to who asks, now."""
        if identity is not None and self.operators and not self.operators.is_good(identity):
            return False
        try:
            self.admit(peer, headers, Right.READ, identity)
        except (Unauthenticated, Forbidden):
            return False
        return True


def _label(identity: Identity) -> str:
    return f"principal {identity.name!r}"


def _admit_right(label: str, right: Right, needed: Right, key: str) -> str:
    if needed > right:
        raise Forbidden(
            f"{label} may {right.name.lower()} and not {needed.name.lower()}; "
            f"admin.{key} says what each may",
            shown=True,
        )
    return label


def _check_json(headers: Mapping[bytes, bytes]) -> None:
    if not is_json(headers):
        raise Forbidden(
            "without a token a change must have content-type: application/json, "
            "so that no web page can ask for it"
        )


def _admit_user(uid: int) -> str:
    if uid not in (0, os.geteuid()):
        raise Forbidden(f"uid {uid} may not use this socket: it is uid {os.geteuid()}'s and root's")
    return f"uid {uid}"


def is_json(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the body is declared to be JSON."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    return kind == b"application/json"


def _check_host(host: bytes) -> None:
    name = host.decode("latin-1")
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    else:
        name = name.partition(":")[0]
    if name and not is_loopback(name):
        raise Forbidden(
            f"host {name[:100]!r} is not this machine's loopback: without a token, ask for "
            "127.0.0.1, [::1] or localhost, so that no web page can ask under another name"
        )
