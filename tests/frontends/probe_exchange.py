"""A request without a server."""

import trio

from prism.server.exchange import Cancelled, Exchange, Headers, Peer, Phase
from prism.streams.tasks import TaskPool


class ProbeExchange(Exchange):
    """A request whose connection is the test: ``feed`` brings its body, and the response is kept.

    ``written`` is the response's body, a part for each write. ``over`` is set when the response
    is complete or broken off, or the client has left.
    """

    def __init__(
        self,
        tasks: TaskPool,
        method: str = "POST",
        target: str | bytes = "/",
        headers: Headers = (),
        *,
        client: str = "192.0.2.1",
    ) -> None:
        super().__init__(
            Peer("http", (client, 5)),
            tasks,
            method.encode(),
            target if isinstance(target, bytes) else target.encode(),
            [(b"host", b"a"), *headers],
            received_all=False,
        )
        self.body = b""
        self.status = 0
        self.response_headers: Headers = []
        self.written: list[bytes] = []
        self.trailers: Headers | None = None
        self.aborted = False
        self.wanted = 0
        self.told: int | None = 0
        self.over = trio.Event()

    def feed(self, data: bytes, *, ended: bool = False) -> None:
        """More of the body, or its end."""
        self.body += data
        self.received_all = ended
        self._tell_received()

    @property
    def received(self) -> int:
        return len(self.body)

    def take(self) -> bytes:
        body, self.body = self.body, b""
        return body

    def want_body(self, declared: int | None = 0) -> None:
        self.wanted += 1
        self.told = declared

    def cancel(self, why: Cancelled) -> None:
        super().cancel(why)
        if self.is_gone:
            self.over.set()

    def respond(
        self, status: int, headers: Headers, body: bytes, trailers: Headers | None = None
    ) -> None:
        if self.is_gone:
            return
        assert self.phase is Phase.WAITING, "answered twice"
        self.phase = Phase.DONE
        self.status, self.response_headers, self.trailers = status, headers, trailers
        self.written.append(b"" if self.method == b"HEAD" else body)
        self.over.set()

    async def begin(self, status: int, headers: Headers) -> None:
        await trio.lowlevel.checkpoint()
        if self.cancelled is None:
            assert self.phase is Phase.WAITING, "answered twice"
            self.phase = Phase.BODY
            self.status, self.response_headers = status, headers

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if not self.is_gone:
            assert self.phase is Phase.BODY
            self.written.append(data)

    async def finish(self, trailers: Headers | None = None) -> None:
        await trio.lowlevel.checkpoint()
        if not self.is_gone:
            assert self.phase is Phase.BODY
            self.phase, self.trailers = Phase.DONE, trailers
            self.over.set()

    def abort(self) -> None:
        if not self.is_gone:
            self.phase, self.aborted = Phase.DONE, True
            self.over.set()
