"""Accept connections, serve them, and stop without losing a request."""

import errno
import math
from collections import Counter
from collections.abc import Sequence

import trio

from prism.calls.deadlines import RECLAIM_PAUSE
from prism.calls.memory import GRACE, Memory
from prism.server.connection import ClientConnection, Stream, client_address
from prism.server.exchange import FrontEnd
from prism.server.forwarded import Client, TrustedProxies
from prism.server.handshakes import Handshakes
from prism.server.http2.implementation import choose
from prism.server.log import logger
from prism.server.settings import ServerSettings
from prism.server.statistics import ServerStatistics
from prism.streams.addresses import Address
from prism.streams.listeners import Listener, bound_address
from prism.streams.tasks import TaskPool

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_ACCEPT_PAUSE = 0.1
"""Seconds to wait when the process has no descriptor left: others must close first."""
AGE_CHECKS = 100
"""How often, in the time that connections may live, their age is looked at."""


class Server:
    """What the connections of one ``serve`` share.

    ``drain_deadline`` is ``None`` until the server is told to stop.
    """

    def __init__(
        self,
        front: FrontEnd,
        settings: ServerSettings,
        tasks: TaskPool,
        statistics: ServerStatistics,
        memory: Memory,
    ) -> None:
        self.front = front
        self.settings = settings
        self.tasks = tasks
        self.handshakes = Handshakes(settings.max_concurrent_handshakes, statistics)
        self.drain_deadline: float | None = None
        self.memory = memory
        self.proxies = TrustedProxies(settings.trusted_proxies, settings.forwarded_header)
        memory.answers.reclaim = self.cancel_stalled
        self._next_reclaim = -math.inf
        self._statistics = statistics
        self._connections: set[ClientConnection] = set()
        self._per_client: Counter[str] = Counter()
        self._place_free = trio.Event()

    async def accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        """Accept connections for ever; each gets a task in ``nursery``."""
        while True:
            await self._wait_for_place()
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                logger.error("cannot accept a connection: %s", error.strerror)
                await trio.sleep(_ACCEPT_PAUSE)
            else:
                self._statistics.accepted += 1
                nursery.start_soon(self._handle, stream)

    def drain(self, deadline: float) -> None:
        """Tell every connection to finish what is in flight by ``deadline``."""
        self.drain_deadline = deadline
        for connection in self._connections:
            connection.drain(deadline)

    def cancel_stalled(self) -> None:
        """There is no room for more answers: drop those whose clients do not take them.

        At most once in a while, since it looks at every connection.
        """
        now = trio.current_time()
        if now >= self._next_reclaim:
            self._next_reclaim = now + RECLAIM_PAUSE
            for connection in list(self._connections):
                connection.cancel_stalled(now - GRACE)

    async def retire_connections(self) -> None:
        """Close connections that have reached their age, for ever."""
        while True:
            await trio.sleep(self.settings.max_connection_age / AGE_CHECKS)
            now = trio.current_time()
            old = [connection for connection in self._connections if connection.retires_at <= now]
            for connection in old:
                connection.retire()
            self._statistics.retired += len(old)

    async def _wait_for_place(self) -> None:
        """Below the limit on connections; at it, the one idle for longest must go."""
        while len(self._connections) >= self.settings.max_connections:
            idle = [item for item in self._connections if item.idle_since is not None]
            if idle:
                min(idle, key=lambda item: item.idle_since or 0.0).shed()
                self._statistics.shed += 1
            if self._place_free.is_set():
                self._place_free = trio.Event()
            with trio.move_on_after(self.settings.goaway_grace):  # others are idle by then
                await self._place_free.wait()

    async def _handle(self, stream: Stream) -> None:
        client = client_address(stream)
        if not self.count_in(client):
            await trio.aclose_forcefully(stream)
            return
        connection = ClientConnection(self, stream, client)
        self._connections.add(connection)
        self._statistics.connections += 1
        try:
            await connection.run()
        finally:
            self._connections.remove(connection)
            self.count_out(connection.client)
            self._statistics.connections -= 1
            self._place_free.set()

    def proxies_of(self, client: Client | None) -> TrustedProxies | None:
        """Who is believed about whose requests ``client`` passes on; ``None``: nobody is."""
        return self.proxies if self.proxies.trusts(client) else None

    def count_in(self, client: Client | None) -> bool:
        """Count one more connection of ``client``; not if it has as many as it may."""
        limit = self.settings.max_connections_per_peer
        if self.proxies.trusts(client):
            limit = self.settings.max_connections  # all of its clients are behind it
        host = client[0] if client is not None else ""
        if client is not None and self._per_client[host] >= limit:
            self._statistics.refused += 1
            return False
        self._per_client[host] += 1
        if self._per_client[host] == limit and client is not None:
            logger.warning("%s has %d connections; more are refused", host, limit)
        return True

    def count_out(self, client: Client | None) -> None:
        """Count one connection of ``client`` less."""
        host = client[0] if client is not None else ""
        self._per_client[host] -= 1
        if not self._per_client[host]:
            del self._per_client[host]


async def serve(
    front: FrontEnd,
    listeners: Sequence[Listener],
    settings: ServerSettings | None = None,
    *,
    shutdown: trio.Event,
    statistics: ServerStatistics | None = None,
    memory: Memory | None = None,
    task_status: trio.TaskStatus[list[Address]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``front`` on ``listeners``, which are closed at the end, until ``shutdown`` is set.

    Then: nothing more is accepted, idle connections close, requests in flight have
    ``graceful_timeout`` seconds; those that need longer are cancelled and, if nothing
    of their response was sent, answered 503. Returns at the latest
    ``send_stall_timeout`` seconds after that, unless a task shields itself.

    ``task_status.started`` gets the bound addresses. ``statistics`` is kept up to date. Requests
    and answers are counted in ``memory``.

    Cancelling closes every connection at once.

    Raises:
        CodecUnavailable: ``settings.http2_codec`` is not there; nothing was accepted.
    """
    settings = settings or ServerSettings()
    choose(settings.http2_codec)
    async with trio.open_nursery() as working:
        server = Server(
            front,
            settings,
            TaskPool(working),
            statistics or ServerStatistics(),
            memory or Memory(),
        )
        async with trio.open_nursery() as handling:
            try:
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(server.accept, listener, handling)
                    if settings.max_connection_age < math.inf:
                        accepting.start_soon(server.retire_connections)
                    task_status.started([bound_address(listener) for listener in listeners])
                    await shutdown.wait()
                    accepting.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True):
                    for listener in listeners:
                        await listener.aclose()
            deadline = trio.current_time() + settings.graceful_timeout
            server.drain(deadline)
            handling.cancel_scope.deadline = deadline + settings.send_stall_timeout
        working.cancel_scope.cancel()  # tasks wait for work, or end what was cancelled
