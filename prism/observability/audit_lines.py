"""What the lines of the audit log say, and how they vouch for one another.

A *chain* is the lines of one process, numbered from 1. From time to time there is a *seal* among
them: the SHA-256 of the seal before it and of all lines since then. So a line that was changed,
removed or put elsewhere does not fit its seal any more; and the first line of a chain names the
last line that it found in the file. ``observability.audit_reading`` checks all this.

Nothing here waits, or knows of files.
"""

import hashlib
import os
import secrets
import time
from functools import lru_cache

import msgspec

from prism import __version__
from prism.access.identity import Identity
from prism.access.permissions import needed
from prism.calls.call import Call
from prism.contract.errors import AnswerDropped, Forbidden, PluginError, Unauthenticated
from prism.contract.status import StatusCode
from prism.observability.logs import time_text
from prism.server.log import client_name

MAX_KEPT = 4096
"""Outcomes, and clients, whose text is kept: all go when there are more."""

_DENIED = frozenset({Unauthenticated.reason, Forbidden.reason})
_ANSWERED = frozenset({PluginError.reason, AnswerDropped.reason})

_OK = StatusCode.OK
_STATUS_NAMES = [status.name for status in StatusCode]
_encode_lines = msgspec.json.Encoder().encode_lines
_encode = msgspec.json.Encoder().encode


class AuditRecord(msgspec.Struct, gc=False):
    """A call's line. ``principal`` and ``namespace`` bring further fields with them, those of
    ``Who`` and ``What``: what is raw is copied as it is."""

    seq: int
    chain: str
    time: str
    request_id: str
    duration_ms: float
    principal: msgspec.Raw
    namespace: msgspec.Raw
    client: msgspec.Raw | msgspec.UnsetType


class Who(msgspec.Struct, omit_defaults=True):
    """Who called: the principal, and the id of its API key, or the serial number of its client
    certificate, where one was shown."""

    principal: str
    key: str = ""
    certificate: str = ""


class What(msgspec.Struct, omit_defaults=True):
    """``decision`` is ``allow``, ``deny`` or, where the call ended before there was one, ``none``;
    ``rule`` what gave it: a row of ``access``, ``open`` (clients are not authenticated) or
    ``dry_run``. ``ran`` is whether the plugin has run it: ``yes``, ``no``, or ``unknown`` where
    it was asked and no answer came; ``attempts`` how often it was asked, if more than once, and
    ``hedged`` whether two of them were made side by side."""

    namespace: str
    operation: str
    decision: str
    rule: str
    status: str
    ran: str
    http_status: int = 0
    reason: str = ""
    instance: str = ""
    streamed: bool = False
    attempts: int = 1
    hedged: bool = False


class AuditEvent(msgspec.Struct, omit_defaults=True, gc=False):
    """What the log says of itself: ``opened``, ``lost``, ``closed``.

    ``previous`` is the last line that a chain's opening found, and its chain's last seal:
    ``CHAIN:SEQ:SEAL``."""

    seq: int
    chain: str
    time: str
    event: str
    pid: int = 0
    version: str = ""
    previous: str = ""
    records: int = 0


class Seal(msgspec.Struct):
    """``hash`` vouches for the lines of ``chain`` up to ``sealed``, and for the seal before."""

    chain: str
    sealed: int
    hash: str


@lru_cache(MAX_KEPT)
def client_text(address: tuple[str, int] | None) -> msgspec.Raw | msgspec.UnsetType:
    """The client's address, if it has one."""
    return msgspec.UNSET if address is None else msgspec.Raw(_encode(client_name(address)))


def who_text(identity: Identity) -> msgspec.Raw:
    """Of whom a line speaks; the identity keeps it as ``audited``."""
    who = identity.audited = _value(Who(identity.name, identity.key, identity.certificate))
    return who


def what_text(call: Call, decision: str, rule: str) -> msgspec.Raw:
    """What ``call`` was, what was decided about it by which rule, and what came of it."""
    return _value(
        What(
            call.namespace,
            call.operation,
            decision,
            rule,
            _STATUS_NAMES[call.status],
            ran(call),
            call.http_status,
            call.reason,
            call.instance_id,
            call.stream is not None,
            call.attempts,
            call.is_hedged,
        )
    )


def denied_connection(namespace: str, instance: str, what: str) -> tuple[msgspec.Raw, msgspec.Raw]:
    """Of whom a line speaks, and of what, that says which connection a plugin was denied."""
    status = _STATUS_NAMES[StatusCode.PERMISSION_DENIED]
    said = What(namespace, "connect", "deny", "egress", status, "no", 0, what, instance)
    return _value(Who(f"plugin:{instance}")), _value(said)


def _value(part: msgspec.Struct) -> msgspec.Raw:
    """The value of the first field of ``part``, with all others behind it."""
    return msgspec.Raw(_encode(part).partition(b":")[2][:-1])


def decision_of(call: Call) -> tuple[str, str]:
    """What was decided about ``call``, and by which rule."""
    if call.reason in _DENIED and call.plugin_seconds is None:
        return "deny", ""
    if call.decision is not None:  # a stream that is ended by its permission's end had one
        return "allow", call.decision.rule(call.needs)
    target = call.target
    if target is None:
        return "none", ""
    if target.access is None:
        return "allow", "open"
    declared = target.slot.operations.get(call.operation)
    if declared is None:
        return "none", ""
    row = target.access.deciding(call.identity, needed(declared))
    if row is not None:
        return "allow", row.place
    return ("allow", "dry_run") if target.access.is_dry_run else ("none", "")


def ran(call: Call) -> str:
    """Whether the plugin has run ``call``."""
    if call.plugin_seconds is None:
        return "no"
    return "yes" if call.status is _OK or call.reason in _ANSWERED else "unknown"


class Chain:
    """The lines of one process: numbered, and sealed from time to time."""

    def __init__(self, sync_seconds: float) -> None:
        self.name = secrets.token_hex(6)
        self._sync_seconds = sync_seconds
        self._seq = 0
        self._hash = hashlib.sha256()
        self._last_seal = ""
        self._seal_due: float | None = None

    def __str__(self) -> str:
        return f"chain {self.name} up to {self._seq}, sealed by {self._last_seal}"

    def opened(self, previous: str) -> bytes:
        """The first line; ``previous`` is the one before it in the file."""
        return self._event("opened", pid=os.getpid(), version=__version__, previous=previous)

    def lost(self, records: int) -> bytes:
        """A line that says how many records are not there."""
        return self._event("lost", records=records)

    def closed(self) -> bytes:
        """The last line but for its seal."""
        return self._event("closed")

    def lines(self, records: list[AuditRecord]) -> bytes:
        """The next lines."""
        for record in records:
            self._seq += 1
            record.seq = self._seq
        return self._hashed(_encode_lines(records))

    def seal_in(self) -> float | None:
        """Seconds until a seal is due; None if there is nothing to seal."""
        if self._seal_due is None:
            return None
        return max(self._seal_due - time.monotonic(), 0)

    def seal(self) -> bytes:
        """A line that vouches for those since the last seal, and for that."""
        self._last_seal = self._hash.hexdigest()
        self._hash = hashlib.sha256(self._last_seal.encode())
        self._seal_due = None
        return _encode(Seal(self.name, self._seq, self._last_seal)) + b"\n"

    def _event(
        self, event: str, pid: int = 0, version: str = "", previous: str = "", records: int = 0
    ) -> bytes:
        self._seq += 1
        moment = time_text(int(time.time() * 1000))
        line = AuditEvent(self._seq, self.name, moment, event, pid, version, previous, records)
        return self._hashed(_encode(line) + b"\n")

    def _hashed(self, lines: bytes) -> bytes:
        self._hash.update(lines)
        if self._seal_due is None:
            self._seal_due = time.monotonic() + self._sync_seconds
        return lines
