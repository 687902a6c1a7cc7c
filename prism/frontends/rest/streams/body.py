"""A stream's messages from the client: the lines of a body."""

from prism.calls.json_text import check_params
from prism.contract.errors import PayloadTooLarge
from prism.contract.messages import StreamRequest
from prism.frontends.answering import ExchangeCall


class RequestLines:
    """The body as ``application/x-ndjson``: the first line is the call's params, each
    further one a message. Blank lines say nothing, but count. ``place`` names the last line."""

    def __init__(self, call: ExchangeCall) -> None:
        self.place = ""
        self._call = call
        self._exchange = call.exchange
        self._buffer = bytearray()
        self._searched = 0
        self._complete = False
        self._limit = 0
        self._line = 0

    async def first(self, limit: int) -> bytes:
        """The first line; none is longer than ``limit`` bytes.

        Raises:
            PayloadTooLarge: it is.
            MemoryFull: there is no room for what has come of it.
            CallCancelled: the client went away.
        """
        self._limit = limit
        return await self._next_line() or b""

    async def next_message(self) -> StreamRequest | None:
        """The next message, ``None`` after the last.

        Raises:
            InvalidRequest: a line is not a JSON object, or over the namespace's limit.
            CallCancelled: the client went away.
        """
        line = await self._next_line()
        return None if line is None else StreamRequest(params_json=check_params(line, self.place))

    async def _next_line(self) -> bytes | None:
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end < 0 and not self._complete:
                self._searched = len(self._buffer)
                await self._receive_more()
                continue
            if end < 0:
                line, end = bytes(self._buffer), len(self._buffer)
            else:
                line = bytes(self._buffer[:end])
            if len(line) > self._limit:
                raise PayloadTooLarge(self._limit, "a line of the request's body")
            del self._buffer[: end + 1]
            self._searched = 0
            self._line += 1
            self.place = f"line {self._line} of the body"
            if line.strip():
                return line
            if self._complete and not self._buffer:
                return None

    async def _receive_more(self) -> None:
        if len(self._buffer) > self._limit:
            raise PayloadTooLarge(self._limit, "a line of the request's body")
        chunk = await self._exchange.read()
        self._call.bytes_in += len(chunk)
        self._buffer += chunk
        self._call.hold(len(self._buffer))
        self._complete = not chunk
