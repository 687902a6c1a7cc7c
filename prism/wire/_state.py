"""The state machines. Everything that decides what is legal when lives here.

Two machines run side by side: one for the connection, one for each open stream.
Both are tables ``state -> trigger -> next state``; a trigger that is not in a
state's row is illegal there. Triggers say who acted: ``SENT`` is this side,
``RECEIVED`` the peer. docs/protocol.md draws both tables.
"""

from enum import IntEnum, auto
from typing import Final

from prism.contract.errors import LocalProtocolError, ProtocolError, RemoteProtocolError


class Role(IntEnum):
    """Which end of the connection this is. The host is the proxy."""

    HOST = auto()
    PLUGIN = auto()


class ConnectionState(IntEnum):
    """Where the connection as a whole stands."""

    START = auto()  # nothing exchanged; the plugin's HELLO is next
    OFFERED = auto()  # the plugin's HELLO has passed; the host's is next
    READY = auto()
    GOAWAY_SENT = auto()  # this side drains: the peer should open no more calls
    GOAWAY_RECEIVED = auto()  # the peer drains: this side must open no more calls
    GOAWAY_BOTH = auto()
    CLOSED = auto()  # nothing more in either direction


class StreamState(IntEnum):
    """Where one call stands. A call that is closed has no state: it is forgotten."""

    OPEN = auto()  # messages may flow both ways
    SENT_END = auto()  # this side will send no more messages
    RECEIVED_END = auto()  # the peer will send no more messages
    ENDED = auto()  # no more messages: the CLOSE is next
    CANCELLED = auto()  # the caller gave up: the CLOSE is next
    CLOSED = auto()


class Trigger(IntEnum):
    """One act that moves a machine."""

    SENT_HELLO = auto()
    RECEIVED_HELLO = auto()
    SENT_OPEN = auto()
    RECEIVED_OPEN = auto()
    SENT_DATA = auto()
    RECEIVED_DATA = auto()
    SENT_DATA_END = auto()
    RECEIVED_DATA_END = auto()
    SENT_CLOSE = auto()
    RECEIVED_CLOSE = auto()
    SENT_CANCEL = auto()
    RECEIVED_CANCEL = auto()
    SENT_CREDIT = auto()
    RECEIVED_CREDIT = auto()
    SENT_PING = auto()
    RECEIVED_PING = auto()
    SENT_GOAWAY = auto()
    RECEIVED_GOAWAY = auto()
    SENT_NOTE = auto()
    RECEIVED_NOTE = auto()
    ENDED = auto()  # end of file, a broken transport, or a close by this side


_C = ConnectionState
_S = StreamState
_T = Trigger

# Once both HELLOs have passed, these are legal until the end and move nothing.
_RUNNING: Final = (
    _T.SENT_DATA,
    _T.RECEIVED_DATA,
    _T.SENT_CLOSE,
    _T.RECEIVED_CLOSE,
    _T.SENT_CANCEL,
    _T.RECEIVED_CANCEL,
    _T.SENT_CREDIT,
    _T.RECEIVED_CREDIT,
    _T.SENT_PING,
    _T.RECEIVED_PING,
    _T.SENT_NOTE,
    _T.RECEIVED_NOTE,
)


def _running(state: ConnectionState) -> dict[Trigger, ConnectionState]:
    return dict.fromkeys(_RUNNING, state)


# An OPEN that arrives after our GOAWAY crossed it on the way: it is legal, and
# answered with CLOSE and NOT_STARTED.
_AFTER_HELLO: Final[dict[ConnectionState, dict[Trigger, ConnectionState]]] = {
    _C.READY: {
        **_running(_C.READY),
        _T.SENT_OPEN: _C.READY,
        _T.RECEIVED_OPEN: _C.READY,
        _T.SENT_GOAWAY: _C.GOAWAY_SENT,
        _T.RECEIVED_GOAWAY: _C.GOAWAY_RECEIVED,
        _T.ENDED: _C.CLOSED,
    },
    _C.GOAWAY_SENT: {
        **_running(_C.GOAWAY_SENT),
        _T.SENT_OPEN: _C.GOAWAY_SENT,
        _T.RECEIVED_OPEN: _C.GOAWAY_SENT,
        _T.SENT_GOAWAY: _C.GOAWAY_SENT,
        _T.RECEIVED_GOAWAY: _C.GOAWAY_BOTH,
        _T.ENDED: _C.CLOSED,
    },
    _C.GOAWAY_RECEIVED: {
        **_running(_C.GOAWAY_RECEIVED),
        _T.RECEIVED_OPEN: _C.GOAWAY_RECEIVED,
        _T.SENT_GOAWAY: _C.GOAWAY_BOTH,
        _T.RECEIVED_GOAWAY: _C.GOAWAY_RECEIVED,
        _T.ENDED: _C.CLOSED,
    },
    _C.GOAWAY_BOTH: {
        **_running(_C.GOAWAY_BOTH),
        _T.RECEIVED_OPEN: _C.GOAWAY_BOTH,
        _T.SENT_GOAWAY: _C.GOAWAY_BOTH,
        _T.RECEIVED_GOAWAY: _C.GOAWAY_BOTH,
        _T.ENDED: _C.CLOSED,
    },
    _C.CLOSED: {_T.ENDED: _C.CLOSED},
}

CONNECTION: Final[dict[Role, dict[ConnectionState, dict[Trigger, ConnectionState]]]] = {
    Role.HOST: {
        _C.START: {
            _T.RECEIVED_HELLO: _C.OFFERED,
            _T.SENT_GOAWAY: _C.CLOSED,
            _T.RECEIVED_GOAWAY: _C.CLOSED,
            _T.ENDED: _C.CLOSED,
        },
        _C.OFFERED: {
            _T.SENT_HELLO: _C.READY,
            _T.SENT_GOAWAY: _C.CLOSED,
            _T.RECEIVED_GOAWAY: _C.CLOSED,
            _T.ENDED: _C.CLOSED,
        },
        **_AFTER_HELLO,
    },
    Role.PLUGIN: {
        _C.START: {
            _T.SENT_HELLO: _C.OFFERED,
            _T.SENT_GOAWAY: _C.CLOSED,
            _T.RECEIVED_GOAWAY: _C.CLOSED,
            _T.ENDED: _C.CLOSED,
        },
        _C.OFFERED: {
            _T.RECEIVED_HELLO: _C.READY,
            _T.SENT_GOAWAY: _C.CLOSED,
            _T.RECEIVED_GOAWAY: _C.CLOSED,
            _T.ENDED: _C.CLOSED,
        },
        **_AFTER_HELLO,
    },
}
"""What each role may do and must accept, in every state of the connection."""


def _stream(cancel: Trigger, close: Trigger) -> dict[StreamState, dict[Trigger, StreamState]]:
    leave = {cancel: _S.CANCELLED, close: _S.CLOSED}
    credit = (_T.SENT_CREDIT, _T.RECEIVED_CREDIT)
    return {
        _S.OPEN: {
            **leave,
            **dict.fromkeys(credit, _S.OPEN),
            _T.SENT_DATA: _S.OPEN,
            _T.SENT_DATA_END: _S.SENT_END,
            _T.RECEIVED_DATA: _S.OPEN,
            _T.RECEIVED_DATA_END: _S.RECEIVED_END,
        },
        _S.SENT_END: {
            **leave,
            **dict.fromkeys(credit, _S.SENT_END),
            _T.RECEIVED_DATA: _S.SENT_END,
            _T.RECEIVED_DATA_END: _S.ENDED,
        },
        _S.RECEIVED_END: {
            **leave,
            **dict.fromkeys(credit, _S.RECEIVED_END),
            _T.SENT_DATA: _S.RECEIVED_END,
            _T.SENT_DATA_END: _S.ENDED,
        },
        _S.ENDED: {**leave, **dict.fromkeys(credit, _S.ENDED)},
        _S.CANCELLED: {
            **leave,
            **dict.fromkeys(credit, _S.CANCELLED),
            _T.RECEIVED_DATA: _S.CANCELLED,
            _T.RECEIVED_DATA_END: _S.CANCELLED,
        },
    }


CALLER: Final = _stream(cancel=_T.SENT_CANCEL, close=_T.RECEIVED_CLOSE)
"""A stream this side opened: it may cancel, the peer closes."""

HANDLER: Final = _stream(cancel=_T.RECEIVED_CANCEL, close=_T.SENT_CLOSE)
"""A stream the peer opened: the peer may cancel, this side closes."""


def refusal(trigger: Trigger, where: str) -> ProtocolError:
    """The error for a trigger that is illegal; its name says whose fault that is."""
    who, _, what = trigger.name.partition("_")
    if who == "RECEIVED":
        return RemoteProtocolError(f"{what} is not allowed in {where}")
    return LocalProtocolError(f"cannot send {what} in {where}")
