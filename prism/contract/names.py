"""The names that clients, operators and plugins use: for each kind one pattern and one sentence.

The patterns are without anchors, to be part of larger ones; they hold ASCII only.

``namespace_name`` and ``operation_name`` judge the raw bytes of a path, before any
percent-decoding, so that no escape, dot segment, letter case or look-alike can reach a
second spelling of a name.
"""

import re

from prism.contract.errors import InvalidRequest

NAMESPACE = r"[a-z0-9][a-z0-9-]{0,62}"
NAMESPACE_FORM = "1 to 63 lower-case letters, digits and hyphens, no hyphen first"

OPERATION = r"[a-z][a-z0-9_]{0,63}"
OPERATION_FORM = "1 to 64 lower-case letters, digits and underscores, a letter first"

PLUGIN = NAMESPACE
"""A plugin in the catalogue, or a kind of backend; in the same form as a namespace."""

VERSION = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}"
"""A version of a plugin in the catalogue."""

SECRET = r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}"  # noqa: S105 - a pattern of names
"""A secret: it may be the name of a file, so it has no slash, and no dot first."""

_SHOWN = 80
"""Bytes of a name that is none which a message quotes."""

_is_namespace = re.compile(NAMESPACE.encode()).fullmatch
_is_operation = re.compile(OPERATION.encode()).fullmatch


def namespace_name(raw: bytes) -> str:
    """``raw`` as a namespace's name.

    Raises:
        InvalidRequest: it is no such name.
    """
    if _is_namespace(raw) is None:
        raise InvalidRequest(f"a namespace is {NAMESPACE_FORM}; found {_shown(raw)}")
    return raw.decode("ascii")


def operation_name(raw: bytes) -> str:
    """``raw`` as an operation's name.

    Raises:
        InvalidRequest: it is no such name.
    """
    if _is_operation(raw) is None:
        raise InvalidRequest(f"an operation is {OPERATION_FORM}; found {_shown(raw)}")
    return raw.decode("ascii")


def _shown(raw: bytes) -> str:
    """What was found, as a message shows it."""
    more = "..." if len(raw) > _SHOWN else ""
    return f'"{raw[:_SHOWN].decode("ascii", errors="backslashreplace")}{more}"'
