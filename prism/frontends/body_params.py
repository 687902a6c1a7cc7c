"""A call's parameters, read from the body of an HTTP request."""

import trio

from prism.calls.request import CallRecord, Params
from prism.contract.errors import CallCancelled, PayloadTooLarge, RequestTimeout
from prism.server import Receive

IDLE_SECONDS = 30.0
"""How long a client may pause within a body. The call's deadline holds beside it."""


class BodyParams(Params):
    """The body of one request.

    ``declared`` is its ``content-length``, if it has one; ``deadline`` the call's,
    which the policies hold.
    """

    def __init__(
        self, receive: Receive, declared: int | None, deadline: float, record: CallRecord
    ) -> None:
        self._receive = receive
        self._declared = declared
        self._deadline = deadline
        self._record = record

    async def read(self, limit: int) -> bytes:
        """The whole body; see ``Params.read``."""
        if self._declared is not None and self._declared > limit:
            raise PayloadTooLarge(limit)
        patience = self._record.started + IDLE_SECONDS
        if self._deadline <= patience:
            # The call ends before any pause is too long: the usual case, kept cheap.
            return await self._read(limit, None)
        with trio.CancelScope(deadline=patience) as idle:
            return await self._read(limit, idle)
        raise RequestTimeout(f"the request's body paused for more than {IDLE_SECONDS:g} s")

    async def _read(self, limit: int, idle: trio.CancelScope | None) -> bytes:
        # Not a list of chunks: an object for every two bytes takes twenty times their memory.
        before = bytearray()
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise CallCancelled("the client went away before its request was complete")
            chunk = message.get("body", b"")
            self._record.bytes_in += len(chunk)
            if self._record.bytes_in > limit:
                raise PayloadTooLarge(limit)
            if not message.get("more_body", False):
                return bytes(before + chunk) if before else chunk
            before += chunk
            if idle is not None:
                idle.deadline = trio.current_time() + IDLE_SECONDS
