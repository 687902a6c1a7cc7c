"""Answers that go on: events as they happen, a plugin's lines as it writes them, its frames.

As server-sent events, or as lines of JSON, whichever is asked for. Who reads too slowly
loses the oldest and is told how many (``lost``). The end comes with the admin port's,
or with the token that was shown.
"""

from collections.abc import Callable

import trio

from prism.contract.errors import InvalidRequest
from prism.frontends import stream_text
from prism.frontends.admin.call import AdminCall
from prism.frontends.stream_text import HEARTBEAT_SECONDS
from prism.server.problems import encode_json
from prism.supervision.events import EVENTS_KEPT, LINES_KEPT, Event, LogLine
from prism.supervision.feeds import Feed, Lost
from prism.supervision.frame_traces import FRAMES_UNREAD, TracedFrame


async def events(call: AdminCall) -> None:
    """What happens to plugins and namespaces, as server-sent events (or NDJSON).

    An event's id is its number: `Last-Event-ID` gives those that were missed.
    """
    wanted = call.query.namespace
    if wanted is not None:
        call.find_plugin(wanted)
    feed = call.proxy.supervisor.events
    recent = max(call.query.tail, _missed(call, feed))
    stream = _Stream(call, stream_text.EVENTS)
    await stream.follow(
        feed,
        recent=recent,
        unread=EVENTS_KEPT,
        wanted=lambda event: wanted is None or event.namespace == wanted,
    )


async def logs(call: AdminCall) -> None:
    """A plugin's last lines, and then each as it comes."""
    feed = call.proxy.supervisor.logs(call.plugin)
    stream = _Stream(call, stream_text.LINES)
    await stream.follow(feed, recent=call.query.tail, unread=LINES_KEPT)


async def frames(call: AdminCall) -> None:
    """The frames between the proxy and a plugin from now on, without the values in them."""
    await _frames(call, payloads=False)


async def payloads(call: AdminCall) -> None:
    """The frames between the proxy and a plugin from now on, with what is in them, shortened;
    credentials are blanked."""
    await _frames(call, payloads=True)


async def _frames(call: AdminCall, *, payloads: bool) -> None:
    traces = call.proxy.supervisor.frames(call.plugin)
    stream = _Stream(call, stream_text.LINES)
    with traces.watch(payloads=payloads) as feed:
        await stream.follow(feed, recent=0, unread=FRAMES_UNREAD)


def _missed(call: AdminCall, feed: Feed[Event]) -> int:
    """How many of the events that are kept came after the last that the client has seen."""
    given = call.headers.get(b"last-event-id", b"")
    if not given:
        return 0
    if not given.isdigit() or len(given) > 19:
        raise InvalidRequest("last-event-id is the number of an event")
    kept = feed.recent()
    seen = int(given)
    if kept and seen > kept[-1].number:
        seen = 0  # it was of another process
    return sum(event.number > seen for event in kept)


class _Stream:
    """One answer; ``default`` is its format where the client takes any."""

    def __init__(self, call: AdminCall, default: bytes) -> None:
        accept = call.headers.get(b"accept", b"").lower()
        kinds = (stream_text.EVENTS, stream_text.LINES)
        self._kind = next((kind for kind in kinds if kind in accept), default)
        self._as_events = self._kind == stream_text.EVENTS
        self._call = call
        self._exchange = call.request.exchange

    async def follow(
        self,
        feed: "Feed[Event] | Feed[LogLine] | Feed[TracedFrame]",
        *,
        recent: int,
        unread: int,
        wanted: Callable[[Event], bool] = lambda _event: True,
    ) -> None:
        """Send what the feed has and gets, until the client leaves or the port closes."""
        with feed.follow(recent=recent, unread=unread) as follower:
            await self._begin()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_with_port, nursery.cancel_scope)
                while not nursery.cancel_scope.cancel_called:
                    item: Event | LogLine | TracedFrame | Lost | None = None
                    with trio.move_on_after(HEARTBEAT_SECONDS):
                        item = await follower.__anext__()
                    if not self._call.may_read():  # the tokens were read anew
                        nursery.cancel_scope.cancel()
                        break
                    if not isinstance(item, Event) or wanted(item):
                        await self._write(self._text(item))
        await self._write(stream_text.END_EVENT if self._as_events else b"")
        await self._exchange.finish()

    async def _end_with_port(self, scope: trio.CancelScope) -> None:
        await self._call.stopping.wait()
        scope.cancel()

    def _text(self, item: Event | LogLine | TracedFrame | Lost | None) -> bytes:
        if item is None:
            return stream_text.BEAT if self._as_events else b""
        if isinstance(item, Lost):
            told = encode_json({"number": item.number})
            if self._as_events:
                return stream_text.event(told, kind=b"lost")
            return stream_text.line(b'{"$lost":%b}' % told)
        data = encode_json(item)
        if not self._as_events:
            return stream_text.line(data)
        if isinstance(item, Event):
            return stream_text.event(data, number=b"%d" % item.number, kind=item.kind.encode())
        kind = b"frame" if isinstance(item, TracedFrame) else b"line"
        return stream_text.event(data, kind=kind)

    async def _begin(self) -> None:
        headers = stream_text.stream_headers(self._kind, self._call.request.request_id)
        await self._exchange.begin(200, headers)
        await self._write(stream_text.BEAT if self._as_events else b"")

    async def _write(self, data: bytes) -> None:
        await self._exchange.write(data)
