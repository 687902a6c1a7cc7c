"""One gRPC call on its HTTP/2 stream: messages in, messages out, and a status at the end.

The status always leaves as trailers after a (perhaps empty) body: an answer of trailers
alone is taken as UNKNOWN by clients whose server wrote its head apart.
"""

from collections.abc import Iterable
from typing import Any

import trio

from prism.contract.errors import (
    CallCancelled,
    CallError,
    InvalidRequest,
    RemoteProtocolError,
    RequestTimeout,
    UnsupportedEncoding,
)
from prism.contract.status import StatusCode
from prism.frontends.body_params import IDLE_SECONDS
from prism.grpc.framing import ACCEPT_ENCODING, Encoding, MessageReader, pack
from prism.grpc.status import encode_message, parse_timeout
from prism.server import Receive, Scope, Send

COMPRESS_FROM = 1024
"""Bytes of a message below which compressing costs more than it saves."""


class GrpcCall:
    """One call. ``headers`` has the last value of each request header, by name.

    ``request_id`` goes out with the answer's head.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.path: str = scope["path"]
        self.client: str = client[0] if (client := scope.get("client")) else ""
        self.request_id = ""
        self.bytes_in = 0
        self.bytes_out = 0
        self._receive = receive
        self._send = send
        self._reader: MessageReader | None = None
        self._ended = False
        self._begun = False
        self._answer_encoding = Encoding.IDENTITY

    def header(self, name: bytes) -> str:
        """A request header as text; empty when it is not there."""
        return self.headers.get(name, b"").decode("latin-1")

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

    def expect_messages(self, limit: int) -> None:
        """Take in messages of at most ``limit`` bytes.

        Raises:
            UnsupportedEncoding: they are compressed in a way not spoken here.
        """
        named = self.header(b"grpc-encoding") or Encoding.IDENTITY
        if named not in list(Encoding):
            raise UnsupportedEncoding(named, list(Encoding))
        self._reader = MessageReader(limit, Encoding(named))
        accepted = self.header(b"grpc-accept-encoding").replace(" ", "").split(",")
        if named != Encoding.IDENTITY and named in accepted:
            self._answer_encoding = Encoding(named)

    async def next_message(self) -> bytes | None:
        """The client's next message, ``None`` after its last; ``expect_messages`` first.

        Raises:
            InvalidRequest: what came is no message.
            PayloadTooLarge: it is over the limit.
            CallCancelled: the client went away.
        """
        reader = self._reader
        assert reader is not None  # noqa: S101 - the caller's order of calls
        while True:
            try:
                message = reader.next_message()
            except RemoteProtocolError as error:
                raise InvalidRequest(str(error)) from None
            if message is not None:
                return message
            if self._ended:
                if reader.incomplete:
                    raise InvalidRequest("the request ended in the middle of a gRPC message")
                return None
            event = await self._receive()
            if event["type"] != "http.request":
                raise CallCancelled("the client went away before its request was complete")
            data = event.get("body", b"")
            self.bytes_in += len(data)
            reader.feed(data)
            self._ended = not event.get("more_body", False)

    async def only_message(self) -> bytes:
        """The one message of a unary call; as ``next_message``, and in time.

        Raises:
            InvalidRequest: there is none, or more than one.
            RequestTimeout: the client paused for too long.
        """
        with trio.move_on_after(IDLE_SECONDS):
            message = await self.next_message()
            if message is None:
                raise InvalidRequest("the call has no message")
            if await self.next_message() is not None:
                raise InvalidRequest("a unary call has one message, and more came")
            return message
        raise RequestTimeout(f"the message did not arrive within {IDLE_SECONDS:g} s")

    # -- out ------------------------------------------------------------------

    async def begin(self) -> None:
        """Send the answer's head, so that the client knows that its call was accepted."""
        if not self._begun:
            await self._start()
            await self._body(b"")

    async def send_message(self, payload: bytes) -> None:
        """Send one message; waits while the client takes no more."""
        await self.send_messages([payload])

    async def send_messages(self, payloads: Iterable[bytes]) -> None:
        """Send messages; waits while the client takes no more."""
        if not self._begun:
            await self._start()
        await self._body(b"".join(map(self._packed, payloads)))

    async def finish(
        self,
        status: StatusCode = StatusCode.OK,
        detail: str = "",
        *,
        last: bytes | None = None,
        reason: str = "",
    ) -> None:
        """End the call, after the message ``last`` if there is one."""
        if not self._begun:
            await self._start()
        await self._body(b"" if last is None else self._packed(last), more=False)
        trailers = [(b"grpc-status", b"%d" % status)]
        if detail:
            trailers.append((b"grpc-message", encode_message(detail).encode("ascii")))
        if reason:
            trailers.append((b"prism-reason", reason.encode("ascii")))
        await self._send({"type": "http.response.trailers", "headers": trailers})

    async def fail(self, error: CallError) -> None:
        """End the call with ``error``."""
        await self.finish(error.status, error.detail, reason=error.reason)

    def _packed(self, payload: bytes) -> bytes:
        if self._answer_encoding is not Encoding.IDENTITY and len(payload) >= COMPRESS_FROM:
            return pack(payload, self._answer_encoding)
        return pack(payload)

    async def _start(self) -> None:
        self._begun = True
        headers = [
            (b"content-type", b"application/grpc"),
            (b"grpc-accept-encoding", ACCEPT_ENCODING.encode("ascii")),
        ]
        if self._answer_encoding is not Encoding.IDENTITY:
            headers.append((b"grpc-encoding", self._answer_encoding.encode("ascii")))
        if self.request_id:
            headers.append((b"x-request-id", self.request_id.encode("ascii")))
        start: dict[str, Any] = {
            "type": "http.response.start",
            "status": 200,
            "headers": headers,
            "trailers": True,
        }
        await self._send(start)

    async def _body(self, data: bytes, *, more: bool = True) -> None:
        self.bytes_out += len(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
