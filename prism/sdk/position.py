"""Streams that can be resumed: a message with the place that it stands at."""

from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Positioned(NamedTuple, Generic[T]):
    """What a streaming operation yields in place of a bare value.

    ``position`` is text of the plugin's own: a client that lost its stream hands the last
    one back, as ``Call.resume_after``, and expects what came after it.
    """

    value: T
    position: str
