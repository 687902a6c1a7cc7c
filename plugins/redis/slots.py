"""The slots of a cluster: where a key belongs, who has it, and what the servers say of both.

Plain code, without connections. The rules are those of the Redis Cluster specification.
"""

import re
from binascii import crc_hqx
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

SLOTS = 16384
ALL = (1 << SLOTS) - 1
"""A set of slots is an integer, with a bit for each; this is the one of all."""

_is_redirect = re.compile(r"[A-Z]+ [0-9]+ (.*):([0-9]{1,5})").fullmatch
_is_range = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?").fullmatch


class Address(NamedTuple):
    """Of a server, as the cluster writes it."""

    host: str
    port: int


class Range(NamedTuple):
    """Slots from ``first`` to ``last``, the master that has them, and its id; and the replicas."""

    first: int
    last: int
    master: Address
    identity: str
    replicas: tuple[Address, ...]


def slot_of(key: bytes) -> int:
    """CRC16 of the key, or of what stands in its first braces, if that is not empty."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


def read_slots(reply: Sequence[Any], asked: str) -> list[Range]:
    """What CLUSTER SLOTS says. ``asked`` is the host that said it: a server that does not know its
    own name leaves it out.

    Raises:
        ValueError: it is nothing of the kind.
    """
    ranges = []
    try:
        for first, last, master, *replicas in reply:
            if not 0 <= first <= last < SLOTS:
                raise ValueError(f"slots {first} to {last}")
            places = [_address(server[0], server[1], asked) for server in (master, *replicas)]
            if places[0] is not None:
                others = tuple(place for place in places[1:] if place is not None)
                ranges.append(Range(first, last, places[0], master[2].decode(), others))
    except (TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"an unknown form ({error})") from error
    return ranges


def read_redirect(text: str, asked: str) -> Address | None:
    """The server that ``MOVED slot host:port`` or ``ASK slot host:port`` names; None if it has no
    name, or cannot be read. ``asked``: the host that said it."""
    found = _is_redirect(text)
    return None if found is None else _address(found[1].encode(), int(found[2]), asked)


def _address(host: bytes | None, port: int, asked: str) -> Address | None:
    if host == b"?":
        return None
    return Address(host.decode() if host else asked, port)


def mask_of(slots: Iterable[tuple[int, int]]) -> int:
    """The set of these ranges of slots."""
    mask = 0
    for first, last in slots:
        mask |= ((1 << (last - first + 1)) - 1) << first
    return mask


def write_mask(mask: int) -> str:
    """A set of slots as text, such as ``0-5460,7000``."""
    parts = []
    slot = 0
    while mask >> slot:
        rest = mask >> slot
        first = slot + (rest & -rest).bit_length() - 1
        gaps = ~(mask >> first)
        slot = first + (gaps & -gaps).bit_length() - 1
        parts.append(f"{first}-{slot - 1}" if slot - 1 > first else f"{first}")
    return ",".join(parts)


def read_mask(text: str) -> int:
    """The set that ``write_mask`` has written.

    Raises:
        ValueError: it has not.
    """
    ranges = []
    for part in text.split(",") if text else ():
        found = _is_range(part)
        if found is None:
            raise ValueError(part)
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < SLOTS:
            raise ValueError(part)
        ranges.append((first, last))
    return mask_of(ranges)
