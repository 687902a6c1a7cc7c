"""A TCP proxy before a server, which a test can cut, or have swallow everything."""

import socket

import trio


class FaultProxy:
    """Listens on ``port``. ``hold``: nothing passes. ``cut``: the connections there are, break.
    ``refuse``: new ones are closed at once."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.connections = 0
        self.refuse = False
        self._scopes: set[trio.CancelScope] = set()
        self._passing = trio.Event()
        self._passing.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, self._serve, 0)
            self.port = listeners[0].socket.getsockname()[1]
            task_status.started()

    @property
    def open(self) -> int:
        """Connections that there are."""
        return len(self._scopes)

    def hold(self) -> None:
        self._passing = trio.Event()

    def release(self) -> None:
        self._passing.set()

    def cut(self) -> None:
        for scope in list(self._scopes):
            scope.cancel()

    async def _serve(self, client: trio.SocketStream) -> None:
        if self.refuse:
            return
        self.connections += 1
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                server = await trio.open_tcp_stream("127.0.0.1", self.target)
                async with server, trio.open_nursery() as nursery:
                    nursery.start_soon(self._copy, client, server, scope)
                    nursery.start_soon(self._copy, server, client, scope)
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                self._scopes.discard(scope)
        # With what the peer has not read yet: as a link that breaks.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async def _copy(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        async for data in source:
            await self._passing.wait()
            await sink.send_all(data)
        scope.cancel()
