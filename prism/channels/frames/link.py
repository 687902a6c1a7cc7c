"""A frame connection at work: one byte stream, read and written by tasks of its own.

One task reads, one writes (`streams.outlet`), one pings. Nothing but the outlet ever sends, so
nobody's cancellation can tear a frame, and the frames that many callers queued in one turn leave
in one send. What one read brings is handled in one turn, so that the answers in it reach each
client's connection together.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf

import trio

from prism.channels.frames.tap import FrameTap, Sender
from prism.contract.errors import (
    ChannelAged,
    ChannelBroken,
    ChannelClosed,
    HandshakeFailed,
    LocalProtocolError,
    RemoteProtocolError,
    SaidNothing,
)
from prism.streams.errors import ConnectionAged
from prism.streams.outlet import Outlet, begin_turn, end_turn
from prism.streams.sockets import receive
from prism.wire import ConnectionState, handshake
from prism.wire.connection import Connection
from prism.wire.events import Event, Fault, GoAway, Hello, Ping
from prism.wire.frames import Frame
from prism.wire.parts import Pieces

log = logging.getLogger("prism.channel")

_CLOSED = ConnectionState.CLOSED  # for each read: on Python 3.11 an enum's attribute costs a call

RECEIVE_SIZE = 64 * 1024
"""Bytes asked of the stream at a time ..."""
LARGE_RECEIVE = 256 * 1024
"""... and at most, where a large frame has begun: some more than a socket holds."""
LAST_FRAMES_TIMEOUT = 1.0
"""Seconds for the last frames: a GOAWAY that says why, or what is still queued."""
LOOKS_PER_INTERVAL = 2
"""Looks whether the peer has been heard, per ping interval."""


@dataclass(frozen=True, kw_only=True)
class LinkSettings:
    """The time limits of a link, in seconds.

    Args:
        handshake_timeout: for the plugin's HELLO to arrive.
        frame_timeout: for a frame to arrive whole once it has begun.
        send_timeout: for the peer to read what was written.
        ping_interval: of silence before a ping; silence for two intervals ends
            the link.
    """

    handshake_timeout: float = 10.0
    frame_timeout: float = 10.0
    send_timeout: float = 10.0
    ping_interval: float = 10.0


class FrameLink:
    """Carries a host's ``Connection`` over ``stream``.

    ``handshake`` first; then ``run`` in a nursery, until the link ends. Events go
    to ``on_event``, mistakes that are forgiven to ``on_fault``, the end to ``on_end``, and
    ``on_taken`` is told when queued bytes were taken to be written: all from the link's own
    tasks, so they must not block.
    """

    def __init__(
        self,
        name: str,
        stream: trio.abc.Stream,
        connection: Connection,
        settings: LinkSettings,
        on_event: Callable[[Event], None],
        on_end: Callable[[Exception], None],
        on_taken: Callable[[], None],
        on_fault: Callable[[Fault], None],
    ) -> None:
        self.name = name
        self.ended: Exception | None = None
        self._stream = stream
        self._connection = connection
        self._settings = settings
        self._on_event = on_event
        self._on_end = on_end
        self._on_taken = on_taken
        self._on_fault = on_fault
        # Where one call is open there is nobody to wait for.
        self._outlet = Outlet(
            stream, self, settings.send_timeout, lambda: connection.open_streams <= 1
        )
        self.wake = self._outlet.wake
        self._runs = False
        self._last_heard = 0.0
        self._heard = False
        self._tap: FrameTap | None = None
        self._end = trio.Event()
        self._scope = trio.CancelScope()

    # -- life -----------------------------------------------------------------

    async def handshake(self) -> Hello:
        """Await the plugin's HELLO and answer it. Cancelling leaves a dead channel.

        Raises:
            HandshakeFailed: the plugin said nothing in time, went away, broke
                the protocol, or speaks another version.
        """
        limit = self._settings.handshake_timeout
        try:
            with trio.fail_after(limit):
                offer = await self._receive_hello()
                try:
                    reply = handshake.answer(offer, self._connection.local_hello)
                except HandshakeFailed as refusal:
                    self._connection.send(GoAway(0, str(refusal)))
                    await self._send_last_frames()
                    raise
                self._connection.send(reply)
                await self._send_queued()
        except trio.TooSlowError:
            raise HandshakeFailed(
                f"{self.name} did not begin the handshake within {limit:g} seconds"
            ) from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            cause = error.__cause__ or error
            raise HandshakeFailed(
                f"{self.name} went away during the handshake ({cause})"
            ) from error
        self._last_heard = trio.current_time()
        self._heard = True
        return offer

    async def _receive_hello(self) -> Hello:
        while True:
            try:
                event = self._connection.next_event()
            except RemoteProtocolError as error:
                await self._send_last_frames()
                raise HandshakeFailed(
                    f"{self.name} does not speak the frame protocol: {error}"
                ) from error
            if isinstance(event, Hello):
                return event
            if isinstance(event, GoAway):
                raise HandshakeFailed(f"{self.name} refused: {event.reason}")
            if self._connection.state is ConnectionState.CLOSED:
                over_tls = isinstance(self._stream, trio.SSLStream)
                hint = "; does it want a client certificate (tls.cert)?" if over_tls else ""
                raise SaidNothing(
                    f"{self.name} closed the connection before it had said anything{hint}"
                )
            data = await self._stream.receive_some(RECEIVE_SIZE)
            if self._tap is not None:
                self._tap.received(data)
            self._connection.receive_data(data)

    async def _send_last_frames(self) -> None:
        """Say why this is the end. That a plugin did not stay to hear it is not the reason."""
        with suppress(trio.BrokenResourceError):
            await self._send_queued()

    async def _send_queued(self) -> None:
        while data := self._connection.data_to_send():
            if self._tap is not None:
                self._tap.sent(data)
            await self._stream.send_all(data)

    async def run(self) -> None:
        """Carry frames until the link ends. Returns then; raises only Cancelled."""
        try:
            with self._scope:
                self._runs = True
                async with trio.open_nursery() as nursery:
                    for task in (self._read, self._write, self._ping):
                        nursery.start_soon(self._run_task, task)
        finally:
            self.finish(ChannelClosed(f"the channel to {self.name} was closed"))
            await trio.aclose_forcefully(self._stream)

    async def _run_task(self, task: Callable[[], Awaitable[None]]) -> None:
        """A bug in one of the tasks ends this link, and nothing else."""
        try:
            await task()
        except Exception:
            log.exception("bug in the link to %s", self.name)
            self.finish(ChannelBroken("internal error; the proxy's log has the cause"))

    def finish(self, reason: Exception) -> None:
        """End the link; the first reason given is the one that counts."""
        self._settle(reason)
        self._scope.cancel()

    def _settle(self, reason: Exception) -> None:
        """From now on the link counts as ended, though its tasks may still run."""
        if self.ended is None:
            self.ended = reason
            self._on_end(reason)
            self._end.set()

    async def aclose(self) -> None:
        """Write what is queued, if the peer reads on, and close. Never raises.

        Cancelling leaves out the writing only.
        """
        try:
            await self._flush()
        finally:
            self.finish(ChannelClosed(f"the channel to {self.name} was closed"))
            await trio.aclose_forcefully(self._stream)

    async def wait_ended(self) -> Exception:
        """Wait for the end of the link; returns its reason."""
        await self._end.wait()
        assert self.ended is not None  # noqa: S101 - set before the event
        return self.ended

    def send(self, event: Event) -> None:
        """Queue one event and see that it leaves.

        Raises:
            LocalProtocolError, PayloadTooLarge: nothing was queued.
        """
        self._connection.send(event)
        self._outlet.wake()

    def take(self) -> bytes | Pieces:
        """For the outlet: what is to be sent next."""
        data = self._connection.pieces_to_send()
        if data:
            if self._tap is not None:
                self._tap.sent(data)
            self._on_taken()
        return data

    # -- who looks on -----------------------------------------------------------

    def tap(self, publish: Callable[[Sender, Frame], None]) -> None:
        """Have ``publish`` told each frame from now on. Plain code, between two reads."""
        connection = self._connection
        self._tap = FrameTap(publish, connection.bytes_begun, connection.bytes_missing)

    def untap(self) -> None:
        """Nobody looks any more."""
        self._tap = None

    # -- the three tasks ------------------------------------------------------

    async def _read(self) -> None:
        timeout = self._settings.frame_timeout
        try:
            with trio.CancelScope() as whole_frame:
                await self._read_frames(whole_frame)
            if whole_frame.cancelled_caught:
                raise RemoteProtocolError(f"a frame took more than {timeout:g} seconds to arrive")
        except RemoteProtocolError as error:
            # No call may touch a connection that is closed; what is queued may leave.
            self._settle(error)
            await self._flush()
            self.finish(error)
        except ConnectionAged as error:
            self.finish(ChannelAged(f"the connection was {error}"))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.finish(ChannelBroken(f"the connection broke ({error.__cause__ or error})"))

    async def _read_frames(self, whole_frame: trio.CancelScope) -> None:
        connection = self._connection
        is_watched = False  # trio's scope takes some time to be told of a deadline
        while connection.state is not _CLOSED:
            size = min(max(RECEIVE_SIZE, connection.bytes_missing), LARGE_RECEIVE)
            data = await receive(self._stream, size)
            if self._tap is not None:
                self._tap.received(data)
            connection.receive_data(data)
            self._last_heard = trio.current_time()
            self._heard = True
            has_ended = self._take_events()
            if not connection.mid_frame:
                if is_watched:
                    whole_frame.deadline = inf
                    is_watched = False
            elif has_ended or not is_watched:  # the one that is incomplete is new
                whole_frame.deadline = self._last_heard + self._settings.frame_timeout
                is_watched = True
        self.finish(ChannelBroken("it closed the connection"))

    def _take_events(self) -> bool:
        """Deal with all that has come; returns whether any frame has."""
        connection = self._connection
        own_turn = begin_turn(self._last_heard)
        any_came = False
        try:
            # An error is raised only once all that came before it was handed out.
            while events := connection.next_events():
                any_came = True
                for event in events:
                    if type(event) is not Ping:
                        self._on_event(event)
                    elif not event.ack:
                        connection.send(Ping(event.token, ack=True))
            if connection.faults:
                self._take_faults()
            if connection.queued_bytes:
                self._outlet.wake()
        finally:
            if own_turn:
                end_turn()
        return any_came

    def _take_faults(self) -> None:
        faults, self._connection.faults = self._connection.faults, []
        for fault in faults:
            self._on_fault(fault)

    def refuse(self, what: str) -> None:
        """End the link for a broken rule, which the peer is told. From the link's own reader.

        Raises:
            RemoteProtocolError: always; the reader knows what to do.
        """
        with suppress(LocalProtocolError):
            self._connection.send(GoAway(self._connection.last_peer_stream, what))
        raise RemoteProtocolError(what)

    async def _write(self) -> None:
        try:
            await self._outlet.run()
        except trio.TooSlowError:
            seconds = self._settings.send_timeout
            self.finish(ChannelBroken(f"it read nothing for {seconds:g} seconds"))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # What the peer sent before it went may say more: the reader first.
            await trio.sleep(LAST_FRAMES_TIMEOUT)
            self.finish(ChannelBroken(f"the connection broke ({error.__cause__ or error})"))

    async def _flush(self) -> None:
        """Wait, within limits, until everything queued has been written."""
        if not self._runs:
            return  # nobody writes: the handshake has failed
        with trio.move_on_after(LAST_FRAMES_TIMEOUT):
            await self._outlet.wait_flushed()

    async def _ping(self) -> None:
        """Ask a peer that is silent, and end the link with one that stays so.

        Silence is counted in looks: after a pause of this process itself (SIGSTOP, a
        frozen container) the clock would blame peers that nobody has listened to.
        """
        interval = self._settings.ping_interval
        token = silent_looks = 0
        while True:
            await trio.sleep(interval / LOOKS_PER_INTERVAL)
            silent_looks = 0 if self._heard else silent_looks + 1
            self._heard = False
            if silent_looks >= 2 * LOOKS_PER_INTERVAL:
                silence = trio.current_time() - self._last_heard
                self.finish(ChannelBroken(f"it was silent for {silence:.0f} seconds"))
            elif silent_looks and self.ended is None:
                token = (token + 1) % 2**32
                self.send(Ping(token))
