"""A streaming call whose messages are the body of one HTTP response."""

from prism.calls.stream import ClientStream, taken_from
from prism.contract.errors import CallError, PluginMisbehaved
from prism.contract.messages import StreamRequest, StreamResponse
from prism.frontends.answering import ExchangeCall
from prism.frontends.rest.streams.body import RequestLines
from prism.frontends.rest.streams.formats import StreamFormat
from prism.frontends.stream_text import stream_headers
from prism.server.problems import problem


class HTTPStream(ClientStream):
    """Writes the response."""

    def __init__(self, call: ExchangeCall, form: StreamFormat, lines: RequestLines | None) -> None:
        self.one_way = lines is None
        self.heartbeat = form.heartbeat
        self._call = call
        self._exchange = call.exchange
        self._form = form
        self._lines = lines

    async def receive(self) -> StreamRequest | None:
        return await self._lines.next_message() if self._lines is not None else None

    async def begin(self) -> None:
        if self.begun:
            return
        self.begun = True
        self._call.http_status = 200
        headers = stream_headers(self._form.content_type, self._call.request_id)
        headers += self._call.attempts_headers()
        headers += self._call.extra_headers
        if self._call.standing is not None:
            headers += self._call.standing.headers()
        await self._exchange.begin(200, headers)
        await self._write(self._form.beat())

    async def send(self, response: StreamResponse) -> None:
        await self.send_some([response])

    async def send_some(self, responses: list[StreamResponse]) -> None:
        texts: list[bytes] = []
        failure: PluginMisbehaved | None = None
        try:
            for response in taken_from(responses):
                texts.append(self._form.message(response))
                del response
        except PluginMisbehaved as error:
            failure = error
        if texts:
            await self.begin()
            await self._write(b"".join(texts))
        if failure is not None:
            raise failure

    async def beat(self) -> None:
        await self._write(self._form.beat())

    async def end(self, error: CallError | None) -> None:
        if error is None:
            await self._write(self._form.end())
        else:
            call = self._call
            told = problem(error, call.request_id, call.namespace, call.operation)
            await self._write(self._form.error(told.body))
        await self._exchange.finish()

    async def _write(self, data: bytes) -> None:
        if data:
            self._call.bytes_out += len(data)
            await self._exchange.write(data)
