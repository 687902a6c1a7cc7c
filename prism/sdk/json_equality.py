"""Whether two JSON texts say the same: key order, escapes, white space and how a number is
written do not matter. 1, 1.0 and 1e0 are equal; true and 1 are not."""

from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

_Number = int | Decimal


def _number(text: str) -> Decimal | tuple[str]:
    """Exact, unlike a float; beyond what Decimal can hold, a number is its text."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return (text,)


_decoder = msgspec.json.Decoder(float_hook=_number)


def decode_exactly(text: bytes | str) -> Any:
    """JSON's value, no digit of its numbers lost. Raises msgspec.MsgspecError, RecursionError."""
    return _decoder.decode(text)


def equal(one: bytes, other: bytes) -> bool:
    """Whether two JSON texts are equal as values.

    Raises:
        RecursionError: they are nested deeper than Python's stack allows (about 1,000).
    """
    if one == other:
        return True
    pairs: list[tuple[Any, Any]] = [(_decoder.decode(one), _decoder.decode(other))]
    while pairs:
        left, right = pairs.pop()
        if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
            pairs += [(left[key], right[key]) for key in left]
        elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
            pairs += zip(left, right, strict=True)
        elif not _same(left, right):
            return False
    return True


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, _Number) and isinstance(right, _Number):
        return left == right
    return type(left) is type(right) and bool(left == right)
