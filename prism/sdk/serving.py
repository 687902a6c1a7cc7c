"""``serve``: the whole main program of a plugin process.

How the process meets its host, in this order: ``--connect`` or ``--listen`` on
the command line; ``PRISM_PLUGIN_FD``, the connected socket that a spawning proxy
hands down; ``PLUGIN_SOCKET``, the path of the proxy's socket to dial.

A spawned plugin ends with its connection. One that dials or listens was started by
somebody else, so it outlives its proxy: it dials again, or accepts again, with a new
plugin object each time.
"""

import gc
import importlib.util
import logging
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn

import anyio
from anyio.abc import Listener, SocketAttribute, UNIXSocketStream

from prism.contract.errors import HandshakeFailed, PrismError
from prism.contract.messages import PluginMetrics
from prism.sdk import endpoints
from prism.sdk.byte_streams import ByteStream, SocketStream, WebSocketStream
from prism.sdk.health import TellsHealth
from prism.sdk.options import Options, parse_options
from prism.sdk.plugin import Plugin
from prism.sdk.session import Session
from prism.wire.events import LogRecord, Note

log = logging.getLogger("prism.sdk")

Backend = Literal["trio", "asyncio"]

STOP_GRACE = 25.0
"""Seconds that running calls get after SIGTERM, before they are cancelled."""
FIRST_RETRY = 0.1
LAST_RETRY = 5.0
"""Seconds between attempts to dial; doubled after each up to the last."""
MAX_PENDING = 1000
"""Log records kept for the host; beyond it the oldest are dropped and counted."""
MAX_RECORDS = 100
"""Log records in one NOTE."""
MAX_MESSAGE = 8 * 1024
"""Characters of one log record; longer ones are cut."""
MAX_TEXT = 16 * 1024
"""Characters of log records in one NOTE, whose frame a host may want small."""
LOG_INTERVAL = 0.25
"""Seconds between looks for log records to send."""
GC_THRESHOLD = 10_000
"""Containers made between two searches for cycles of them. Some hundred calls in flight have
as many alive, which the default of 700 takes for garbage, and hardly a call leaves a cycle."""
METRICS_INTERVAL = 10.0
"""Seconds between reports of metrics, sent only when they changed."""


def serve(
    plugin: type[Plugin], argv: Sequence[str] | None = None, *, backend: Backend | None = None
) -> NoReturn:
    """Serve ``plugin`` as this process's only task, then exit.

    ``backend`` is the event loop: ``"asyncio"`` for a plugin whose driver needs
    asyncio, ``"trio"`` for one whose driver needs trio; by default trio where it
    is installed. Exit status: 0 after a clean end, 1 when no host can be served,
    2 for wrong arguments.
    """
    if backend is None:
        backend = "trio" if importlib.util.find_spec("trio") else "asyncio"
    options = parse_options(plugin, sys.argv[1:] if argv is None else argv, os.environ)
    # Neither this plugin's children nor a second serve() may find the socket.
    os.environ.pop(endpoints.FD_VARIABLE, None)
    handler = NoteHandler()
    root = logging.getLogger()
    root.setLevel(options.log_level)
    root.addHandler(handler)
    if options.descriptor is None:
        console = logging.StreamHandler()
        console.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(console)
    try:
        anyio.run(_Server(plugin, options, handler).run, backend=backend)
    except PrismError as error:
        log.error("%s", error)
        code = 1
    else:
        code = 0
    if options.descriptor is not None:
        handler.print_rest()
    sys.exit(code)


def nothing_urgent() -> None:
    """What is urgent waits with the rest: there is no session."""


class NoteHandler(logging.Handler):
    """Keeps log records until a session takes them; from any thread.

    ``on_urgent`` is called for those of level ERROR and above, which may be a process's last
    words: from whichever thread it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on_urgent: Callable[[], None] = nothing_urgent
        self._pending: deque[LogRecord] = deque(maxlen=MAX_PENDING)
        self._dropped = 0
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record; never raises."""
        try:
            message = self.format(record)[:MAX_MESSAGE].encode(errors="replace").decode()
        except Exception:
            self.handleError(record)
            return
        if len(self._pending) == MAX_PENDING:
            self._dropped += 1
        self._pending.append(LogRecord(message, record.levelname, record.name, record.created))
        if record.levelno >= logging.ERROR:
            self.on_urgent()

    def take(self) -> list[LogRecord]:
        """The oldest records, as many as one NOTE takes."""
        records: list[LogRecord] = []
        size = 0
        while self._pending and len(records) < MAX_RECORDS and size < MAX_TEXT:
            records.append(self._pending.popleft())
            size += len(records[-1].message)
        if self._dropped:
            text = f"{self._dropped} log records were dropped: too many at once"
            records.append(LogRecord(text, "WARNING", "prism.sdk"))
            self._dropped = 0
        return records

    def print_rest(self) -> None:
        """Write to standard error what no host has taken."""
        while records := self.take():
            for record in records:
                sys.stderr.write(f"{record.level} {record.logger}: {record.message}\n")


class _Server:
    """Meets hosts as ``options`` say, and serves each a new plugin object."""

    def __init__(
        self, plugin: Callable[[], Plugin], options: Options, handler: NoteHandler
    ) -> None:
        self._plugin = plugin
        self._options = options
        self._handler = handler
        self._stopping = anyio.Event()

    async def run(self) -> None:
        """Serve until there is nothing more to serve, or a signal says so.

        Raises:
            PrismError: this process cannot be of use; the message says why.
        """
        spare_collector()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._stop_on_signal, tasks.cancel_scope)
                try:
                    if self._options.descriptor is not None:
                        await self._serve_inherited(self._options.descriptor)
                    elif self._options.connect is not None:
                        await self._serve_dialled(self._options.connect)
                    else:
                        await self._serve_accepted()
                finally:
                    tasks.cancel_scope.cancel()
        except* PrismError as group:
            raise group.exceptions[0] from None

    async def _stop_on_signal(self, everything: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                if self._stopping.is_set():
                    everything.cancel()
                    return
                log.info("stopping on %s", signal.Signals(number).name)
                self._stopping.set()
                everything.deadline = anyio.current_time() + STOP_GRACE

    async def _serve_session(self, stream: ByteStream) -> Session:
        """Serve one host to its end, or until this process has stopped and drained.

        Raises:
            HandshakeFailed: the host refused the plugin or said no HELLO.
        """
        plugin = self._plugin()
        session = Session(stream, plugin, name=plugin.name, version=plugin.version)
        if isinstance(plugin, TellsHealth):
            plugin.on_health = lambda health: session.note(Note(health=health))
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(report, session, plugin, self._handler)
                tasks.start_soon(self._end_when_drained, session, tasks.cancel_scope)
                await session.run()
                tasks.cancel_scope.cancel()
        except* HandshakeFailed as group:
            raise group.exceptions[0] from None
        return session

    async def _end_when_drained(self, session: Session, scope: anyio.CancelScope) -> None:
        await self._stopping.wait()
        await session.drain("the plugin's process was asked to stop")
        send_logs(session, self._handler)
        scope.cancel()

    async def _serve_inherited(self, descriptor: int) -> None:
        stream = endpoints.inherited(descriptor)
        await self._serve_session(stream)

    async def _serve_dialled(self, address: endpoints.Address) -> None:
        pause = FIRST_RETRY
        told = False
        while not self._stopping.is_set():
            try:
                stream = endpoints.dial(address)
            except OSError as error:
                if not told:
                    log.info("waiting for the proxy at %s (%s)", address, error.strerror or error)
                    told = True
            else:
                told = False
                log.info("dialled %s; one plugin at a time is answered there", address)
                try:
                    session = await self._serve_session(stream)
                    if session.replaced:
                        log.info("another process has taken this one's place; ending")
                        return
                    pause = FIRST_RETRY
                except HandshakeFailed as error:
                    log.error("%s", error)
                    pause = LAST_RETRY
            with anyio.move_on_after(pause):
                await self._stopping.wait()
            pause = min(pause * 2, LAST_RETRY)

    async def _serve_accepted(self) -> None:
        async with (
            await endpoints.listen(self._options) as listener,
            anyio.create_task_group() as sessions,
        ):
            log.info("listening on %s", self._where(listener))
            async with anyio.create_task_group() as accepting:
                accepting.start_soon(listener.serve, self._serve_accepted_stream, sessions)
                await self._stopping.wait()
                accepting.cancel_scope.cancel()
            # Only now: an accept under way would raise, and end the sessions with it.
            await listener.aclose()

    def _where(self, listener: Listener[Any]) -> str:
        where = endpoints.bound_address(listener)
        listen = self._options.listen
        return where.replace("tcp:", "ws:", 1) if listen and listen.is_websocket else where

    async def _opened(self, stream: ByteStream) -> ByteStream:
        """What frames travel in on an accepted connection.

        Raises:
            HandshakeFailed: a WebSocket was expected; the connection is closed.
        """
        if isinstance(stream, UNIXSocketStream):
            return SocketStream(stream.extra(SocketAttribute.raw_socket))  # noqa: S610 - not Django's
        listen = self._options.listen
        if listen is None or not listen.is_websocket:
            return stream
        websocket = WebSocketStream(stream)
        try:
            await websocket.accept()
        except HandshakeFailed:
            await stream.aclose()
            raise
        return websocket

    async def _serve_accepted_stream(self, stream: ByteStream) -> None:
        """Serve one host; whatever it does, the next one can be served."""
        try:
            await self._serve_session(await self._opened(stream))
        except HandshakeFailed as error:
            log.error("%s", error)
        except Exception:
            log.exception("a session failed")


def spare_collector() -> None:
    """Have Python search for cycles seldom, and never among what is here now and stays: such a
    search takes 10 ms in a small plugin, in which no call is answered. A plugin that
    wants it otherwise sets its own threshold."""
    gc.freeze()
    if 0 < gc.get_threshold()[0] < GC_THRESHOLD:
        gc.set_threshold(GC_THRESHOLD)


async def report(session: Session, plugin: Plugin, handler: NoteHandler) -> None:
    """Send logs and changed metrics while the session is up. Runs until cancelled.

    Records of level ERROR leave at once, before the code that logged them goes on: it may be
    about to end the process. Not those of other threads, which may not touch a connection.
    """
    reported: PluginMetrics | None = None
    next_metrics = anyio.current_time() + METRICS_INTERVAL
    here = threading.get_ident()
    sending = False

    def send_now() -> None:
        nonlocal sending
        if sending or threading.get_ident() != here:
            return
        sending = True  # what fails here may be logged as well
        try:
            send_logs(session, handler)
            session.write_now()
        finally:
            sending = False

    handler.on_urgent = send_now
    try:
        while True:
            await anyio.sleep(LOG_INTERVAL)
            send_logs(session, handler)
            if anyio.current_time() >= next_metrics:
                next_metrics = anyio.current_time() + METRICS_INTERVAL
                current = plugin.metrics.snapshot()
                if current != reported and session.takes_notes:
                    session.note(Note(metrics=current))
                    reported = current
    finally:
        if handler.on_urgent is send_now:
            handler.on_urgent = nothing_urgent


def send_logs(session: Session, handler: NoteHandler) -> None:
    """Send what the handler holds, as far as the session takes it."""
    while session.takes_notes and (records := handler.take()):
        session.note(Note(logs=records))
