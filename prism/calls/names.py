"""The names that clients put into a path, each with exactly one spelling.

Names are judged as the raw bytes of the path, before any percent-decoding, so
no escape, dot segment, letter case or look-alike can reach a second spelling.
"""

import re

from prism.contract.errors import InvalidRequest

_NAMESPACE = re.compile(rb"[a-z0-9][a-z0-9-]{0,62}").fullmatch
_OPERATION = re.compile(rb"[a-z][a-z0-9_]{0,63}").fullmatch


def namespace_name(raw: bytes) -> str:
    """``raw`` as a namespace's name.

    Raises:
        InvalidRequest: it is no such name.
    """
    if _NAMESPACE(raw) is None:
        raise InvalidRequest(
            "a namespace is 1 to 63 lower-case letters, digits and hyphens, no hyphen first"
        )
    return raw.decode("ascii")


def operation_name(raw: bytes) -> str:
    """``raw`` as an operation's name.

    Raises:
        InvalidRequest: it is no such name.
    """
    if _OPERATION(raw) is None:
        raise InvalidRequest(
            "an operation is 1 to 64 lower-case letters, digits and underscores, a letter first"
        )
    return raw.decode("ascii")
