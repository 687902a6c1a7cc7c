"""Answers of a cluster's servers after which a call goes on elsewhere, or after a pause."""

import random
from typing import Any

import anyio
from hiredis import ReplyError

from prism.sdk.multiplexed import NotSent

from .errors import code_of

MAX_TRIES = 10
"""How often one call is sent somewhere, at most; with the pauses below, for some seconds."""
FIRST_PAUSE = 0.05
LAST_PAUSE = 1.0
"""Seconds, twice as long from try to try."""

AGAIN = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING"})
"""What a server answers that has not run the command."""


def says_again(reply: Any) -> bool:
    """Whether a reply is one of AGAIN."""
    return type(reply) is ReplyError and code_of(reply) in AGAIN


def is_final(told: Any) -> bool:
    """Whether replies, or an error, are what the caller gets."""
    if isinstance(told, list):
        return not any(map(says_again, told))
    return not isinstance(told, NotSent)


async def pause(tries: int) -> None:
    """Wait after so many tries, and not as long as others do."""
    seconds = min(FIRST_PAUSE * 2**tries, LAST_PAUSE)
    await anyio.sleep(seconds * random.uniform(0.5, 1))  # noqa: S311 - no secret
