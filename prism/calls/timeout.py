"""The text form of a timeout, as in the request header ``prism-timeout``."""

import re

from prism.contract.errors import InvalidRequest

TIMEOUT_FORM = "a number above zero with a unit, such as 250ms, 2s, 1.5s or 1min"

_FORM = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|min|m)", re.ASCII).fullmatch
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0}


def parse_timeout(text: str) -> float:
    """Seconds for ``250ms``, ``2s``, ``1.5s`` or ``1min``; always above zero. ``m`` is no unit:
    it is minutes to some, and milliseconds in ``grpc-timeout``.

    Raises:
        InvalidRequest: anything else.
    """
    match = _FORM(text.strip(" \t"))
    if match and match[2] == "m":
        number = match[1]
        raise InvalidRequest(f"prism-timeout: say {number}min or {number}ms, for m may mean both")
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if seconds <= 0:
        raise InvalidRequest(f"prism-timeout must be {TIMEOUT_FORM}")
    return seconds
