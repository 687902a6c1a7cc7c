"""Who a client is."""

from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING

from msgspec import Raw

if TYPE_CHECKING:
    from prism.access.permissions import Decision


class Identity:
    """A caller whose credential was found good.

    ``name`` is the principal, as plugins, logs and rules know it. ``key`` is the id of the API
    key that was shown, if one was, ``certificate`` the serial number of the client certificate, and
    ``token`` the token, if its issuer must be asked about it.
    ``expires`` is the Unix time from which the credential must
    be looked at again. ``decisions`` is where access tables remember what they found, and
    ``audited`` where the audit log keeps what it says of this caller.
    """

    __slots__ = (
        "audited",
        "certificate",
        "decisions",
        "expires",
        "groups",
        "key",
        "name",
        "scopes",
        "token",
    )

    def __init__(
        self,
        name: str,
        groups: frozenset[str] = frozenset(),
        scopes: frozenset[str] = frozenset(),
        *,
        key: str = "",
        certificate: str = "",
        expires: float = inf,
        token: bytes = b"",
    ) -> None:
        self.name = name
        self.groups = groups
        self.scopes = scopes
        self.key = key
        self.certificate = certificate
        self.expires = expires
        self.token = token
        self.decisions: dict[str, Decision] = {}
        self.audited: Raw | None = None

    def __repr__(self) -> str:
        return f"<Identity {self.name!r}>"


class KeysAwaited(Exception):
    """Whether a credential is good can be said in a moment: await ``wait``, and look again."""

    def __init__(self, wait: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self.wait = wait


ANONYMOUS = Identity("anonymous")
"""Everybody, where the configuration has no ``authentication``."""

LONGEST_NAME = 256
"""Characters of a principal's name: it is in every line of the access log."""


def unfit_name(name: object) -> str:
    """Why ``name`` cannot name a principal; empty if it can."""
    if not isinstance(name, str):
        return "it is not text"
    if not name:
        return "it is empty"
    if len(name) > LONGEST_NAME:
        return f"it is longer than {LONGEST_NAME} characters"
    if not name.isprintable() or name != name.strip():
        return "it has characters that do not show"
    if name == ANONYMOUS.name:
        return "it stands for nobody"
    return ""
