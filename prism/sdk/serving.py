"""``serve``: the whole main program of a plugin process.

How the process meets its host, in this order: ``--connect`` or ``--listen`` on
the command line; ``PRISM_PLUGIN_FD``, the connected socket that a spawning proxy
hands down; ``PLUGIN_SOCKET``, the path of the proxy's socket to dial.

A spawned plugin ends with its connection. One that dials or listens belongs to
whoever started it, so it outlives its proxy: it dials again, or accepts again,
with a new plugin object each time.
"""

import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn

import anyio
from anyio.abc import Listener, UNIXSocketStream

from prism.contract.errors import HandshakeFailed, PrismError
from prism.sdk import endpoints
from prism.sdk.options import Options, parse_options
from prism.sdk.plugin import Plugin
from prism.sdk.reporting import NoteHandler, report, send_logs
from prism.sdk.session import ByteStream, Session
from prism.sdk.websocket import WebSocketStream

log = logging.getLogger("prism.sdk")

Backend = Literal["trio", "asyncio"]

STOP_GRACE = 25.0
"""Seconds that running calls get after SIGTERM, before they are cancelled."""
FIRST_RETRY = 0.1
LAST_RETRY = 5.0
"""Seconds between attempts to dial; doubled after each up to the last."""


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
        stream = await endpoints.inherited(descriptor)
        await self._serve_session(stream)

    async def _serve_dialled(self, address: endpoints.Address) -> None:
        pause = FIRST_RETRY
        told = False
        while not self._stopping.is_set():
            try:
                stream: UNIXSocketStream = await endpoints.dial(address)
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
