"""W3C Trace Context: which trace a call belongs to.

Source: https://www.w3.org/TR/trace-context/. Prism exports no spans of its own,
so a client's ``traceparent`` travels on unchanged: a new parent id would point
to a span that no tracing backend ever sees.
"""

import re
from typing import NamedTuple

_VERSION_00 = re.compile(
    rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
).fullmatch
_LATER_VERSION = re.compile(
    rb"(?!ff|00)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
).fullmatch
_TRACESTATE = re.compile(rb"[\x20-\x7e]{1,512}").fullmatch


class Trace(NamedTuple):
    """A trace context; ``state`` is the ``tracestate`` header, or empty."""

    trace_id: str
    parent: str
    state: str = ""


def parse_trace(traceparent: bytes, tracestate: bytes = b"") -> Trace | None:
    """The trace context in a request's headers; None if it is invalid.

    A later version of the format is read as far as version 00 reaches, and sent
    on as version 00. An invalid ``tracestate`` is dropped on its own.
    """
    match = _VERSION_00(traceparent) or _LATER_VERSION(traceparent)
    if match is None:
        return None
    trace_id, parent_id, flags = (part.decode("ascii") for part in match.groups())
    state = tracestate.decode("ascii") if _TRACESTATE(tracestate) else ""
    return Trace(trace_id, f"00-{trace_id}-{parent_id}-{flags}", state)
