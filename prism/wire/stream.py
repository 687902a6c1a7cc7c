"""One open call, seen from one side: where it stands and what it may still send."""

import msgspec

from prism.contract.messages import Message
from prism.contract.service import REQUEST_TYPE, RESPONSE_TYPE, Method
from prism.wire._state import CALLER, HANDLER, StreamState, Trigger, refusal
from prism.wire.events import Open

# Every call comes by these: on Python 3.11 an enum's attribute is a Python call.
_EXECUTE_STREAM = Method.EXECUTE_STREAM
_ENDED = StreamState.ENDED


class Stream(msgspec.Struct, gc=False):
    """A call from its OPEN to its CLOSE.

    ``mine`` says that this side opened it. ``send_credit`` and
    ``receive_credit`` count bytes of DATA frames, header and payload;
    both are 0 for calls that have no DATA.
    ``overrun`` is set once the peer sent DATA without credit. ``ticket`` is the
    OPEN's place in the outbox.
    """

    method: Method
    mine: bool
    state: StreamState
    send_credit: int = 0
    receive_credit: int = 0
    overrun: bool = False
    ticket: int = 0

    @property
    def sends(self) -> type[Message]:
        """The type of the messages that this side's DATA carries."""
        return (REQUEST_TYPE if self.mine else RESPONSE_TYPE)[self.method]

    @property
    def receives(self) -> type[Message]:
        """The type of the messages that the peer's DATA carries."""
        return (RESPONSE_TYPE if self.mine else REQUEST_TYPE)[self.method]

    @property
    def may_send_data(self) -> bool:
        """Is DATA legal now, credit aside?"""
        return Trigger.SENT_DATA in (CALLER if self.mine else HANDLER)[self.state]

    def after(self, trigger: Trigger) -> StreamState:
        """The state that ``trigger`` leads to; the caller sets it.

        Raises:
            LocalProtocolError, RemoteProtocolError: it is illegal now.
        """
        state = (CALLER if self.mine else HANDLER)[self.state].get(trigger)
        if state is None:
            raise refusal(trigger, f"stream state {self.state.name} of {self.method.name}")
        return state


def stream_of(opened: Open, mine: bool, send_credit: int, receive_credit: int) -> Stream:
    """The call that ``opened`` begins; the credits are for calls that have DATA."""
    if opened.method != _EXECUTE_STREAM:
        return Stream(opened.method, mine, _ENDED)
    if not opened.end:
        state = StreamState.OPEN
    else:
        state = StreamState.SENT_END if mine else StreamState.RECEIVED_END
    return Stream(opened.method, mine, state, send_credit, receive_credit)
