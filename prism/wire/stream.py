"""One open call, seen from one side: where it stands and what it may still send."""

from prism.contract.messages import Message
from prism.contract.service import REQUEST_TYPE, RESPONSE_TYPE, Method
from prism.wire._state import CALLER, HANDLER, StreamState, Trigger, refusal
from prism.wire.events import Open


class Stream:
    """A call from its OPEN to its CLOSE.

    ``mine`` says that this side opened it. ``send_credit`` and
    ``receive_credit`` count bytes of DATA frames, header and payload;
    both are 0 for calls that have no DATA.
    ``overrun`` is set once the peer sent DATA without credit. ``ticket`` is the
    OPEN's place in the outbox.
    """

    __slots__ = (
        "_table",
        "method",
        "mine",
        "overrun",
        "receive_credit",
        "send_credit",
        "state",
        "ticket",
    )

    def __init__(self, opened: Open, mine: bool, send_credit: int, receive_credit: int) -> None:
        self.method = opened.method
        self.mine = mine
        self.overrun = False
        self.ticket = 0
        self._table = CALLER if mine else HANDLER
        if opened.method is not Method.EXECUTE_STREAM:
            self.state = StreamState.ENDED
            self.send_credit = self.receive_credit = 0
            return
        self.send_credit = send_credit
        self.receive_credit = receive_credit
        if opened.end:
            self.state = StreamState.SENT_END if mine else StreamState.RECEIVED_END
        else:
            self.state = StreamState.OPEN

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
        return Trigger.SENT_DATA in self._table[self.state]

    def after(self, trigger: Trigger) -> StreamState:
        """The state that ``trigger`` leads to; the caller sets it.

        Raises:
            LocalProtocolError, RemoteProtocolError: it is illegal now.
        """
        state = self._table[self.state].get(trigger)
        if state is None:
            raise refusal(trigger, f"stream state {self.state.name} of {self.method.name}")
        return state
