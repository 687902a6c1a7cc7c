"""Reads an audit log: its files in order, its lines, and whether it is whole.

``observability.audit`` says how it is made. What this finds is what a reader could: lines that were
changed, removed, repeated or put elsewhere, in any file, and an end that was cut off, unless it was
that of the last process to write and all traces of it went with it. Somebody who can write to the
file and knows how it is made can make another that is whole; against that, the proxy's own log has
the seals of files that were rotated, and ``prism_audit_records_total`` their number.
"""

import fcntl
import glob
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

TAIL = 256 * 1024
"""Bytes at the end of a file among which its last line is looked for."""

MAX_TORN = 1000
"""Lines that are no whole ones of which each is told; a file that is no log has millions."""
MAX_LINE = 1024 * 1024
"""Bytes that are read at once; no line of a log is as long, but a file that is none can be one."""


class AuditLine(msgspec.Struct):
    """What all lines have, and what tells them apart: a seal has ``sealed`` and ``hash``."""

    chain: str
    seq: int = 0
    event: str = ""
    previous: str = ""
    records: int = 0
    sealed: int = 0
    hash: str = ""


class CallLine(msgspec.Struct):
    """What is shown of the line of a call."""

    chain: str
    time: str
    namespace: str
    operation: str
    principal: str
    decision: str
    status: str
    ran: str
    duration_ms: float
    request_id: str
    rule: str = ""
    reason: str = ""


_decode_call = msgspec.json.Decoder(CallLine).decode
_decode = msgspec.json.Decoder(AuditLine).decode


def rotated_name(path: Path, moment: float) -> Path:
    """Another name for the file at ``path``, which is full at the Unix time ``moment``. It sorts
    after those before it, also where the clock was set back."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(moment))
    name = f"{path.name}.{stamp}.{int(moment % 1 * 1e6):06d}Z"
    for newest in rotated_files(path)[-1:]:
        if newest.name >= name:
            name = f"{newest.name}+"
    return path.with_name(name)


def rotated_files(path: Path) -> list[Path]:
    """The files that were once at ``path``, the oldest first."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.[0-9]*T[0-9]*Z*"))


def last_line(path: Path) -> str:
    """``CHAIN:SEQ:SEAL`` of the last whole line in the files at ``path``, with the last seal of its
    chain, if that is near; empty if there is none."""
    if path.exists() and not path.is_file():
        return ""
    for each in (path, *reversed(rotated_files(path))):
        try:
            with each.open("rb") as file:
                file.seek(max(os.fstat(file.fileno()).st_size - TAIL, 0))
                lines = [parse(text) for text in file.read().split(b"\n")]
        except FileNotFoundError:
            continue
        for line in reversed(lines):
            if line is not None and (line.seq or line.sealed):
                own = (one.hash for one in reversed(lines) if one and one.chain == line.chain)
                seal = next((found for found in own if found), "")
                return f"{line.chain}:{line.seq or line.sealed}:{seal}"
    return ""


def is_torn(path: Path) -> bool:
    """Whether the file at ``path`` ends within a line."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def parse(text: bytes) -> AuditLine | None:
    """A line of the log; None if it is none, or was torn."""
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def parse_call(text: bytes) -> CallLine | None:
    """A call's line of the log; None if it is another, or none at all."""
    try:
        return _decode_call(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


@dataclass
class ChainState:
    """What is known of one chain: ``first`` and ``last`` are the numbers of its lines,
    ``sealed`` the last that a seal vouches for, and ``seen_last`` the last that another chain saw
    when it began."""

    first: int
    last: int = 0
    sealed: int = 0
    seen_last: int = 0
    closed: bool = False
    place: str = ""
    hash: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    seals: set[str] = field(default_factory=set)
    known: bool = True  # what the next seal is made of was all read
    complete: bool = True  # from its first line on


@dataclass
class Verification:
    """What was found: ``problems`` are signs that somebody changed the log, ``notes`` what can
    be in a log that nobody touched."""

    records: int = 0
    lost: int = 0
    chains: dict[str, ChainState] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # Chains that were under way where the oldest file begins come first, or are named.
    _has_begun: bool = False
    _awaited: set[str] = field(default_factory=set)
    _torn: int = 0

    def read(self, text: bytes, place: str) -> None:
        """Take the next line, which is at ``place``."""
        if not text.strip():
            return
        line = parse(text)
        if line is None:
            self._has_begun = True
            self._torn += 1
            if self._torn <= MAX_TORN:
                self.notes.append(
                    f"{place}: not a whole line: the disk was full, or the process killed"
                )
            return
        chain = self.chains.get(line.chain)
        if chain is None:
            chain = self._begin(line, place)
        chain.place = place
        if line.sealed:
            self._check_seal(chain, line, place)
            return
        if line.seq != chain.last + 1:
            self._misplaced(chain, line, place)
        chain.last = max(chain.last, line.seq)
        chain.hash.update(text.rstrip(b"\n") + b"\n")
        if line.event == "closed":
            chain.closed = True
        elif line.event == "lost":
            self.lost += line.records
        elif not line.event:
            self.records += 1

    def _begin(self, line: AuditLine, place: str) -> ChainState:
        first = line.seq or line.sealed + 1
        chain = self.chains[line.chain] = ChainState(first, last=first - 1)
        if line.event == "opened" and line.seq == 1:
            self._has_begun = True
            self._check_previous(line.previous, place)
            return chain
        chain.known = chain.complete = False
        said = f"{place}: chain {line.chain} begins at {first}: what was before "
        if first == 1 or (self._has_begun and line.chain not in self._awaited):
            self.problems.append(f"{said}is gone")
        else:
            self.notes.append(f"{said}is in a file that is not here")
        return chain

    def _check_previous(self, previous: str, place: str) -> None:
        name, number, seal = (*previous.split(":"), "", "")[:3]
        if not number.isdecimal():
            return
        chain = self.chains.get(name)
        if chain is None:
            said = f"{place}: follows chain {name}, which is "
            if len(self.chains) > 1:
                self.problems.append(f"{said}gone")
            else:
                self._awaited.add(name)
                self.notes.append(f"{said}in a file that is not here")
            return
        chain.seen_last = max(chain.seen_last, int(number))
        if chain.last < int(number):
            self.problems.append(
                f"{place}: chain {name} had {number} lines when this was written; "
                f"those after {chain.last} are gone"
            )
        elif seal and seal not in chain.seals and chain.complete:
            self.problems.append(f"{place}: a seal of chain {name} is gone: {seal}")

    def _misplaced(self, chain: ChainState, line: AuditLine, place: str) -> None:
        if line.seq > chain.last + 1:
            missing = f"{chain.last + 1} to {line.seq - 1}" if line.seq > chain.last + 2 else (
                f"{chain.last + 1}"
            )  # fmt: skip
            self.problems.append(f"{place}: lines of chain {line.chain} are missing: {missing}")
        else:
            self.problems.append(
                f"{place}: line {line.seq} of chain {line.chain} comes again, or out of order"
            )

    def _check_seal(self, chain: ChainState, line: AuditLine, place: str) -> None:
        digest = chain.hash.hexdigest()
        if line.sealed != chain.last:
            self.problems.append(
                f"{place}: a seal of {line.sealed} lines of chain {line.chain}, of which there are "
                f"{chain.last}"
            )
        elif chain.known and digest != line.hash:
            self.problems.append(
                f"{place}: the lines {chain.sealed + 1} to {line.sealed} of chain {line.chain} are "
                "not as they were sealed"
            )
        chain.hash = hashlib.sha256(line.hash.encode())
        chain.known = True
        chain.sealed = line.sealed
        chain.seals.add(line.hash)

    def finish(self, *, is_written: bool) -> None:
        """All was read; ``is_written``: a process writes to it now."""
        if self._torn > MAX_TORN:
            self.notes.append(f"{self._torn - MAX_TORN} more are not whole lines")
        for name, chain in self.chains.items():
            if chain.sealed < chain.last:
                after = f"the lines of chain {name} after {chain.sealed} are not sealed"
                self.notes.append(f"{after} yet" if is_written else after)
            if chain.sealed == chain.last if chain.closed else chain.seen_last == chain.last:
                continue
            if is_written:
                self.notes.append(f"chain {name} has no end yet")
            else:
                self.problems.append(
                    f"{chain.place}: chain {name} has no end: the end of the file was cut off, its "
                    "process was killed and nothing has been written since, or this is a copy of a "
                    "log in use"
                )


def newest(path: Path) -> BinaryIO:
    """The file at ``path``, opened; just after it was put aside, the last that was."""
    while True:
        try:
            return path.open("rb")
        except FileNotFoundError:
            if not (aside := rotated_files(path)):
                raise
            with suppress(FileNotFoundError):  # removed meanwhile, so there is a newer one
                return aside[-1].open("rb")


def put_aside(path: Path, last: BinaryIO) -> list[Path]:
    """The files before ``last``, the oldest first."""
    ours = os.fstat(last.fileno())
    return [each for each in rotated_files(path) if not os.path.samestat(each.stat(), ours)]


def lines_of(path: Path) -> Iterator[tuple[bytes, str]]:
    """The lines of the files at ``path``, the oldest first, each with its place."""
    # Opened before the others are looked for, so none is left out that is put aside meanwhile.
    with newest(path) as last:
        for each in put_aside(path, last):
            with each.open("rb") as file:
                yield from _lines(file, each)
        yield from _lines(last, path)


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[bytes, str]]:
    number = 1
    while text := file.readline(MAX_LINE):
        yield text, f"{path}:{number}"
        number += text.endswith(b"\n")


def is_written(path: Path) -> bool:
    """Whether a process writes to the file at ``path`` now."""
    with newest(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
