"""A streaming call whose messages are the body of one HTTP response."""

from prism.calls.request import CallRecord
from prism.calls.stream import ClientStream
from prism.contract.errors import CallError, PluginMisbehaved
from prism.contract.messages import StreamRequest, StreamResponse
from prism.frontends.problems import problem
from prism.frontends.rest.streams.body import RequestLines
from prism.frontends.rest.streams.formats import StreamFormat
from prism.frontends.stream_text import stream_headers
from prism.server import Send


class HTTPStream(ClientStream):
    """Writes the response. ``begun`` tells whether its head has gone out, after which an
    error can only be said within it."""

    def __init__(
        self, send: Send, record: CallRecord, form: StreamFormat, lines: RequestLines | None
    ) -> None:
        self.begun = False
        self.one_way = lines is None
        self.heartbeat = form.heartbeat
        self._send = send
        self._record = record
        self._form = form
        self._lines = lines

    async def receive(self) -> StreamRequest | None:
        return await self._lines.next_message() if self._lines is not None else None

    async def begin(self) -> None:
        if self.begun:
            return
        self.begun = True
        self._record.http_status = 200
        headers = stream_headers(self._form.content_type, self._record.request_id)
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        # ASGI servers hold the head until the first of the body.
        await self._write(self._form.beat())

    async def send(self, response: StreamResponse) -> None:
        await self.send_some([response])

    async def send_some(self, responses: list[StreamResponse]) -> None:
        texts: list[bytes] = []
        failure: PluginMisbehaved | None = None
        for response in responses:
            try:
                texts.append(self._form.message(response))
            except PluginMisbehaved as error:
                failure = error
                break
        if texts:
            await self.begin()
            await self._write(b"".join(texts))
        if failure is not None:
            raise failure

    async def beat(self) -> None:
        await self._write(self._form.beat())

    async def end(self, error: CallError | None = None) -> None:
        """End the response; with ``error``, where it has begun and was cut short."""
        self._record.is_answered = True
        if error is None:
            await self._write(self._form.end(), more=False)
        else:
            body = problem(error, self._record).body
            await self._write(self._form.error(body), more=False)

    async def _write(self, data: bytes, *, more: bool = True) -> None:
        self._record.bytes_out += len(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
