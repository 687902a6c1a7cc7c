"""The life of a generation. Everything that decides what may follow what lives here.

A table ``state -> trigger -> next state``; a trigger that is not in a state's row
is a bug of the caller. docs/lifecycle.md draws it. Each generation of a
namespace's plugin has a life of its own: a restart begins a new one, and during
a reload two run side by side.
"""

from collections.abc import Callable
from enum import StrEnum, auto
from typing import Final

from prism.contract.errors import PrismError


class State(StrEnum):
    """Where one generation stands."""

    BACKING_OFF = auto()  # the one before it failed: waits before it starts
    STARTING = auto()  # its process starts, or its connection is made
    INITIALIZING = auto()  # it can be talked to: Initialize, then the first good health check
    READY = auto()  # it serves
    DEGRADED = auto()  # it serves, and says that something is wrong
    DRAINING = auto()  # it gets no new calls and finishes those it has
    STOPPING = auto()  # it is told to shut down, and its process to end
    STOPPED = auto()  # it ended as it was asked to
    FAILED = auto()  # it ended, or was ended, by its own fault


class Trigger(StrEnum):
    """What moves a generation on."""

    DUE = auto()  # the pause before its start is over
    CONNECTED = auto()  # its channel can carry calls
    HEALTHY = auto()  # a health check says so
    IMPAIRED = auto()  # a health check says DEGRADED
    RETIRED = auto()  # it shall go: a stop, a reload, poor health, its own GOAWAY
    LOST = auto()  # its channel broke as it served: it crashed, broke the protocol, or is wedged
    DRAINED = auto()  # its last call has ended, or the time for that has passed
    ENDED = auto()  # its process is reaped, its connection closed
    BROKEN = auto()  # as ENDED, by its own fault: it could not start, or was lost


_S = State
_T = Trigger

TRANSITIONS: Final[dict[State, dict[Trigger, State]]] = {
    _S.BACKING_OFF: {
        _T.DUE: _S.STARTING,
        _T.RETIRED: _S.STOPPING,
    },
    _S.STARTING: {
        _T.CONNECTED: _S.INITIALIZING,
        _T.RETIRED: _S.STOPPING,
        _T.BROKEN: _S.FAILED,
    },
    _S.INITIALIZING: {
        _T.HEALTHY: _S.READY,
        _T.IMPAIRED: _S.DEGRADED,
        _T.RETIRED: _S.STOPPING,
        _T.BROKEN: _S.FAILED,
    },
    _S.READY: {
        _T.HEALTHY: _S.READY,
        _T.IMPAIRED: _S.DEGRADED,
        _T.RETIRED: _S.DRAINING,
        _T.LOST: _S.STOPPING,
    },
    _S.DEGRADED: {
        _T.HEALTHY: _S.READY,
        _T.IMPAIRED: _S.DEGRADED,
        _T.RETIRED: _S.DRAINING,
        _T.LOST: _S.STOPPING,
    },
    _S.DRAINING: {
        _T.DRAINED: _S.STOPPING,
    },
    _S.STOPPING: {
        _T.ENDED: _S.STOPPED,
        _T.BROKEN: _S.FAILED,
    },
    _S.STOPPED: {},
    _S.FAILED: {},
}

FIRST: Final = frozenset({State.BACKING_OFF, State.STARTING})
"""Where a life begins: after a failure it waits first."""
PENDING: Final = frozenset({State.BACKING_OFF, State.STARTING, State.INITIALIZING})
"""The states before it can serve."""
SERVING: Final = frozenset({State.READY, State.DEGRADED})
"""The states in which it gets calls."""
ENDING: Final = frozenset({State.DRAINING, State.STOPPING})
"""The states in which it gets no more calls, and is not over yet."""
OVER: Final = frozenset({State.STOPPED, State.FAILED})
"""The states in which nothing is left of it."""


class IllegalTransition(PrismError):
    """A trigger came that its state's row does not have: a bug."""


OnTransition = Callable[[State | None, State, str], None]
"""Called with the state before (None at the beginning), the one after, and the reason."""


class Lifecycle:
    """One generation's state, and since when it holds.

    ``on_transition`` is told of every change; ``now`` is the clock of ``since``.
    """

    def __init__(
        self,
        first: State,
        reason: str,
        on_transition: OnTransition,
        now: Callable[[], float],
    ) -> None:
        if first not in FIRST:
            raise IllegalTransition(f"no life begins in {first}")
        self.state = first
        self.reason = reason
        self.since = now()
        self._on_transition = on_transition
        self._now = now
        on_transition(None, first, reason)

    def can(self, trigger: Trigger) -> bool:
        """Does the trigger mean anything now?"""
        return trigger in TRANSITIONS[self.state]

    def move(self, trigger: Trigger, reason: str = "") -> State:
        """The next state. One that stays the same is no transition, and nobody is told.

        Raises:
            IllegalTransition: the table has no such row.
        """
        before = self.state
        try:
            after = TRANSITIONS[before][trigger]
        except KeyError:
            raise IllegalTransition(f"{trigger} means nothing in {before}") from None
        if after is not before:
            self.state = after
            self.reason = reason
            self.since = self._now()
            self._on_transition(before, after, reason)
        return after
