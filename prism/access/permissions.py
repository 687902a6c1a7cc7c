"""Who may do what in a namespace: deny by default.

The rows of the configuration are compiled to tables: by principal, by group, by scope, and by
prefix for those that end in ``*``. A decision looks into each once, so what it costs does not
depend on how many rows there are; and it is made once for each identity, which remembers it.
"""

import logging
from collections.abc import Iterator
from typing import NamedTuple

from prism.access.identity import ANONYMOUS, Identity
from prism.config.types import NamespaceAccess
from prism.contract.errors import Forbidden
from prism.contract.messages import OperationDeclaration

READ, WRITE, ADMIN = 1, 2, 4
EVERYTHING = READ | WRITE | ADMIN
NAMES = {READ: "read", WRITE: "write", ADMIN: "admin"}
_BY_NAME = {name: bit for bit, name in NAMES.items()}

MAX_REMEMBERED = 64
"""Namespaces whose decision an identity remembers."""
MAX_NOTED = 1024
"""Refusals of a dry run that are logged; each once."""

_NEEDED = (WRITE, READ, WRITE, ADMIN)
"""By ``OperationAccess``, of which the first is UNDECLARED."""

log = logging.getLogger("prism.authorization")


def needed(declared: OperationDeclaration) -> int:
    """The permission that an operation takes."""
    return _NEEDED[declared.access]


class Row(NamedTuple):
    """A row of the configuration: its path below ``access``, and what it gives to whom."""

    path: tuple[str | int, ...]
    who: str
    permissions: int


def rows(access: NamespaceAccess) -> Iterator[Row]:
    """One for each ``who`` of ``access``."""
    for index, who in enumerate(access.owners):
        yield Row(("owners", index), who, EVERYTHING)
    for number, rule in enumerate(access.allow):
        given = 0
        for name in rule.permissions:
            given |= _BY_NAME[name]
        for index, who in enumerate(rule.who):
            yield Row(("allow", number, "who", index), who, given)


class AccessTable:
    """Who may do what in ``namespace``. Without ``access`` nobody may do anything."""

    def __init__(self, namespace: str, access: NamespaceAccess | None = None) -> None:
        self.namespace = namespace
        self.access = access or NamespaceAccess()
        self.is_dry_run = self.access.mode == "dry_run"
        self._principals: dict[str, int] = {}
        self._groups: dict[str, int] = {}
        self._scopes: dict[str, int] = {}
        self._prefixes: dict[int, dict[str, int]] = {}
        self._noted: set[tuple[str, int]] = set()
        for row in rows(self.access):
            self._add(row)

    def _add(self, row: Row) -> None:
        kind, _, name = row.who.partition(":")
        if kind == "group":
            table, key = self._groups, name
        elif kind == "scope":
            table, key = self._scopes, name
        elif row.who.endswith("*"):
            key = row.who[:-1]
            table = self._prefixes.setdefault(len(key), {})
        else:
            table, key = self._principals, row.who
        table[key] = table.get(key, 0) | row.permissions

    def permissions(self, identity: Identity) -> int:
        """What ``identity`` may do here, as bits."""
        known = identity.decisions.get(self.namespace)
        if known is not None and known[0] is self:
            return known[1]
        found = self._decide(identity)
        if len(identity.decisions) >= MAX_REMEMBERED:
            identity.decisions.clear()
        identity.decisions[self.namespace] = self, found
        return found

    def _decide(self, identity: Identity) -> int:
        if identity is ANONYMOUS:
            return 0
        found = self._principals.get(identity.name, 0)
        for group in identity.groups:
            found |= self._groups.get(group, 0)
        for scope in identity.scopes:
            found |= self._scopes.get(scope, 0)
        for length, prefixes in self._prefixes.items():
            found |= prefixes.get(identity.name[:length], 0)
        return found

    def check(self, identity: Identity, operation: str, needed: int) -> None:
        """See that ``identity`` may call ``operation``, which takes the permission ``needed``.

        Raises:
            Forbidden: it may not.
        """
        found = self.permissions(identity)
        if found & needed:
            return
        if self.is_dry_run:
            self._note(identity, operation, needed)
        elif not found:
            raise closed_namespace(identity, self.namespace)
        else:
            raise Forbidden(
                f"{identity.name!r} may not call {operation!r} in namespace {self.namespace!r}: "
                f"it takes the permission {NAMES[needed]}"
            )

    def admits(self, identity: Identity) -> bool:
        """May ``identity`` do anything here? Who has shown nothing may not, in a dry run either."""
        return self.permissions(identity) != 0 or (self.is_dry_run and identity is not ANONYMOUS)

    def allows(self, identity: Identity, needed: int) -> bool:
        """May ``identity`` do what takes the permission ``needed``?"""
        return self.is_dry_run or self.permissions(identity) & needed != 0

    def _note(self, identity: Identity, operation: str, needed: int) -> None:
        """Say what would be refused, once for each principal and permission."""
        if (identity.name, needed) in self._noted or len(self._noted) >= MAX_NOTED:
            return
        self._noted.add((identity.name, needed))
        log.warning(
            "dry run: %r would not be allowed to call %r in namespace %s, for which it takes %s",
            identity.name,
            operation,
            self.namespace,
            NAMES[needed],
        )


def closed_namespace(identity: Identity, namespace: str) -> Forbidden:
    """The same for a namespace that there is not: who may not use one learns nothing of it."""
    return Forbidden(f"no namespace {namespace[:200]!r} is open to {identity.name!r}")


def deciding(access: NamespaceAccess | None, identity: Identity, needed: int) -> Row | None:
    """The first row that gives ``identity`` the permission; None if none does."""
    for row in rows(access or NamespaceAccess()):
        single = NamespaceAccess(owners=[row.who])
        if row.permissions & needed and AccessTable("", single).permissions(
            Identity(identity.name, identity.groups, identity.scopes)
        ):
            return row
    return None
