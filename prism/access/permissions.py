"""Who may do what in a namespace: deny by default.

The rows of the configuration are compiled to tables: by principal, by group, by scope, and by
prefix for those that end in ``*``. A decision looks into each once, so what it costs does not
depend on how many rows there are; and it is made once for each identity, which remembers it.
Each permission knows the first row that gives it, for those who ask why.
"""

import itertools
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
    """A row of the configuration: its path below ``access``, and what it gives to whom.
    ``number`` is its place among all rows; ``place`` its path as text: ``allow[0].who[1]``."""

    path: tuple[str | int, ...]
    who: str
    permissions: int
    number: int
    place: str


def _as_text(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]


Grants = dict[int, Row]
"""Permissions, each with the first row that gives it."""


def rows(access: NamespaceAccess) -> Iterator[Row]:
    """One for each ``who`` of ``access``."""
    number = itertools.count()
    for index, who in enumerate(access.owners):
        yield _row(("owners", index), who, EVERYTHING, next(number))
    for place, rule in enumerate(access.allow):
        given = 0
        for name in rule.permissions:
            given |= _BY_NAME[name]
        for index, who in enumerate(rule.who):
            yield _row(("allow", place, "who", index), who, given, next(number))


def _row(path: tuple[str | int, ...], who: str, permissions: int, number: int) -> Row:
    return Row(path, who, permissions, number, _as_text(path))


class Decision:
    """What ``table`` found about an identity: ``permissions`` as bits, the rows that give them,
    and whether it may be here at all: who has shown nothing may not, in a dry run either."""

    __slots__ = ("admits", "grants", "permissions", "table")

    def __init__(self, table: "AccessTable", identity: Identity, grants: Grants) -> None:
        self.table = table
        self.permissions = sum(grants)
        self.grants = grants
        self.admits = bool(grants) or (table.is_dry_run and identity is not ANONYMOUS)

    def rule(self, needed: int) -> str:
        """What gives the permission ``needed``: the place of a row, or ``dry_run``."""
        row = self.grants.get(needed)
        return "dry_run" if row is None else row.place


class AccessTable:
    """Who may do what in ``namespace``. Without ``access`` nobody may do anything."""

    def __init__(self, namespace: str, access: NamespaceAccess | None = None) -> None:
        self.namespace = namespace
        self.access = access or NamespaceAccess()
        self.is_dry_run = self.access.mode == "dry_run"
        self._principals: dict[str, Grants] = {}
        self._groups: dict[str, Grants] = {}
        self._scopes: dict[str, Grants] = {}
        self._prefixes: dict[int, dict[str, Grants]] = {}
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
        grants = table.setdefault(key, {})
        for permission in NAMES:
            if row.permissions & permission:
                grants.setdefault(permission, row)

    def decide(self, identity: Identity) -> Decision:
        """What ``identity`` may do here; looked up once, and remembered by it."""
        known = identity.decisions.get(self.namespace)
        if known is not None and known.table is self:
            return known
        decision = Decision(self, identity, self._grants(identity))
        if len(identity.decisions) >= MAX_REMEMBERED:
            identity.decisions.clear()
        identity.decisions[self.namespace] = decision
        return decision

    def permissions(self, identity: Identity) -> int:
        """What ``identity`` may do here, as bits."""
        return self.decide(identity).permissions

    def deciding(self, identity: Identity, needed: int) -> Row | None:
        """The first row that gives ``identity`` the permission; None if none does."""
        return self.decide(identity).grants.get(needed)

    def _grants(self, identity: Identity) -> Grants:
        grants: Grants = {}
        if identity is ANONYMOUS:
            return grants
        found = [self._principals.get(identity.name)]
        found += [self._groups.get(group) for group in identity.groups]
        found += [self._scopes.get(scope) for scope in identity.scopes]
        found += [
            prefixes.get(identity.name[:length]) for length, prefixes in self._prefixes.items()
        ]
        for each in found:
            for permission, row in (each or {}).items():
                first = grants.get(permission)
                if first is None or row.number < first.number:
                    grants[permission] = row
        return grants

    def check(self, identity: Identity, operation: str, needed: int) -> Decision:
        """See that ``identity`` may call ``operation``, which takes the permission ``needed``;
        returns what gives it.

        Raises:
            Forbidden: it may not.
        """
        decision = self.decide(identity)
        if decision.permissions & needed:
            return decision
        if self.is_dry_run:
            self._note(identity, operation, needed)
            return decision
        if not decision.permissions:
            raise closed_namespace(identity, self.namespace)
        raise Forbidden(
            f"{identity.name!r} may not call {operation!r} in namespace {self.namespace!r}: "
            f"it takes the permission {NAMES[needed]}",
            shown=True,
        )

    def admits(self, identity: Identity) -> bool:
        """May ``identity`` do anything here?"""
        return self.decide(identity).admits

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
    detail = f"no namespace {namespace[:200]!r} is open to {identity.name!r}"
    return Forbidden(detail, shown=identity is not ANONYMOUS)
