"""The gRPC status codes, which Prism uses on every floor.

Source: https://grpc.github.io/grpc/core/md_doc_statuscodes.html. They travel
as ``error_code`` in contract messages and as ``aux`` of CLOSE and CANCEL frames.
"""

from enum import IntEnum


class StatusCode(IntEnum):
    """How a call ended. ``OK`` is the only success."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @classmethod
    def from_wire(cls, code: int) -> "StatusCode":
        """The status for a number a peer sent; numbers outside 0-16 are UNKNOWN."""
        return _BY_NUMBER.get(code, _UNKNOWN)


_BY_NUMBER = {int(code): code for code in StatusCode}
_UNKNOWN = StatusCode.UNKNOWN  # on every call's way: as an attribute of the class it costs more
