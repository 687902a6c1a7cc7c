"""An HTTP/2 client connection at work: one byte stream, read and written by its own tasks.

The shape is ``frames.link``'s: callers queue, one task writes, one reads, so that nobody's
cancellation can tear a frame and what many callers queued leaves in one send. The wire
format is the h2 library's.

It sends no PING of its own: gRPC servers end connections that ping more often than every
few minutes. Health checks are calls anyway, and TCP's keep-alive notices a dead peer.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from copy import copy

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trio
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings
from hpack import NeverIndexedHeaderTuple
from hyperframe.frame import Frame, GoAwayFrame

from prism.channels.frames.link import LAST_FRAMES_TIMEOUT, RECEIVE_SIZE, LinkSettings
from prism.channels.grpc.exchange import GrpcExchange, Headers
from prism.contract.errors import (
    CallError,
    ChannelBroken,
    ChannelClosed,
    HandshakeFailed,
    Overloaded,
    PluginCrashed,
    PluginError,
    PluginMisbehaved,
    RemoteProtocolError,
)
from prism.contract.status import StatusCode
from prism.streams.sockets import Sender, receive

log = logging.getLogger("prism.channel")

Header = tuple[str, str] | NeverIndexedHeaderTuple

WINDOW = 256 * 1024
"""Bytes of one call's answer that may be on their way or waiting to be taken."""
CONNECTION_WINDOW = 16 * 1024 * 1024
"""Bytes of all answers on their way; given back as they come, in portions, so that no call
that nobody reads holds up another."""
MAX_HEADERS = 64 * 1024
"""Bytes of an answer's headers or trailers."""
SEND_SIZE = 64 * 1024
"""Body bytes put into frames before they are sent."""
LAST_STREAM = 2**31 - 1
STREAMS_LEFT_TO_LEAVE = 2**16
"""Calls before the last possible one at which the connection asks to be replaced."""


class _Connection(h2.connection.H2Connection):
    def _receive_goaway_frame(
        self, frame: GoAwayFrame
    ) -> tuple[list[Frame], list[h2.events.Event]]:
        """h2 would forbid sending; the calls that the peer still serves need it."""
        event = h2.events.ConnectionTerminated()
        event.last_stream_id = frame.last_stream_id
        event.error_code = frame.error_code
        event.additional_data = frame.additional_data
        return [], [event]


class HTTP2Link:
    """Carries exchanges over ``stream``: ``handshake`` first, then ``run`` in a nursery.

    ``on_leaving`` is called when the peer will take no more calls: with a reason, and whether
    that is an error.
    """

    def __init__(
        self,
        name: str,
        stream: trio.abc.Stream,
        settings: LinkSettings,
        *,
        max_message: int,
        on_leaving: Callable[[str, bool], None],
    ) -> None:
        self.name = name
        self.ended: Exception | None = None
        self._stream = stream
        self._settings = settings
        self._max_message = max_message
        self._on_leaving = on_leaving
        self._exchanges: dict[int, GrpcExchange] = {}
        self._ready: deque[GrpcExchange] = deque()
        self._blocked: dict[int, GrpcExchange] = {}
        self._sender = Sender(stream, settings.send_timeout)
        self._idle_writer = trio.lowlevel.ParkingLot()
        self._flushers = trio.lowlevel.ParkingLot()
        self._settings_came = False
        self._owed = 0  # bytes of the connection's window, not given back yet
        self._leaving = False
        self._end = trio.Event()
        self._scope = trio.CancelScope()
        self._h2 = _Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding=None,
                # The requests' heads are the channel's own, and the same each time.
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                # Of an answer's head a few names are looked up, and nothing is passed on.
                validate_inbound_headers=False,
            )
        )
        announced = {
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
            SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADERS,
        }
        self._h2.local_settings = Settings(client=True, initial_values=announced)
        self._h2.decoder.max_header_list_size = MAX_HEADERS

    # -- life -----------------------------------------------------------------

    async def handshake(self) -> None:
        """Send the preface and await the server's SETTINGS. Cancelling leaves a dead link.

        Raises:
            HandshakeFailed: the peer is no HTTP/2 server, or says nothing in time.
        """
        limit = self._settings.handshake_timeout
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW)
        try:
            with trio.fail_after(limit):
                while not self._settings_came:
                    await self._stream.send_all(self._h2.data_to_send())
                    data = await self._stream.receive_some(RECEIVE_SIZE)
                    if not data:
                        raise HandshakeFailed(f"{self.name} closed the connection at once")
                    self._receive(bytes(data))
        except trio.TooSlowError:
            raise HandshakeFailed(
                f"{self.name} sent no HTTP/2 SETTINGS within {limit:g} seconds"
            ) from None
        except RemoteProtocolError as error:
            raise HandshakeFailed(f"{self.name} does not speak HTTP/2: {error}") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            cause = error.__cause__ or error
            raise HandshakeFailed(
                f"{self.name} went away during the handshake ({cause})"
            ) from error

    async def run(self) -> None:
        """Carry calls until the link ends. Returns then; raises only Cancelled."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._write)
        except* Exception:
            log.exception("bug in the link to %s", self.name)
            self.finish(ChannelBroken("internal error; the proxy's log has the cause"))
        finally:
            self.finish(ChannelClosed(f"the channel to {self.name} was closed"))
            await trio.aclose_forcefully(self._stream)

    def finish(self, reason: Exception) -> None:
        """End the link and its calls; the first reason given is the one that counts."""
        if self.ended is None:
            self.ended = reason
            for exchange in self._forget_all():
                exchange.fail(PluginCrashed(f"{self.name} went away during the call: {reason}"))
            self._end.set()
            self._flushers.unpark_all()
        self._scope.cancel()

    async def aclose(self) -> None:
        """Say GOAWAY, if the peer reads on, and close. Never raises.

        Cancelling leaves out the GOAWAY only.
        """
        try:
            if self.ended is None and self._settings_came:
                self._leaving = True
                self._h2.close_connection()
                self._idle_writer.unpark()
                with trio.move_on_after(LAST_FRAMES_TIMEOUT):
                    await self._flushers.park()
        finally:
            self.finish(ChannelClosed(f"the channel to {self.name} was closed"))
            await trio.aclose_forcefully(self._stream)

    async def wait_ended(self) -> Exception:
        """Wait for the end of the link; returns its reason."""
        await self._end.wait()
        assert self.ended is not None  # noqa: S101 - set before the event
        return self.ended

    # -- calls ----------------------------------------------------------------

    @property
    def open_exchanges(self) -> int:
        """Calls whose answer is not complete."""
        return len(self._exchanges)

    @property
    def unsent(self) -> int:
        """Bytes of messages that the peer gives no window for, or did not get yet."""
        return sum(len(exchange.unsent) for exchange in (*self._ready, *self._blocked.values()))

    def open(self, headers: Iterable[Header], *, spare: bool = False) -> GrpcExchange:
        """Begin a request, which leaves with what is queued on it; names are in lower case.

        The last of the requests that the peer takes at a time is for those that are ``spare``.

        Raises:
            Overloaded: the peer takes no more calls now; this one never ran.
        """
        if self._leaving:
            raise Overloaded(f"{self.name} drains and starts no more calls")
        if not spare and len(self._exchanges) >= max(
            1, self._h2.remote_settings.max_concurrent_streams - 1
        ):
            raise Overloaded(f"{self.name} takes no more calls now")
        stream_id = self._h2.get_next_available_stream_id()
        try:
            self._h2.send_headers(stream_id, headers)
        except h2.exceptions.TooManyStreamsError:
            raise Overloaded(f"{self.name} takes no more calls now") from None
        exchange = GrpcExchange(self, stream_id, WINDOW, self._max_message)
        self._exchanges[stream_id] = exchange
        if stream_id >= LAST_STREAM - 2 * STREAMS_LEFT_TO_LEAVE:
            self._leave("the connection's stream ids are nearly used up")
        return exchange

    def wake_writer(self) -> None:
        """There may be something to send; where one call is open there is nothing to
        collect, and it is sent at once."""
        if self._idle_writer and len(self._exchanges) <= 1:
            self._fill()
            if self._sender.send_now(self._h2.data_to_send()) and not self._ready:
                return
        self._idle_writer.unpark()

    def send(self, exchange: GrpcExchange) -> None:
        """``exchange`` has something to send."""
        if not exchange.is_queued:
            self._queue(exchange)
            self.wake_writer()

    def give_window(self, stream_id: int, size: int) -> None:
        """Let the peer send ``size`` more bytes on a stream."""
        try:
            self._h2.increment_flow_control_window(size, stream_id)
        except h2.exceptions.ProtocolError:
            return  # the peer has ended or reset it meanwhile
        self.wake_writer()

    def reset(self, stream_id: int, *, cancelled: bool) -> None:
        """RST_STREAM: nobody waits any more, or the peer broke the rules."""
        if self._forget(stream_id) is None or self.ended is not None:
            return
        self._reset_stream(stream_id, ErrorCodes.CANCEL if cancelled else ErrorCodes.PROTOCOL_ERROR)

    def cancel_calls(self, error: CallError) -> None:
        """Cancel all exchanges; who waits for one gets ``error``."""
        for exchange in self._forget_all():
            self._reset_stream(exchange.stream_id, ErrorCodes.CANCEL)
            exchange.fail(copy(error))

    def _forget(self, stream_id: int) -> GrpcExchange | None:
        self._blocked.pop(stream_id, None)
        return self._exchanges.pop(stream_id, None)

    def _forget_all(self) -> list[GrpcExchange]:
        exchanges = list(self._exchanges.values())
        self._exchanges.clear()
        self._blocked.clear()
        return exchanges

    def _reset_stream(self, stream_id: int, code: ErrorCodes) -> None:
        try:
            self._h2.reset_stream(stream_id, code)
        except h2.exceptions.ProtocolError:
            return  # closed meanwhile
        self.wake_writer()

    def _leave(self, reason: str, *, failed: bool = False) -> None:
        if not self._leaving:
            self._leaving = True
            self._on_leaving(reason, failed)

    # -- reading --------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while data := await receive(self._stream, RECEIVE_SIZE):
                self._receive(data)
                self.wake_writer()
        except RemoteProtocolError as error:
            self.finish(error)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.finish(ChannelBroken(f"the connection broke ({error.__cause__ or error})"))
        else:
            self.finish(ChannelBroken("it closed the connection"))

    def _receive(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            raise RemoteProtocolError(f"HTTP/2: {error or type(error).__name__}") from error
        for event in events:
            match event:
                case h2.events.RemoteSettingsChanged():
                    self._settings_came = True
                    self._unblock()
                case h2.events.WindowUpdated():
                    self._unblock()
                case h2.events.ResponseReceived():
                    if (exchange := self._exchanges.get(event.stream_id)) is not None:
                        exchange.on_headers(_as_text(event.headers))
                case h2.events.DataReceived():
                    self._on_data(event)
                case h2.events.TrailersReceived():
                    if (exchange := self._exchanges.get(event.stream_id)) is not None:
                        exchange.on_trailers(_as_text(event.headers))
                case h2.events.StreamEnded():
                    self._on_end(event.stream_id)
                case h2.events.StreamReset():
                    self._on_reset(event.stream_id, event.error_code)
                case h2.events.ConnectionTerminated():
                    self._on_goaway(event)

    def _unblock(self) -> None:
        """They may send again, once all that came together is known: it may end them."""
        self._ready.extend(self._blocked.values())
        self._blocked.clear()

    def _on_data(self, event: h2.events.DataReceived) -> None:
        size = event.flow_controlled_length
        self._owed += size
        if self._owed >= CONNECTION_WINDOW // 4:
            self._h2.increment_flow_control_window(self._owed)
            self._owed = 0
        if (exchange := self._exchanges.get(event.stream_id)) is not None:
            exchange.on_data(event.data, size)

    def _on_end(self, stream_id: int) -> None:
        exchange = self._forget(stream_id)
        if exchange is None:
            return
        exchange.on_end()
        if not exchange.sent_end:
            # Answered before we had sent all: the rest is of no use to anybody.
            self._reset_stream(stream_id, ErrorCodes.CANCEL)

    def _on_reset(self, stream_id: int, code: ErrorCodes | int) -> None:
        if (exchange := self._forget(stream_id)) is not None:
            exchange.fail(self._meaning_of(code))

    def _meaning_of(self, code: ErrorCodes | int) -> CallError:
        """A reset as gRPC reads it (gRPC over HTTP/2, "Errors")."""
        if code == ErrorCodes.REFUSED_STREAM:
            return Overloaded(f"{self.name} refused the call before it began")
        if code == ErrorCodes.CANCEL:
            return PluginError(StatusCode.CANCELLED, "the plugin cancelled the call")
        if code == ErrorCodes.ENHANCE_YOUR_CALM:
            return PluginError(StatusCode.RESOURCE_EXHAUSTED, "the plugin asks for fewer calls")
        return PluginMisbehaved(f"{self.name} reset the call ({_name_of(code)})")

    def _on_goaway(self, event: h2.events.ConnectionTerminated) -> None:
        served = event.last_stream_id
        said = (event.additional_data or b"").decode("ascii", "replace")[:200]
        for stream_id in [key for key in self._exchanges if served is not None and key > served]:
            if (exchange := self._forget(stream_id)) is not None:
                exchange.fail(Overloaded(f"{self.name} went away before it began the call"))
        failed = event.error_code != ErrorCodes.NO_ERROR
        if failed:
            said = f"{_name_of(event.error_code)} {said}".rstrip()
        self._leave(said or "it sent GOAWAY", failed=failed)

    # -- writing --------------------------------------------------------------

    async def _write(self) -> None:
        try:
            while True:
                self._fill()
                data = self._h2.data_to_send()
                if data or self._sender.unsent:
                    await self._sender.send(data)
                else:
                    self._flushers.unpark_all()
                    await self._idle_writer.park()
        except trio.TooSlowError:
            seconds = self._settings.send_timeout
            self.finish(ChannelBroken(f"it read nothing for {seconds:g} seconds"))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # What the peer sent before it went may say more: the reader first.
            await trio.sleep(LAST_FRAMES_TIMEOUT)
            self.finish(ChannelBroken(f"the connection broke ({error.__cause__ or error})"))

    def _queue(self, exchange: GrpcExchange) -> None:
        exchange.is_queued = True
        self._ready.append(exchange)

    def _fill(self) -> None:
        """Put one portion of body bytes into frames; calls take turns, a frame each."""
        portion = SEND_SIZE
        while self._ready and portion > 0:
            exchange = self._ready.popleft()
            portion -= self._write_frame(exchange)

    def _write_frame(self, exchange: GrpcExchange) -> int:
        """One DATA frame of ``exchange``, if the peer's window allows; returns its size."""
        exchange.is_queued = False
        if exchange.ended:
            return 0
        unsent, stream_id = exchange.unsent, exchange.stream_id
        size = 0
        try:
            if unsent:
                window = self._h2.local_flow_control_window(stream_id)
                size = min(len(unsent), window, self._h2.max_outbound_frame_size)
                if size <= 0:
                    exchange.is_queued = True
                    self._blocked[stream_id] = exchange
                    return 0
            end = exchange.unsent_ends and size == len(unsent)
            self._h2.send_data(stream_id, bytes(unsent[:size]), end_stream=end)
        except h2.exceptions.ProtocolError:
            return 0  # its end has come, and is about to be told
        exchange.has_sent(size, end=end)
        if unsent:
            self._queue(exchange)
        return size


def _name_of(code: ErrorCodes | int | None) -> str:
    return next((known.name for known in ErrorCodes if known == code), f"error {code}")


def _as_text(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """By name; of a repeated one the last counts, as none that gRPC reads repeats."""
    return {
        bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in headers
    }
