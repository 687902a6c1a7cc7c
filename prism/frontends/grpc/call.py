"""One gRPC call on its HTTP/2 stream: messages in, messages out, and a status at the end.

The status always leaves as trailers after a head (and perhaps a body): an answer of trailers
alone is taken as UNKNOWN by clients whose server wrote its head apart.
"""

from collections.abc import Iterable
from math import inf

import trio

from prism.calls.call import BODY_PAUSE
from prism.contract.errors import (
    CallCancelled,
    CallError,
    InvalidRequest,
    RemoteProtocolError,
    RequestTimeout,
    UnsupportedEncoding,
)
from prism.contract.status import StatusCode
from prism.frontends.answering import ExchangeCall, Observer
from prism.frontends.headers import RequestHeaders
from prism.grpc.framing import ACCEPT_ENCODING, Encoding, MessageReader, pack
from prism.grpc.status import encode_message, encode_retry_info, parse_timeout
from prism.server.exchange import Exchange, Headers, Phase

COMPRESS_FROM = 1024
"""Bytes of a message below which compressing costs more than it saves."""
_OK = [(b"grpc-status", b"0")]


def broken(detail: str) -> InvalidRequest:
    """What came is no message: INTERNAL, as every gRPC server says it (gRPC status codes)."""
    error = InvalidRequest(detail)
    error.status = StatusCode.INTERNAL
    return error


def _wrong_number(detail: str) -> InvalidRequest:
    """A unary call with no message, or with several: UNIMPLEMENTED (gRPC status codes)."""
    error = InvalidRequest(detail)
    error.status = StatusCode.UNIMPLEMENTED
    return error


class GrpcCall(ExchangeCall):
    """One call. ``request_headers`` has the last value of each request header, by name."""

    __slots__ = ("_answer_encoding", "_reader", "request_headers")

    def __init__(self, exchange: Exchange, observer: Observer) -> None:
        super().__init__(exchange, observer)
        self.http_status = 200
        self.request_headers = dict(exchange.headers)
        client = exchange.peer.client
        self.client = client[0] if client else ""
        self._reader: MessageReader | None = None
        self._answer_encoding = Encoding.IDENTITY
        if RequestHeaders.is_particular_of(self.request_headers):
            headers = RequestHeaders(exchange.headers)
            self.identify(headers.request_id(), headers.trace())
        else:
            self.identify()

    def header(self, name: bytes) -> str:
        """A request header as text; empty when it is not there."""
        return self.request_headers.get(name, b"").decode("latin-1")

    def timeout(self) -> float | None:
        """Seconds in ``grpc-timeout``.

        Raises:
            InvalidRequest: it cannot be read.
        """
        given = self.header(b"grpc-timeout")
        if not given:
            return None
        try:
            return parse_timeout(given)
        except RemoteProtocolError as error:
            raise InvalidRequest(str(error)) from None

    # -- in -------------------------------------------------------------------

    def expect_messages(self, limit: int) -> MessageReader:
        """Take in messages of at most ``limit`` bytes.

        Raises:
            UnsupportedEncoding: they are compressed in a way not spoken here.
        """
        named = self.header(b"grpc-encoding") or Encoding.IDENTITY
        if named not in _ENCODINGS:
            raise UnsupportedEncoding(named, list(Encoding))
        self._reader = MessageReader(limit, Encoding(named))
        if named != Encoding.IDENTITY:
            accepted = self.header(b"grpc-accept-encoding").replace(" ", "").split(",")
            if named in accepted:
                self._answer_encoding = Encoding(named)
        return self._reader

    def only_message_of(self, body: bytes | bytearray) -> bytes:
        """The one message of a unary call's whole body; ``expect_messages`` first.

        Raises:
            InvalidRequest: there is none, or more than one, or it is no message.
            PayloadTooLarge: it is over the limit.
        """
        reader = self._reader
        assert reader is not None  # noqa: S101 - the caller's order of calls
        reader.feed(body)
        message = self._next(reader, ended=True)
        if message is None:
            raise _wrong_number("the call has no message")
        if self._next(reader, ended=True) is not None:
            raise _wrong_number("a unary call has one message, and more came")
        return message

    async def next_message(self) -> bytes | None:
        """The client's next message, ``None`` after its last; ``expect_messages`` first.

        Raises:
            InvalidRequest: what came is no message.
            PayloadTooLarge: it is over the limit.
            MemoryFull: there is no room for what has come of it.
            CallCancelled: the client went away.
        """
        reader = self._reader
        assert reader is not None  # noqa: S101 - the caller's order of calls
        ended = False
        while (message := self._next(reader, ended=ended)) is None and not ended:
            data = await self.exchange.read()
            self.bytes_in += len(data)
            reader.feed(data)
            if self.target is not None:
                self.hold(reader.buffered)
            ended = not data
        return message

    def _next(self, reader: MessageReader, *, ended: bool) -> bytes | None:
        try:
            message = reader.next_message()
        except RemoteProtocolError as error:
            raise broken(str(error)) from None
        if message is None and ended and reader.incomplete:
            raise broken("the request ended in the middle of a gRPC message")
        return message

    async def only_message(self) -> bytes:
        """The one message of a unary call, as ``next_message``, and in time.

        Raises:
            InvalidRequest: there is none, or more than one.
            RequestTimeout: the client paused for too long.
        """
        with trio.move_on_after(BODY_PAUSE):
            message = await self.next_message()
            if message is None:
                raise _wrong_number("the call has no message")
            if await self.next_message() is not None:
                raise _wrong_number("a unary call has one message, and more came")
            return message
        raise RequestTimeout(f"the message did not arrive within {BODY_PAUSE:g} s")

    # -- out ------------------------------------------------------------------

    async def begin(self) -> None:
        """Send the answer's head, so that the client knows that its call was accepted."""
        if self.exchange.phase is Phase.WAITING:
            await self.exchange.begin(200, self._head())

    async def send_messages(self, payloads: Iterable[bytes]) -> None:
        """Send messages; waits while the client takes no more."""
        await self.begin()
        data = b"".join(map(self._packed, payloads))
        self.bytes_out += len(data)
        await self.exchange.write(data)

    async def finish(self, error: CallError | None = None) -> None:
        """End the answer, whatever has been sent of it."""
        if self.exchange.phase is Phase.WAITING:
            self.exchange.respond(200, self._head(), b"", self._trailers(error))
        else:
            await self.exchange.finish(self._trailers(error))

    def send_message(self, payload: bytes) -> None:
        """The whole answer: one message. Never waits."""
        data = self._packed(payload)
        self.bytes_out = len(data)
        self.exchange.unwatch()
        trailers = _OK if self.hedge is None and not self.retries else self._trailers(None)
        self.exchange.respond(200, self._head(), data, trailers)

    def send_error(self, error: CallError) -> None:
        if self.exchange.phase is Phase.WAITING:
            self.exchange.unwatch()
            self.exchange.respond(200, self._head(), b"", self._trailers(error))
        else:
            self.exchange.abort()

    def note(self, error: CallError) -> None:
        """gRPC's errors are answers of HTTP status 200."""
        super().note(error)
        if not isinstance(error, CallCancelled):
            self.http_status = 200

    def _packed(self, payload: bytes) -> bytes:
        if self._answer_encoding is not Encoding.IDENTITY and len(payload) >= COMPRESS_FROM:
            return pack(payload, self._answer_encoding)
        return pack(payload)

    def _head(self) -> Headers:
        headers = [_CONTENT_TYPE, _ACCEPT_ENCODING, *self.own_headers()]
        if self._answer_encoding is not Encoding.IDENTITY:
            headers.append((b"grpc-encoding", self._answer_encoding.encode("ascii")))
        return headers

    def _trailers(self, error: CallError | None) -> Headers:
        if error is None:
            return [*_OK, *self.attempts_headers()]
        trailers = [(b"grpc-status", b"%d" % error.status)]
        if error.detail:
            trailers.append((b"grpc-message", encode_message(error.detail).encode("ascii")))
        trailers.append((b"prism-reason", error.reason.encode("ascii")))
        if error.retry_after is not None and error.retry_after != inf:
            details = encode_retry_info(error.status, error.detail, error.retry_after)
            trailers.append((b"grpc-status-details-bin", details.encode("ascii")))
        return trailers + self.attempts_headers()


_ENCODINGS = frozenset(Encoding)
_CONTENT_TYPE = (b"content-type", b"application/grpc")
_ACCEPT_ENCODING = (b"grpc-accept-encoding", ACCEPT_ENCODING.encode("ascii"))
