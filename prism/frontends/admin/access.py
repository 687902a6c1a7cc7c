"""Who may do what at the admin port.

Three ways to say who one is: the kernel does, over a Unix socket; a bearer token does;
or, on loopback, nobody does, which suffices for as much as the configuration says.

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

from prism.config.errors import ConfigError, ConfigProblem
from prism.config.types import AdminConfig
from prism.contract.errors import Forbidden, Unauthenticated
from prism.secrets import read_token
from prism.server.exchange import Peer
from prism.streams.addresses import is_loopback

log = logging.getLogger("prism.admin")


class Right(IntEnum):
    """What a route needs, and what somebody has; each includes those before it."""

    PROBE = 0
    READ = 1
    CHANGE = 2


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


class Access:
    """The rule of one admin port.

    Args:
        tokens: who shows one of them may do what it is good for.
        without_token: what others may do, over TCP.
    """

    def __init__(
        self, tokens: Sequence[AdminToken] = (), without_token: Right = Right.READ
    ) -> None:
        self.tokens = tuple(tokens)
        self.without_token = without_token

    @classmethod
    def from_config(cls, admin: AdminConfig) -> "Access":
        """As configured; blocks. Raises ConfigError if a token's file cannot be used."""
        tokens = []
        if admin.token_file is not None:
            tokens.append(AdminToken(Path(admin.token_file)))
        for given in admin.tokens:
            token = AdminToken(Path(given.file), given.name, Right[given.may.upper()])
            if any(token.digest == other.digest for other in tokens):
                raise token.problem("another file has the same token; each needs its own")
            tokens.append(token)
        word = admin.without_token or ("probe" if tokens else "read")
        return cls(tokens, Right[word.upper()])

    def reload(self) -> None:
        """Read the tokens again; one that cannot be used stays as it was, and the log says why.

        Blocks, in a worker thread; each token is replaced in one step.
        """
        for token in self.tokens:
            token.reload()

    def identify(self, peer: Peer, headers: Mapping[bytes, bytes]) -> str:
        """Who asks, whatever they may: for the log. A token that fits nothing is ``anonymous``."""
        if peer.uid is not None:
            return f"uid {peer.uid}"
        token = self._shown(headers.get(b"authorization", b""))
        return "anonymous" if token is None else token.label

    def admit(self, peer: Peer, headers: Mapping[bytes, bytes], needed: Right) -> str:
        """Who asks, for the log.

        Raises:
            Unauthenticated: it must show a token, or show another.
            Forbidden: it may not, or there is no token that it could show.
        """
        if peer.uid is not None:
            return _admit_user(peer.uid)
        given = headers.get(b"authorization")
        if given is not None and self.tokens:
            return self._admit_token(given, needed)
        if needed > self.without_token and self.tokens:
            raise Unauthenticated(
                "show a token of admin.token_file or admin.tokens: authorization: Bearer, "
                "and the token"
            )
        if needed > self.without_token:  # there is nothing to show that would help
            what = "reads" if self.without_token is Right.READ else "the probes"
            raise Forbidden(
                f"without a token only {what} are open here; set admin.token_file or admin.tokens, "
                "or admin.address to a Unix socket (unix:/path)"
            )
        if needed > Right.PROBE:
            _check_host(headers.get(b"host", b""))
        if needed is Right.CHANGE and not is_json(headers):
            raise Forbidden(
                "without a token a change must have content-type: application/json, "
                "so that no web page can ask for it"
            )
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
            raise Unauthenticated(
                "this is no token of the admin port (admin.token_file, admin.tokens)", shown=True
            )
        if needed > token.right:
            raise Forbidden(
                f"{token.label} may {token.right.name.lower()} and not {needed.name.lower()}; "
                "admin.tokens says what each may"
            )
        return token.label

    def may_read(self, peer: Peer, headers: Mapping[bytes, bytes]) -> bool:
        """Whether reads are open to who asks."""
        try:
            self.admit(peer, headers, Right.READ)
        except (Unauthenticated, Forbidden):
            return False
        return True


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
