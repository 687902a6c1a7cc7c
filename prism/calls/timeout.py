"""The text form of a timeout, as in the request header ``prism-timeout``."""

import re

from prism.contract.errors import InvalidRequest

TIMEOUT_FORM = "a number above zero with a unit, such as 250ms, 2s, 1.5s or 1m"

_FORM = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m)", re.ASCII).fullmatch
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


def parse_timeout(text: str) -> float:
    """Seconds for ``250ms``, ``2s``, ``1.5s`` or ``1m``; always above zero.

    Raises:
        InvalidRequest: anything else.
    """
    match = _FORM(text.strip(" \t"))
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if seconds <= 0:
        raise InvalidRequest(f"prism-timeout must be {TIMEOUT_FORM}")
    return seconds
